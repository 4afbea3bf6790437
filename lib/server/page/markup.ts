export const MARKUP = `
<header>
  <h1>millrace</h1>
  <div><label for="model">Model</label><select id="model"></select></div>
  <p id="status" class="who" role="status"></p>
</header>
<main>
  <section aria-labelledby="chat-title">
    <h2 id="chat-title">Chat</h2>
    <div id="log" role="log" aria-live="polite" aria-label="Conversation" tabindex="0"></div>
    <form id="ask">
      <label for="prompt">Message (Enter sends, Shift+Enter makes a line)</label>
      <textarea id="prompt" rows="3" required></textarea>
      <div class="row">
        <button class="main" id="send" type="submit">Send</button>
        <button id="stop" type="button" disabled>Stop</button>
        <button id="clear" type="button">New chat</button>
        <span id="speed" class="who" role="status"></span>
      </div>
      <details>
        <summary>Settings</summary>
        <div class="settings">
          <div><label for="temperature">Temperature</label><input id="temperature" type="number" min="0" max="100" step="0.1"></div>
          <div><label for="top_p">Top p</label><input id="top_p" type="number" min="0" max="1" step="0.05"></div>
          <div><label for="top_k">Top k</label><input id="top_k" type="number" min="0" step="1"></div>
          <div><label for="min_p">Min p</label><input id="min_p" type="number" min="0" max="1" step="0.01"></div>
          <div><label for="max_tokens">Most tokens</label><input id="max_tokens" type="number" min="1" step="1"></div>
          <div><label for="seed">Seed</label><input id="seed" type="number" step="1"></div>
          <div class="wide"><label for="system">System message</label><textarea id="system" rows="2"></textarea></div>
          <div class="wide"><label for="tools">Tools (JSON, as the API takes them)</label><textarea id="tools" rows="2" spellcheck="false"></textarea></div>
          <div class="wide"><label for="key">API key, where the server wants one</label><input id="key" type="password" autocomplete="off"></div>
        </div>
      </details>
    </form>
  </section>
  <section aria-labelledby="live-title">
    <h2 id="live-title">What it does now</h2>
    <div id="live"><p class="who">Waiting for the first figures.</p></div>
    <p class="legend" aria-label="Homes of weights">
      <span><span class="key resident"></span>resident</span><span><span class="key streamed"></span>streamed</span>
      <span><span class="key cpu"></span>CPU</span><span><span class="key shared"></span>shared</span>
    </p>
  </section>
</main>
`
