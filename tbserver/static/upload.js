// An image on its way to the server, in parts: what broke off goes on where it was.
"use strict";

const PART = 4 << 20;
const PLACE = "/api/v1/uploads";
const form = document.getElementById("upload");
const bar = form.querySelector("progress");
const words = form.querySelector("[role=status]");

async function ask(method, place, body) {
  const headers = { "X-CSRF-Token": form.dataset.csrf };
  if (typeof body === "string") headers["Content-Type"] = "application/json";
  const answer = await fetch(PLACE + place, { method, headers, body });
  const said = await answer.json();
  if (!answer.ok) throw new Error(`${said.error}. ${said.remedy}`);
  return said;
}

function show(text, done) {
  words.textContent = text;
  bar.hidden = done === undefined;
  if (done !== undefined) bar.value = done;
}

async function send(file) {
  const sum = new Digest();
  for (let at = 0; at < file.size; at += PART) {
    show("It is read …", at / file.size / 4);
    sum.update(new Uint8Array(await file.slice(at, at + PART).arrayBuffer()));
  }
  const begun = await ask("POST", "", JSON.stringify({ digest: sum.hex(), size: file.size }));
  for (let at = begun.received; at < file.size; at += PART) {
    show("It is sent …", 0.25 + (0.7 * at) / file.size);
    await ask("PATCH", `/${begun.id}?offset=${at}`, file.slice(at, at + PART));
  }
  show("It is checked …", 0.97);
  return ask("POST", `/${begun.id}/finish`);
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    const made = await send(form.elements.image.files[0]);
    location.assign(`/releases/${made.release_id}`);
  } catch (error) {
    words.classList.add("refused");
    show(`It was not taken: ${error.message}`);
    button.disabled = false;
  }
});

// SHA-256 (FIPS 180-4) of bytes that come in parts, which browsers do not offer.
const primes = [];
for (let n = 2; primes.length < 64; n++) if (primes.every((p) => n % p)) primes.push(n);
const fraction = (x) => ((x - Math.floor(x)) * 2 ** 32) | 0;
const K = Int32Array.from(primes, (p) => fraction(Math.cbrt(p)));

class Digest {
  #state = Int32Array.from(primes.slice(0, 8), (p) => fraction(Math.sqrt(p)));
  #block = new Uint8Array(64);
  #words = new Int32Array(64);
  #held = 0;
  #length = 0;

  update(bytes) {
    this.#length += bytes.length;
    for (let at = 0; at < bytes.length; ) {
      const some = bytes.subarray(at, at + 64 - this.#held);
      this.#block.set(some, this.#held);
      at += some.length;
      this.#held += some.length;
      if (this.#held === 64) this.#mix();
    }
  }

  hex() {
    const bits = this.#length * 8;
    const padding = new Uint8Array(((119 - this.#held) % 64) + 9);
    padding[0] = 0x80;
    const view = new DataView(padding.buffer);
    view.setUint32(padding.length - 8, Math.floor(bits / 2 ** 32));
    view.setUint32(padding.length - 4, bits >>> 0);
    this.update(padding);
    return Array.from(this.#state, (word) => (word >>> 0).toString(16).padStart(8, "0")).join("");
  }

  #mix() {
    const w = this.#words;
    const view = new DataView(this.#block.buffer);
    for (let i = 0; i < 16; i++) w[i] = view.getInt32(i * 4);
    for (let i = 16; i < 64; i++) {
      const a = w[i - 15];
      const b = w[i - 2];
      const s0 = ((a >>> 7) | (a << 25)) ^ ((a >>> 18) | (a << 14)) ^ (a >>> 3);
      const s1 = ((b >>> 17) | (b << 15)) ^ ((b >>> 19) | (b << 13)) ^ (b >>> 10);
      w[i] = (w[i - 16] + s0 + w[i - 7] + s1) | 0;
    }
    let [a, b, c, d, e, f, g, h] = this.#state;
    for (let i = 0; i < 64; i++) {
      const s1 = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7));
      const t1 = (h + s1 + ((e & f) ^ (~e & g)) + K[i] + w[i]) | 0;
      const s0 = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10));
      const t2 = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + t1) | 0, c, b, a, (t1 + t2) | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((word, i) => (this.#state[i] = (this.#state[i] + word) | 0));
    this.#held = 0;
  }
}
