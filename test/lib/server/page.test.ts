/** The page, in Debian's chromium. */
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { load, type Model } from '../../../lib/index.ts'
import type { Server } from '../../../lib/server/index.ts'
import { MODELS } from '../../models.ts'
import { hasBrowser, type OpenPage, openPage } from './browser.ts'
import { DEMO, post, start } from './server.ts'

const STORIES = join(MODELS, 'stories260k')

describe.skipIf(!hasBrowser)('with a streamed model', () => {
  let model: Model
  let server: Server
  let opened: OpenPage
  let page: OpenPage['page']
  const open = async (options: Parameters<typeof openPage>[1] = {}) => {
    opened = await openPage(server.url, options)
    page = opened.page
  }
  beforeAll(async () => {
    model = await load(DEMO, { device: 'cpu', threads: 1, placement: 'streamed', ring: 2 })
    server = await start({ models: { demo: model, still: STORIES }, lazy: true })
  })
  afterAll(async () => {
    await server.close(0)
    await model.close()
  })
  beforeEach(() => open())
  afterEach(() => page.close())

  test('a chat; the ring that turns is that of model.stats', async () => {
    const before = model.stats.streaming.units
    await page.locator('details > summary', { hasText: 'Settings' }).click()
    await page.getByLabel('Most tokens').fill('40')
    await page.getByLabel(/^Message/).fill('Tell me a story.')
    await page.keyboard.press('Enter')
    await expect
      .poll(() => page.locator('#speed').textContent(), { timeout: 30_000 })
      .toMatch(/^40 tokens, [\d.]+ tokens/)
    const expected = await model.chat([{ role: 'user', content: 'Tell me a story.' }], { maxTokens: 40 }).result
    expect(await page.locator('.turn.assistant .text').textContent()).toBe(expected.text)
    await expect
      .poll(() => page.locator('.ring').first().getAttribute('data-units'), { timeout: 10_000 })
      .toBe(String(model.stats.streaming.units))
    expect(model.stats.streaming.units).toBeGreaterThan(before)
    expect(await page.locator('.ring').first().getAttribute('data-bytes')).toBe(
      String(model.stats.streaming.copiedBytes),
    )
    expect(await page.locator('.unit.streamed').count()).toBe(
      model.plan.units.filter(({ home }) => home === 'streamed').length,
    )
    await opened.picture('chat')
    expect(opened.problems).toEqual([])
  })

  test('no ring of a model that streams nothing, no figures of one that is not loaded', async () => {
    const card = page.locator('.card', { has: page.getByRole('heading', { name: 'still' }) })
    await expect.poll(() => card.locator('.who').first().textContent()).toMatch(/^cold/)
    for (const part of ['.units', '.ring', 'dl', 'progress']) expect(await card.locator(part).isVisible()).toBe(false)
    await post(server, '/v1/completions', { model: 'still', prompt: 'a', max_tokens: 1 })
    await expect.poll(() => card.locator('dl').isVisible(), { timeout: 20_000 }).toBe(true)
    expect(await card.locator('.ring').isVisible()).toBe(false)
    expect(await page.locator('.ring').first().isVisible()).toBe(true)
  })

  test('a stop ends the request', async () => {
    // Beside others, or on a busy machine the story would be over before the page has drawn its first words.
    const over = new AbortController()
    const options = { maxTokens: 900, ignoreEos: true, signal: over.signal, speculation: { method: 'off' } } as const
    const others = Array.from({ length: 12 }, () => model.generate('Once', options).result.catch(() => {}))
    // As soon as there is a text: a short story would be over before a click came through.
    await page.evaluate(`new MutationObserver(() => {
      if (document.querySelector('.turn.assistant .text')) document.getElementById('stop').click()
    }).observe(document.getElementById('log'), { childList: true, subtree: true })`)
    // A story that is over before anything is drawn of it cannot be stopped: then another.
    const stopped = () => expect.poll(() => page.locator('#speed').textContent(), { timeout: 8_000 }).toBe('Stopped')
    for (let story = 1; ; story++) {
      await page.getByLabel(/^Message/).fill('Tell me a story.')
      await page.getByRole('button', { name: 'Send', exact: true }).click()
      const missed = await stopped().then(
        () => undefined,
        (error: unknown) => error,
      )
      if (missed === undefined) break
      if (story === 4) throw missed
    }
    over.abort()
    await Promise.all(others)
    await expect.poll(() => model.stats.sequences.running, { timeout: 10_000 }).toBe(0)
  })

  const messagesOfNext = () =>
    page
      .waitForRequest(/chat.completions/)
      .then((request) => (request.postDataJSON() as { messages: object[] }).messages)

  test('a new chat knows nothing of the answer that it cut short', async () => {
    await page.locator('details > summary', { hasText: 'Settings' }).click()
    await page.evaluate(`new MutationObserver(() => {
      if (document.querySelector('.turn.assistant .text')) document.getElementById('clear').click()
    }).observe(document.getElementById('log'), { childList: true, subtree: true })`)
    await page.getByLabel(/^Message/).fill('Tell me a story.')
    await page.keyboard.press('Enter')
    await expect.poll(() => page.locator('#stop').isDisabled(), { timeout: 20_000 }).toBe(true)
    const messages = messagesOfNext()
    await page.getByLabel(/^Message/).fill('Hello')
    await page.keyboard.press('Enter')
    expect(await messages).toEqual([{ role: 'user', content: 'Hello' }])
  })

  test('a call that was cut short is told, and not sent again', async () => {
    const call = { index: 0, id: 'call_1', function: { name: 'weather', arguments: '{"city": "Ha' } }
    const body = `data: ${JSON.stringify({ choices: [{ index: 0, delta: { tool_calls: [call] }, finish_reason: null }] })}\n\n`
    await page.route('**/v1/chat/completions', (route) => route.fulfill({ contentType: 'text/event-stream', body }), {
      times: 1,
    })
    await page.getByLabel(/^Message/).fill('Is it raining?')
    await page.keyboard.press('Enter')
    expect(await page.getByRole('alert').textContent()).toBe('The connection was cut')
    expect(await page.locator('.results').count()).toBe(0)
    const messages = messagesOfNext()
    await page.getByLabel(/^Message/).fill('Hello')
    await page.keyboard.press('Enter')
    expect(JSON.stringify(await messages)).not.toContain('tool_calls')
  })

  test('an error of the server is told', async () => {
    await page.locator('details > summary', { hasText: 'Settings' }).click()
    await page.getByLabel(/^Tools/).fill('[{ "type": "custom" }]')
    await page.getByLabel(/^Message/).fill('Hello')
    await page.keyboard.press('Enter')
    expect(await page.getByRole('alert').textContent()).toContain('tools[0].type')
    // What nobody answered is there to be sent again, once.
    await expect.poll(() => page.getByLabel(/^Message/).inputValue()).toBe('Hello')
    await page.getByLabel(/^Tools/).fill('')
    const messages = messagesOfNext()
    await page.getByLabel(/^Message/).press('Enter')
    expect(await messages).toEqual([{ role: 'user', content: 'Hello' }])
  })

  test('at 400 px, and in the dark, nothing is wider than the window', async () => {
    for (const colorScheme of ['light', 'dark'] as const) {
      await page.close()
      await open({ viewport: { width: 400, height: 800 }, colorScheme })
      await page.locator('details > summary', { hasText: 'Settings' }).click()
      const width = await page.evaluate('document.documentElement.scrollWidth')
      expect(width).toBeLessThanOrEqual(400)
      await opened.picture(`narrow-${colorScheme}`)
    }
  })

  test('by keyboard alone, every control has a name', async () => {
    for (const element of await page.locator('button, input, select, textarea').all()) {
      const name = await element.evaluate(
        (node) =>
          (node as unknown as { labels?: { length: number } }).labels?.length || (node.textContent ?? '').trim().length,
      )
      expect(name).toBeGreaterThan(0)
    }
    await page.locator('#prompt').focus()
    await page.keyboard.press('Tab')
    expect(await page.evaluate('document.activeElement.id')).toBe('send')
  })
})

test('the page asks nobody else, and lets nothing else in', async () => {
  const { PAGE, PAGE_HEADERS } = await import('../../../lib/server/page/page.ts')
  expect(PAGE).not.toMatch(/(src|href)="(?!data:,)/)
  expect(PAGE).not.toMatch(/https?:\/\//)
  expect(PAGE_HEADERS['content-security-policy']).toContain("default-src 'none'; script-src 'sha256-")
  expect(PAGE_HEADERS['content-security-policy']).not.toContain('unsafe')
})
