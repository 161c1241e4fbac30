// Look: the held-out prompts as a list, and one prompt's answers in columns. Of the list only what can be seen stands in
// the page, so that a thousand prompts are as quick as ten.

const LINE = 36; // the height of a line of the list, as in arena.css
const AROUND = 12; // lines beyond either end of what is seen
const WISHES = { only: ".ar-only", order: ".ar-order", judge: ".ar-judge", stratum: ".ar-stratum-of", set: ".ar-set" }; // selects by what they ask for

let asking = 0; // lists that were asked for: a reply to an earlier wish is passed over
let anew = false; // the next list is shown from its beginning, and not where the prompt that is shown now stands

async function list(quietly = false) {
  const own = ++asking;
  const against = Number(find(".ar-against").value || -1);
  const wishes = Object.fromEntries(Object.entries(WISHES).map(([name, select]) => [name, find(select).value]));
  const reply = await asked("/api/arena/list", { text: find(".ar-search").value, against, ...wishes });
  if (!reply || view !== "look" || own !== asking) return;
  const number = anew ? undefined : shown?.number;
  anew = false;
  lines = reply.lines;
  drawChoices(reply, against);
  at = Math.max(0, lines.findIndex((line) => line.number === number));
  drawList();
  if (!lines.length) {
    shown = null;
    find(".ar-look .ar-columns").replaceChildren();
    find(".ar-look .pl-turns").replaceChildren();
  } else if (!quietly || !shown || shown.answers.some((one) => one.texts === null)) look(at);
}

function drawChoices(reply, against) {
  const known = reply.judges.length > 0;
  for (const [select, needs] of [[".ar-order", ["worse", "better"]], [".ar-only", ["worse"]]])
    find(select).querySelectorAll("option").forEach((option) =>
      (option.hidden = option.disabled = !known && needs.includes(option.value)));
  choose(".ar-against", reply.names.length > 2, reply.names.slice(1).map((name, i) => [i + 1, words.against(brief(name))]));
  find(".ar-against").value = against < 0 ? reply.names.length - 1 : against;
  choose(".ar-judge", reply.judges.length > 1, reply.judges.map((name) => [name, words.judged(brief(name))]));
  choose(".ar-set", reply.sets.length > 1, [["", words.allSets], ...reply.sets.map((name) => [name, name])]);
  choose(".ar-stratum-of", reply.strata.length > 1, [["", words.allStrata], ...reply.strata.map((name) => [name, name])]);
}

function choose(selector, offered, options) {
  const select = find(selector);
  select.hidden = !offered;
  if (select.options.length === options.length) return;
  const before = select.value;
  select.replaceChildren(...options.map(([value, name]) => new Option(name, value)));
  if (options.some(([value]) => String(value) === before)) select.value = before;
}

// Of a run folder its own name.
const brief = (name) => name.replace(/\/+$/, "").split("/").at(-1);

function drawList() {
  find(".ar-list").scrollTop = 0;
  drawLines();
  find(".ar-place").textContent = words.place(at + 1, lines.length);
  find(".ar-empty").hidden = lines.length > 0;
  find(".ar-empty").textContent = status?.prompts ? words.noMatch : words.noPrompts;
}

function drawLines() {
  const box = find(".ar-list");
  const first = Math.max(0, Math.floor(box.scrollTop / LINE) - AROUND);
  const last = Math.min(lines.length, Math.ceil((box.scrollTop + (box.clientHeight || 600)) / LINE) + AROUND);
  box.style.setProperty("--above", `${first * LINE}px`);
  box.style.setProperty("--below", `${(lines.length - last) * LINE}px`);
  const focused = box.contains(document.activeElement) && document.activeElement.dataset.line;
  box.replaceChildren(...lines.slice(first, last).map((line, i) => lineOf(line, first + i)));
  if (focused) box.querySelector(`[data-line="${focused}"]`)?.focus({ preventScroll: true });
}

