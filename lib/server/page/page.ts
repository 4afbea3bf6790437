/** The page at /: one document, no request to anywhere else, and a policy that lets nothing else in. */
import { createHash } from 'node:crypto'
import { startChat } from './chat.ts'
import { makeUi } from './dom.ts'
import { MARKUP } from './markup.ts'
import { startPicture } from './picture.ts'
import { STYLE } from './style.ts'

const SCRIPT = `'use strict';
const ui = (${makeUi})();
(${startChat})(ui);
(${startPicture})(ui);
`

const hashOf = (text: string) => `'sha256-${createHash('sha256').update(text).digest('base64')}'`

export const PAGE = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>millrace</title>
<link rel="icon" href="data:,">
<style>${STYLE}</style>
</head>
<body>${MARKUP}<script>${SCRIPT}</script></body>
</html>
`

export const PAGE_HEADERS = {
  'content-type': 'text/html; charset=utf-8',
  'content-security-policy': [
    "default-src 'none'",
    `script-src ${hashOf(SCRIPT)}`,
    `style-src ${hashOf(STYLE)}`,
    "connect-src 'self'",
    'img-src data:',
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join('; '),
  'x-content-type-options': 'nosniff',
  'referrer-policy': 'no-referrer',
  'cache-control': 'no-cache',
}
