// What is asked of the server: with the token, if there is one; and the stream of looks, which begins again by itself.

const TOKEN = "inbound-audit-token";
const FIRST_PAUSE_S = 0.5;
const LONGEST_PAUSE_S = 15;
const SILENCE_S = 60; // the server writes a comment now and then: a connection that is silent for so long is dead

let token = stored();

function stored() {
  try {
    return sessionStorage.getItem(TOKEN);
  } catch {
    return null; // the browser keeps nothing: the token holds until the page is left
  }
}

export function useToken(value) {
  token = value;
  try {
    sessionStorage.setItem(TOKEN, value);
  } catch {
    // as above
  }
}

export class Refused extends Error {
  constructor(status, body) {
    super(body.error ?? `The server answers ${status}.`);
    this.status = status;
    this.confirm = body.confirm === true;
  }
}

// A proxy may ask for a login of its own: what the browser adds for it (same origin alone) goes with each request.
async function ask(path, options = {}) {
  const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
  const reply = await fetch(path, { ...options, headers, cache: "no-store" });
  if (!reply.ok) throw new Refused(reply.status, await reply.json().catch(() => ({})));
  return reply;
}

// Raises Refused, and TypeError where there is no connection.
export const get = async (path, signal) => (await ask(path, { signal })).json();

export async function post(path, body) {
  const headers = { "Content-Type": "application/json" };
  return (await ask(path, { method: "POST", headers, body: JSON.stringify(body) })).json();
}

export class Stream {
  // on.event(name, data); on.lost(sentence, seconds until the next try); on.unauthorized(sentence)
  constructor(on) {
    this.on = on;
  }

  // Follows another source; the one before ends.
  open(path) {
    this.path = path;
    this.ended?.abort();
    this.ended = new AbortController();
    this.follow(this.ended.signal);
  }

  again() {
    this.open(this.path);
  }

  async follow(signal) {
    let pause = FIRST_PAUSE_S;
    while (!signal.aborted) {
      let sentence = "The server has ended the connection.";
      try {
        await this.read(signal, () => (pause = FIRST_PAUSE_S));
      } catch (error) {
        if (signal.aborted) return;
        if (error.status === 401) return this.on.unauthorized(error.message);
        sentence = error instanceof Refused ? error.message : "The server can't be reached.";
      }
      if (signal.aborted) return;
      const seconds = pause * (0.8 + 0.4 * Math.random()); // pages that lost a server together come back one by one
      this.on.lost(sentence, seconds);
      await new Promise((done) => setTimeout(done, 1000 * seconds));
      pause = Math.min(LONGEST_PAUSE_S, 1.6 * pause);
    }
  }

  async read(signal, received) {
    const attempt = new AbortController();
    const stop = () => attempt.abort();
    signal.addEventListener("abort", stop);
    let silence = setTimeout(stop, 1000 * SILENCE_S);
    try {
      const { body } = await ask(this.path, { signal: attempt.signal });
      const reader = body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done || signal.aborted) return;
        clearTimeout(silence);
        silence = setTimeout(stop, 1000 * SILENCE_S);
        const blocks = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
        rest = blocks.pop();
        for (const block of blocks) if (this.hand(block)) received();
      }
    } finally {
      clearTimeout(silence);
      signal.removeEventListener("abort", stop);
    }
  }

  hand(block) {
    let name = "message";
    let data = "";
    for (const line of block.split("\n")) {
      if (line.startsWith("event:")) name = line.slice(6).trim();
      else if (line.startsWith("data:")) data += line.slice(5);
    }
    if (data) this.on.event(name, JSON.parse(data));
    return data !== "";
  }
}
