/**
 * Debian's chromium, or that of MILLRACE_CHROMIUM; tests are skipped, with a word, where there is none.
 * MILLRACE_SCREENSHOTS: a folder for pictures.
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { type Browser, chromium, type Page } from 'playwright-core'
import { afterAll } from 'vitest'

const CHROMIUM = process.env.MILLRACE_CHROMIUM ?? '/usr/bin/chromium'
export const hasBrowser = existsSync(CHROMIUM)
if (!hasBrowser) process.stderr.write(`tests of the page are skipped: there is no ${CHROMIUM} (MILLRACE_CHROMIUM)\n`)

let browser: Promise<Browser> | undefined
afterAll(async () => (await browser)?.close())

export interface OpenPage {
  page: Page
  /** What the page's scripts came to grief by. */
  problems: string[]
  picture(name: string): Promise<void>
}

/** The server's page, once it has figures. */
export async function openPage(url: string, options: Parameters<Browser['newPage']>[0] = {}): Promise<OpenPage> {
  browser ??= chromium.launch({ executablePath: CHROMIUM, args: ['--no-sandbox'] })
  const page = await (await browser).newPage({ viewport: { width: 1280, height: 860 }, ...options })
  const problems: string[] = []
  page.on('pageerror', (error) => problems.push(error.message))
  page.on('console', (message) => {
    if (message.type() === 'error') problems.push(message.text())
  })
  await page.goto(url)
  await page.waitForSelector('.card')
  const folder = process.env.MILLRACE_SCREENSHOTS
  return {
    page,
    problems,
    picture: async (name) => {
      if (folder !== undefined) await page.screenshot({ path: join(folder, `${name}.png`), fullPage: true })
    },
  }
}
