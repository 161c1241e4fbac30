// What the views are made of. Texts from outside reach the page only as text; names that people or models chose go
// through `named`, which spells out what would be invisible.

function el(tag, className, ...children) {
  const made = make(tag, className);
  made.append(...children.filter((one) => one !== null && one !== undefined));
  return made;
}

const named = (text, tag = "span", className = "") => {
  const made = el(tag, className, ...spelled(String(text)));
  made.dir = "auto";
  return made;
};

// -- asking the server ------------------------------------------------------------------------------------------------

// What came back; null after it was told what went wrong.
async function ask(path, body) {
  return answered(await post(path, body));
}

// ... of what only looks.
async function askFor(path) {
  const reply = await fetch(path).catch(() => null);
  return answered({ ok: Boolean(reply?.ok), status: reply?.status ?? 0, content: (await reply?.json().catch(() => null)) ?? {} });
}

function answered(reply) {
  if (reply.ok) return reply.content;
  if (reply.status === 401) window.location.assign(`/sign-in?to=lead${window.location.hash}`);
  else tell(reply.status ? String(reply.content.error || reply.status) : "The server cannot be reached. Try again in a moment.", true);
  return null;
}

let telling = 0;

// A line at the foot of the page: what was done, for some seconds; what went wrong, until it is clicked away.
function tell(words, wrong = false) {
  const box = find(".ld-told");
  const line = el("div", wrong ? "ld-note pl-error" : "ld-note", ...spelled(words));
  if (wrong) line.append(button("Close", () => line.remove(), "pl-quiet"));
  box.replaceChildren(line);
  clearTimeout(telling);
  if (!wrong) telling = setTimeout(() => line.remove(), 5000);
}

// -- parts ------------------------------------------------------------------------------------------------------------

function button(words, act, className = "pl-plain") {
  const made = make("button", className, words);
  made.type = "button";
  made.addEventListener("click", act);
  return made;
}

function card(title, ...children) {
  const made = el("section", "ld-card");
  if (title) made.append(typeof title === "string" ? make("h2", "", title) : title);
  made.append(...children.filter(Boolean));
  return made;
}

const hint = (words) => make("p", "pl-hint", words);

// A figure with its name, such as "Answers 1,204", and what stands below it.
function tile(name, figure, note = "") {
  return el("div", "ld-tile", make("div", "ld-what", name), el("div", "ld-figure", figure), note ? el("div", "ld-under", note) : null);
}

