export const STYLE = `
:root { color-scheme: light dark; --bg: #fbfaf8; --fg: #1d2125; --soft: #5b636b; --line: #d5d2cc; --card: #fff; --accent: #0b62a8;
  --resident: #1b7f4d; --streamed: #b35c00; --cpu: #6b4fbb; --shared: #0b62a8; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --bg: #14171a; --fg: #e7e9eb; --soft: #a3abb3; --line: #353b41; --card: #1c2125; --accent: #6cb6f2;
  --resident: #55c98c; --streamed: #f0a04b; --cpu: #ab95f0; --shared: #6cb6f2; --bad: #ff8a80; } }
* { box-sizing: border-box; }
[hidden] { display: none !important; }
body { margin: 0; font: 16px/1.5 system-ui, sans-serif; background: var(--bg); color: var(--fg); }
header { display: flex; flex-wrap: wrap; gap: .5rem 1rem; align-items: center; padding: .6rem 1rem; border-bottom: 1px solid var(--line); }
h1 { font-size: 1.1rem; margin: 0; letter-spacing: .02em; }
h2 { font-size: 1rem; margin: 0 0 .5rem; }
h3 { font-size: .95rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
main { display: grid; grid-template-columns: minmax(0, 3fr) minmax(0, 2fr); gap: 1rem; align-items: start; padding: 1rem; max-width: 90rem; margin: 0 auto; }
@media (max-width: 56rem) { main { grid-template-columns: minmax(0, 1fr); padding: .6rem; } }
section, .card { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .8rem; min-width: 0; }
.card { margin-bottom: .8rem; }
#log { height: 48vh; min-height: 14rem; overflow-y: auto; display: flex; flex-direction: column; gap: .6rem; padding: .2rem; }
.turn { border-left: 3px solid var(--line); padding-left: .6rem; }
.turn.user { border-color: var(--accent); }
.who { font-size: .8rem; color: var(--soft); }
.text { white-space: pre-wrap; overflow-wrap: anywhere; }
.call, .thought { font-size: .9rem; margin: .3rem 0; }
.thought { color: var(--soft); }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .2rem 0; font-size: .85rem; background: var(--bg); border: 1px solid var(--line); border-radius: .3rem; padding: .4rem; }
.error { color: var(--bad); overflow-wrap: anywhere; }
label { display: block; font-size: .85rem; color: var(--soft); margin-bottom: .3rem; }
input, select, textarea, button { font: inherit; color: inherit; background: var(--bg); border: 1px solid var(--line); border-radius: .35rem; padding: .35rem .5rem; max-width: 100%; }
textarea { width: 100%; resize: vertical; }
button { cursor: pointer; }
button.main { background: var(--accent); border-color: var(--accent); color: var(--bg); font-weight: 600; }
button:disabled { opacity: .5; cursor: default; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.row { display: flex; flex-wrap: wrap; gap: .5rem; align-items: center; margin-top: .5rem; }
#ask { margin-top: .8rem; }
#ask > details { margin-top: .6rem; }
.results { display: flex; flex-wrap: wrap; gap: .5rem; align-items: end; margin-top: .3rem; }
.settings { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: .5rem; margin-top: .5rem; }
.settings .wide { grid-column: 1 / -1; }
.settings input { width: 100%; }
.units { display: flex; flex-wrap: wrap; gap: 2px; margin: .4rem 0; }
.unit { width: 11px; height: 15px; border-radius: 2px; border: 1px solid transparent; }
.unit.resident, .key.resident { background: var(--resident); }
.unit.streamed, .key.streamed { background: repeating-linear-gradient(45deg, var(--streamed) 0 3px, transparent 3px 5px); border-color: var(--streamed); }
.unit.cpu, .key.cpu { background: transparent; border: 2px solid var(--cpu); }
.unit.shared, .key.shared { background: linear-gradient(var(--shared) 50%, transparent 50%); border-color: var(--shared); }
.unit.now { outline: 2px solid var(--fg); }
.key { display: inline-block; width: 11px; height: 11px; border: 1px solid transparent; border-radius: 2px; margin-right: .3rem; }
.legend { font-size: .85rem; color: var(--soft); display: flex; flex-wrap: wrap; gap: .2rem .8rem; }
.ring { display: flex; gap: .8rem; align-items: center; }
.ring svg { width: 84px; height: 84px; flex: none; }
.ring circle { fill: none; stroke: var(--line); stroke-width: 8; }
.ring .hand { stroke: var(--streamed); stroke-linecap: round; transition: transform .45s linear; transform-origin: 50% 50%; }
@media (prefers-reduced-motion: reduce) { .ring .hand { transition: none; } }
dl { display: grid; grid-template-columns: auto 1fr; gap: .1rem .8rem; margin: .3rem 0 0; font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
progress { width: 100%; height: .5rem; accent-color: var(--accent); }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
`
