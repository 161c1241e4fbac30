// Try: a typed prompt, and the answers as they are written.

async function ask() {
  const text = find(".ar-box").value;
  const knob = (name) => find(`[name=${name}]`);
  if (!text.trim() || !find(".ar-form").reportValidity()) return;
  halt();
  const own = { stop: new AbortController(), text, ask: null, columns: [], texts: [], done: false };
  trying = own;
  complain("");
  find(".ar-after").hidden = true;
  find(".ar-try .ar-columns").replaceChildren();
  find("[data-act=stop]").disabled = false;
  try {
    const reply = await fetch("/api/arena/ask", { method: "POST", headers: { "Content-Type": "application/json" },
      signal: own.stop.signal, body: JSON.stringify({ text, temperature: Number(knob("temperature").value),
        max_new_tokens: Number(knob("max_new_tokens").value), seed: Number(knob("seed").value),
        blind: knob("blind").checked }) });
    if (!reply.ok) throw new Error((await reply.json()).error);
    for await (const line of linesOf(reply.body)) if (trying === own) heard(own, line);
    if (trying === own && !own.done && !own.failed) throw new Error(words.broken);
  } catch (error) {
    if (trying === own && error.name !== "AbortError") complain(error instanceof TypeError ? words.offline : error.message);
  } finally {
    if (trying === own) {
      find("[data-act=stop]").disabled = true;
      own.columns.forEach((one) => one.classList.remove("ar-writing"));
    }
  }
}

async function* linesOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part);
  }
}

function heard(own, line) {
  if (line.error) {
    own.failed = true;
    complain(line.error);
  } else if (line.ask) {
    own.ask = line.ask;
    own.texts = Array(line.places).fill("");
    own.columns = own.texts.map((_, i) => column(line.names ? line.names[i] : LETTERS[i],
      make("span", "ar-facts", status?.child?.state === "ready" ? words.writing : words.waiting), [textOf("")]));
    own.columns.forEach((one) => one.classList.add("ar-writing"));
    find(".ar-try .ar-columns").replaceChildren(...own.columns);
  } else if (line.done) {
    own.done = true;
    after(own, line);
  } else {
    const box = own.columns[line.place];
    const last = line.tokens !== undefined;
    own.texts[line.place] = line.whole || last ? line.text : own.texts[line.place] + line.text;
    write(box.querySelector(".pl-text"), own.texts[line.place]);
    box.querySelector(".ar-facts").textContent = last ? words.tokens(line.tokens) : words.writing;
    if (!last) return;
    box.classList.remove("ar-writing");
    if (!own.texts[line.place].trim()) box.append(make("div", "ar-note", words.empty));
    if (!line.ended) box.append(make("div", "ar-note", words.cut));
  }
}

function after(own, { same, before, votable }) {
  find(".ar-after").hidden = false;
  find(".ar-after .pl-hint").textContent =
    same ? words.allSame : before ? words.before : votable ? words.finished : words.noneLeft;
  const blind = LETTERS.includes(own.columns[0].querySelector(".ar-name").textContent);
  if (!blind && !same) find(".ar-after").hidden = true;
  find("[data-act=reveal]").hidden = !blind;
  find("[data-act=rank]").hidden = !votable;
  // Enter ranks them, unless another prompt is being typed.
  if (votable && find(".ar-box").value === own.text) find("[data-act=rank]").focus({ preventScroll: true });
}

function halt() {
  trying?.stop.abort();
}

async function reveal() {
  if (!trying?.ask) return;
  const own = trying;
  const reply = await asked("/api/arena/reveal", { ask: own.ask });
  if (!reply || trying !== own) return;
  own.columns.forEach((one, i) => (one.querySelector(".ar-name").textContent = `${LETTERS[i]} · ${reply.names[i]}`));
  find(".ar-after").hidden = true;
}