const whole = (n) => Math.round(n).toLocaleString("en");
const percent = (x, places = 0) => (x === null || x === undefined ? "–" : `${(100 * x).toFixed(places)}%`);
const figure = (x) => (x === null || x === undefined ? "–" : Math.abs(x) >= 100 ? whole(x) : x.toFixed(Math.abs(x) >= 10 ? 1 : 2));
const day = (at) => new Date(1000 * at).toLocaleDateString("en-GB", { day: "numeric", month: "short", year: "numeric" });
const moment = (at) => new Date(1000 * at).toLocaleString("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

// How full something is, of 0..1.
function meter(part, words) {
  const made = el("div", "ld-meter", make("i", ""));
  made.firstChild.style.width = `${100 * Math.min(1, Math.max(0, part))}%`;
  made.firstChild.hidden = !(part > 0);
  made.setAttribute("role", "img");
  made.setAttribute("aria-label", words ?? percent(part));
  return made;
}

// An estimate {value, low, high, n} as a small bar between `least` and `most`, with the figure beside it; `level` is a
// line to compare it with.
function intervalBar(estimate, { least = 0, most = 1, level = null, told = percent } = {}) {
  if (!estimate) return make("span", "ld-none", "–");
  const place = (x) => 100 * (Math.min(most, Math.max(least, x)) - least) / (most - least);
  const bar = el("span", "ld-interval", make("i", ""), make("b", ""));
  const [span, dot] = bar.children;
  span.style.left = `${place(estimate.low)}%`;
  span.style.width = `${place(estimate.high) - place(estimate.low)}%`;
  dot.style.left = `${place(estimate.value)}%`;
  if (level !== null) {
    bar.append(make("s", ""));
    bar.lastChild.style.left = `${place(level)}%`;
  }
  const made = el("span", "ld-estimate", make("span", "ld-value", told(estimate.value)), bar);
  made.title = `${told(estimate.value)}, 95% interval ${told(estimate.low)} to ${told(estimate.high)}${estimate.n === undefined ? "" : `, from ${whole(estimate.n)}`}`;
  return made;
}

// -- tables -----------------------------------------------------------------------------------------------------------

// `columns` are {title, cell(row) -> text or element, by(row) -> what to sort by, right, wide}; a click on a heading
// sorts. On a phone each row stands as a block, with the headings beside its figures.
function tableOf(columns, rows, { sort = null, empty = "Nothing yet.", row: dressed = null } = {}) {
  if (!rows.length) return hint(empty);
  const head = el("tr", "");
  const body = make("tbody", "");
  let by = sort;
  const fill = () => {
    const found = by ? [...rows].sort((a, b) => compared(columns[by[0]].by(a), columns[by[0]].by(b)) * (by[1] ? -1 : 1)) : rows;
    body.replaceChildren(...found.map((one) => rowOf(columns, one, dressed)));
    [...head.children].forEach((cell, i) => cell.setAttribute("aria-sort", by?.[0] === i ? (by[1] ? "descending" : "ascending") : "none"));
  };
  columns.forEach(({ title, by: own, right, why = "" }, i) => {
    const cell = el("th", right ? "ld-right" : "");
    cell.scope = "col";
    cell.title = why;
    cell.append(own ? button(title, () => { by = [i, by?.[0] === i ? !by[1] : Boolean(right)]; fill(); }, "ld-sort") : title);
    head.append(cell);
  });
  fill();
  return el("div", "ld-scroll", el("table", "ld-table", el("thead", "", head), body));
}

function rowOf(columns, one, dressed) {
  const row = make("tr", "");
  for (const { title, cell, right, wide } of columns) {
    const made = el("td", [right && "ld-right", wide && "ld-wide"].filter(Boolean).join(" "), cell(one));
    made.dataset.label = title;
    row.append(made);
  }
  dressed?.(row, one);
  return row;
}

// What is not known stands last, whichever way.
function compared(a, b) {
  if (a === null || a === undefined || b === null || b === undefined) return (a ?? null) === null ? ((b ?? null) === null ? 0 : 1) : -1;
  return typeof a === "string" ? a.localeCompare(String(b)) : a - b;
}

// -- menus and files --------------------------------------------------------------------------------------------------

// A small menu of [words, act].
function menuOf(label, acts) {
  const summary = make("summary", "pl-quiet", "⋯");
  summary.setAttribute("aria-label", label);
  const list = el("div", "ld-acting", ...acts.map(([words, act]) => button(words, () => { made.open = false; act(); }, "pl-quiet")));
  const made = el("details", "ld-more", summary, list);
  return made;
}

// A file that the server makes, into the browser's downloads; what went wrong is told.
async function save(path) {
  const reply = await fetch(path).catch(() => null);
  if (!reply?.ok) {
    tell(reply ? String((await reply.json().catch(() => ({}))).error || reply.status) : "The server cannot be reached. Try again in a moment.", true);
    return;
  }
  const link = make("a", "");
  link.href = URL.createObjectURL(await reply.blob());
  link.download = fileName(reply.headers.get("content-disposition") || "");
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function fileName(said) {
  const coded = /filename\*=utf-8''([^;]+)/i.exec(said)?.[1];
  return (coded ? decodeURIComponent(coded) : /filename="([^"]+)"/.exec(said)?.[1]) || "prefloop";
}

// -- asking once more -------------------------------------------------------------------------------------------------

// A window with fields {name: {label, value, rows, options, needed}}; what was filled in, or null if it was closed.
function dialog(title, why, fields, act, { danger = false, told = [] } = {}) {
  return new Promise((resolve) => {
    const form = el("form", "", make("h2", "", title), why ? hint(why) : null, ...told);
    form.method = "dialog";
    for (const [name, field] of Object.entries(fields)) form.append(fieldOf(name, field));
    const go = make("button", danger ? "pl-go ld-danger" : "pl-go", act);
    go.value = "go";
    const box = el("dialog", "ld-dialog", form);
    form.append(el("div", "ld-acts", button("Cancel", () => box.close(""), "pl-plain"), go));
    box.addEventListener("close", () => {
      box.remove();
      resolve(box.returnValue === "go" ? Object.fromEntries(new FormData(form)) : null);
    });
    element.append(box);
    box.showModal();
  });
}

function fieldOf(name, { label, value = "", rows = 0, options = null, needed = false, type = "text", hint: below = "", ...more }) {
  const input = rows ? make("textarea", "") : options ? make("select", "") : make("input", "");
  if (options) input.append(...options.map((one) => (Array.isArray(one) ? new Option(one[1], one[0]) : new Option(one, one))));
  if (rows) input.rows = rows;
  else if (!options) input.type = type;
  input.name = name;
  input.required = needed;
  if (type === "checkbox") input.checked = value;
  else if (!options || value !== "") input.value = value;
  if (!options && type === "text") input.dir = "auto";
  Object.assign(input, more);
  return el("label", type === "checkbox" ? "ld-field ld-tick" : "ld-field", make("span", "", label), input, below ? make("small", "", below) : null);
}