function lineOf(line, i) {
  const item = make("li", "");
  item.setAttribute("aria-setsize", lines.length);
  item.setAttribute("aria-posinset", i + 1);
  const button = make("button", "");
  button.type = "button";
  button.dataset.line = i;
  button.setAttribute("aria-current", String(i === at));
  const gap = make("span", `ar-gap${line.gap < 0 ? " ar-lost" : ""}`,
    !line.complete ? "…" : line.same ? "=" : line.gap === null ? "" : signed(line.gap));
  const title = make("span", "");
  write(title, line.title);
  button.append(make("span", "ar-number", line.number + 1), title, make("span", "ar-mark", words.marks[line.mark] || ""), gap);
  item.append(button);
  return item;
}

const signed = (gap) => (Number.isInteger(gap) ? `${gap > 0 ? "+" : ""}${gap}` : `${gap > 0 ? "+" : ""}${gap.toFixed(2)}`);

async function look(place) {
  if (!lines.length) return;
  at = Math.max(0, Math.min(place, lines.length - 1));
  find(".ar-place").textContent = words.place(at + 1, lines.length);
  inSight(at);
  const { number } = lines[at];
  const reply = await asked("/api/arena/look", { number });
  if (!reply || view !== "look" || lines[at]?.number !== number) return;
  shown = reply;
  drawPrompt();
}

// Scrolls the list, and never the page.
function inSight(place) {
  const box = find(".ar-list");
  box.scrollTop = Math.min(place * LINE, Math.max(box.scrollTop, (place + 1) * LINE - box.clientHeight));
  drawLines();
}

function drawPrompt() {
  find(".ar-stratum").textContent = [shown.set === "held out" ? "" : shown.set, shown.stratum].filter(Boolean).join(" · ");
  find(".ar-diff").setAttribute("aria-pressed", String(diffing));
  find(".ar-look .pl-turns").replaceChildren(...shown.conversation.map(turnOf));
  const [first] = shown.answers;
  find(".ar-look .ar-columns").replaceChildren(...shown.answers.map((one) => answered(one, first)));
}

// What is known of text k: its length, its KL from the baseline, and what each judge gave.
function facts(one, k, baseline) {
  const made = make("span", "ar-facts");
  const tokens = one.tokens[k];
  made.append(tokens === undefined ? words.letters(one.texts[k].length) : words.tokens(tokens));
  if (!baseline && typeof one.kl[k] === "number") made.append(` · ${words.kl(one.kl[k])}`);
  for (const [judge, own] of Object.entries(one.rewards)) {
    const name = make("span", "ar-judged", `${brief(judge)} `);
    name.title = judge;
    name.append(make("b", "", judge === "people" ? `${Math.round(100 * own[k])}%` : own[k].toFixed(2)));
    made.append(" · ", name);
  }
  return made;
}

function answered(one, first) {
  if (one.texts === null) return column(one.name, make("span", ""), [make("div", "ar-note", words.toCome)]);
  const several = one.texts.length > 1;
  const parts = one.texts.flatMap((text, k) => {
    const made = textOf(text);
    if (!text.trim()) made.append(make("span", "ar-note ar-bad", words.empty));
    if (diffing && one !== first && first.texts?.[k] !== undefined) made.replaceChildren(...differences(first.texts[k], text));
    return [...(several ? [facts(one, k, one === first)] : []), made,
      ...(one.ended[k] === false ? [make("div", "ar-note ar-bad", words.cut)] : [])];
  });
  if (one !== first && first.texts && one.texts.join("\n") === first.texts.join("\n"))
    parts.push(make("div", "ar-note", words.same));
  return column(one.name, several ? make("span", "") : facts(one, 0, one === first), parts);
}

let drawing = 0;
find(".ar-list").addEventListener("scroll", () => {
  cancelAnimationFrame(drawing);
  drawing = requestAnimationFrame(drawLines);
}, { passive: true });
