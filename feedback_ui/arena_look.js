// Look: the held-out prompts as a list, and one prompt's answers in columns.

async function list(quietly = false) {
  const against = Number(find(".ar-against").value || -1);
  const request = { text: find(".ar-search").value, differing: find(".ar-differing").checked,
    order: find(".ar-order").value, against };
  const reply = await asked("/api/arena/list", request);
  if (!reply || view !== "look") return;
  const number = shown?.number;
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
  find(".ar-order").querySelectorAll("option").forEach((option) =>
    (option.hidden = option.disabled = !reply.rewards && ["worse", "better"].includes(option.value)));
  const select = find(".ar-against");
  select.hidden = reply.names.length < 3 || find(".ar-order").value === "given";
  if (!select.options.length)
    select.append(...reply.names.slice(1).map((name, i) => new Option(words.against(name), i + 1)));
  select.value = against < 0 ? reply.names.length - 1 : against;
}

function drawList() {
  find(".ar-list").replaceChildren(...lines.map((line, i) => {
    const item = make("li", "");
    const button = make("button", "");
    button.type = "button";
    button.dataset.line = i;
    const gap = make("span", `ar-gap${line.gap < 0 ? " ar-lost" : ""}`,
      !line.complete ? "…" : line.same ? "=" : line.gap === null ? "" : signed(line.gap));
    const title = make("span", "");
    write(title, line.title);
    button.append(make("span", "ar-number", line.number + 1), title, gap);
    item.append(button);
    return item;
  }));
  find(".ar-place").textContent = words.place(at + 1, lines.length);
  find(".ar-empty").hidden = lines.length > 0;
  find(".ar-empty").textContent = status?.prompts ? words.noMatch : words.noPrompts;
}

const signed = (gap) => (Number.isInteger(gap) ? `${gap > 0 ? "+" : ""}${gap}` : `${gap > 0 ? "+" : ""}${gap.toFixed(2)}`);

async function look(place) {
  if (!lines.length) return;
  at = Math.max(0, Math.min(place, lines.length - 1));
  find(".ar-place").textContent = words.place(at + 1, lines.length);
  element.querySelectorAll(".ar-list button").forEach((button, i) => {
    button.setAttribute("aria-current", String(i === at));
    if (i === at) inSight(button.parentElement);
  });
  const { number } = lines[at];
  const reply = await asked("/api/arena/look", { number });
  if (!reply || view !== "look" || lines[at]?.number !== number) return;
  shown = reply;
  drawPrompt();
}

// Scrolls the list, and never the page.
function inSight(item) {
  const box = find(".ar-list");
  box.scrollTop = Math.min(item.offsetTop, Math.max(box.scrollTop, item.offsetTop + item.offsetHeight - box.clientHeight));
}

function drawPrompt() {
  find(".ar-stratum").textContent = shown.stratum;
  find(".ar-diff").setAttribute("aria-pressed", String(diffing));
  find(".ar-look .pl-turns").replaceChildren(...shown.conversation.map(turnOf));
  const [first] = shown.answers;
  find(".ar-look .ar-columns").replaceChildren(...shown.answers.map((one) => answered(one, first)));
}

function answered(one, first) {
  const facts = make("span", "ar-facts");
  if (one.texts === null) return column(one.name, facts, [make("div", "ar-note", words.toCome)]);
  if (one.reward !== null) facts.append(words.reward, " ", make("b", "", one.reward.toFixed(2)), " · ");
  facts.append(one.tokens === null ? words.letters(one.texts[0].length) : words.tokens(one.tokens));
  const texts = one.texts.map((text, k) => {
    const made = textOf(text);
    if (!text.trim()) made.append(make("span", "ar-note", words.empty));
    if (diffing && one !== first && first.texts?.[k] !== undefined) made.replaceChildren(...differences(first.texts[k], text));
    return made;
  });
  if (one !== first && first.texts && one.texts.join("\n") === first.texts.join("\n"))
    texts.push(make("div", "ar-note", words.same));
  if (!one.ended) texts.push(make("div", "ar-note", words.cut));
  return column(one.name, facts, texts);
}
