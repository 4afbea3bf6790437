/// <reference lib="dom" />

import type { Ui } from './dom.ts'
import type { LiveModel, LiveReport } from './live.ts'

/** The live picture: where weights are, the ring that they pass through, queues, caches and the link. */
export function startPicture(ui: Ui): void {
  const { byId, make, request, events } = ui
  const live = byId('live')
  const status = byId('status')
  const select = byId<HTMLSelectElement>('model')
  type Card = ReturnType<typeof makeCard>
  const cards = new Map<string, Card>()
  const HAND = 56

  const bytes = (value: number) => {
    const units = ['B', 'kB', 'MB', 'GB', 'TB']
    let at = 0
    let left = value
    while (left >= 1000 && at < units.length - 1) {
      left /= 1000
      at++
    }
    return `${left.toFixed(left < 10 && at > 0 ? 1 : 0)} ${units[at]}`
  }

  function makeCard(name: string) {
    const box = make('div', 'card')
    const title = make('h3', '', name)
    const state = make('p', 'who')
    const units = make('div', 'units')
    units.setAttribute('role', 'img')
    const ring = make('div', 'ring')
    ring.innerHTML =
      '<svg viewBox="0 0 100 100" role="img" aria-label="Ring of streamed weights"><circle cx="50" cy="50" r="40"></circle><circle class="hand" cx="50" cy="50" r="40"></circle></svg>'
    const hand = ring.querySelector<SVGCircleElement>('.hand')!
    const around = 2 * Math.PI * 40
    hand.setAttribute('stroke-dasharray', `${HAND} ${around - HAND}`)
    const ringText = make('p', 'who')
    ring.append(ringText)
    const figures = make('dl')
    const kv = make('progress')
    kv.setAttribute('aria-label', `KV cache of ${name}`)
    kv.max = 1
    box.append(title, state, units, ring, figures, kv)
    live.append(box)
    const rows = new Map<string, HTMLElement>()
    const figure = (label: string, value: string) => {
      let row = rows.get(label)
      if (!row) {
        row = make('dd')
        figures.append(make('dt', '', label), row)
        rows.set(label, row)
      }
      row.textContent = value
    }
    let shown = ''
    let before: { at: number; model: LiveModel } | undefined

    const showUnits = (model: LiveModel) => {
      const homes = model.homes.map(({ home }) => home)
      if (homes.join() !== shown) {
        shown = homes.join()
        units.replaceChildren(...model.homes.map(({ home }) => make('span', `unit ${home}`)))
        const counts = [...new Set(homes)].map((home) => `${homes.filter((one) => one === home).length} ${home}`)
        units.setAttribute('aria-label', `Homes of ${homes.length} units: ${counts.join(', ')}`)
      }
    }
    const showRing = (model: LiveModel) => {
      const streamed = model.homes.flatMap(({ home }, index) => (home === 'streamed' ? [index] : []))
      ring.hidden = streamed.length === 0
      if (streamed.length === 0) return
      const { units: passed, copiedBytes } = model.streaming
      ring.dataset.units = String(passed)
      ring.dataset.bytes = String(copiedBytes)
      // As far as the pass: one turn of the hand is one pass over the model.
      hand.style.transform = `rotate(${(passed / streamed.length) * 360}deg)`
      const now = streamed[passed % streamed.length]!
      for (const [index, cell] of [...units.children].entries())
        cell.classList.toggle('now', index === now && model.running > 0)
      ringText.textContent = `${passed.toLocaleString()} units have passed, ${bytes(copiedBytes)} in all; the ring holds ${bytes(model.ringBytes)}`
    }

    return {
      box,
      show(model: LiveModel) {
        const now = performance.now()
        state.textContent = `${model.state}${model.asleep ? ', asleep' : ''}${model.device ? `, ${model.device}` : ''}`
        const loaded = model.state === 'ready'
        units.hidden = figures.hidden = kv.hidden = !loaded
        if (!loaded) {
          ring.hidden = true
          before = undefined
          return
        }
        showUnits(model)
        showRing(model)
        figure('Requests', `${model.running} running, ${model.waiting} waiting, ${model.leases} held`)
        figure('KV cache', `${model.kv.blocksUsed} of ${model.kv.blocksTotal} blocks, ${model.preemptions} preemptions`)
        figure('Prefix cache', `${(model.prefixHitRate * 100).toFixed(0)} % of prompt tokens found`)
        kv.value = model.kv.blocksTotal > 0 ? model.kv.blocksUsed / model.kv.blocksTotal : 0
        const seconds = before ? (now - before.at) / 1000 : 0
        if (before && seconds > 0) {
          const last = before.model
          figure('Tokens/s', ((model.rows - last.rows) / seconds).toFixed(1))
          figure('Busy', `${Math.min(100, (model.stepMs - last.stepMs) / seconds / 10).toFixed(0)} % of the time`)
          const copied = model.streaming.copiedBytes - last.streaming.copiedBytes
          figure('Link', `${bytes(copied / seconds)}/s`)
        }
        if (model.homes.some(({ home }) => home === 'shared')) {
          figure('Arena', `${model.arena.switches} switches, ${bytes(model.arena.copiedBytes)} brought`)
        }
        figure('Memory', `${bytes(model.hostBytes)} RAM${model.vramBytes > 0 ? `, ${bytes(model.vramBytes)} GPU` : ''}`)
        before = { at: now, model }
      },
    }
  }

  function show({ models, switches }: LiveReport): void {
    if (cards.size === 0) live.replaceChildren()
    for (const model of models) {
      let card = cards.get(model.name)
      if (!card) {
        card = makeCard(model.name)
        cards.set(model.name, card)
        select.append(new Option(model.name, model.name))
      }
      card.show(model)
    }
    const ready = models.filter(({ state }) => state === 'ready').length
    const told = `${ready} of ${models.length} models loaded${switches > 0 ? `, ${switches} gave way to others` : ''}`
    if (status.textContent !== told) status.textContent = told
  }

  async function watch(): Promise<void> {
    for (;;) {
      try {
        for await (const report of events(await request('live')) as unknown as AsyncGenerator<LiveReport>) show(report)
      } catch (error) {
        const { name, message } = error as Error
        status.textContent = name === '401' ? 'The server wants a key: it goes into Settings' : `No figures: ${message}`
      }
      await new Promise((resolve) => setTimeout(resolve, 1000))
    }
  }
  void watch()
}
