// The arena's views. gradio runs this once, with `element` holding arena.html, in one function with shared.js and the
// arena_*.js before it. Votes are given on the rating page's widget, below this one: a `pl-rank` event says what to rank,
// and `pl-submitted` and `pl-over` come back.
// While votes can be given no name stands anywhere in the page: what Look shows is emptied when it is left.

const words = {
  orders: [["given", "in the given order"], ["worse", "fell most"], ["better", "rose most"],
    ["longer", "grew most"], ["shorter", "shrank most"]],
  search: "Search prompts and answers",
  only: [["all", "all prompts"], ["differing", "where they differ"], ["worse", "that got worse"],
    ["cut", "with a cut answer"], ["empty", "with an empty answer"]],
  judged: (name) => `judged by ${name}`,
  allSets: "all sets",
  allStrata: "all kinds",
  marks: { cut: "cut", empty: "empty" },
  kl: (nats) => `KL ${nats.toFixed(1)}`,
  diff: "Words that differ",
  against: (name) => `${name} against the first`,
  place: (n, of) => (of ? `${n} of ${of}` : "none"),
  noPrompts: "No held-out prompts: name a snapshot as data.path, or what `prefloop compare` sampled as arena.answers.",
  noMatch: "No prompt matches.",
  toCome: "still to come",
  tokens: (n) => `${n} tokens`,
  letters: (n) => `${n} characters`,
  cut: "Cut at the longest answer allowed.",
  same: "The same as the first.",
  empty: "(no text)",
  ask: "Type a prompt for all checkpoints",
  answer: (letter) => `Answer ${letter}`,
  writing: "writing…",
  waiting: "waiting for the checkpoints to load…",
  stopped: "Stopped.",
  finished: "All answers are written.",
  allSame: "All answers are the same text.",
  before: "You have ranked these very answers before.",
  noneLeft: "There are not two different answers to rank.",
  offline: "The server cannot be reached; is prefloop arena still running?",
  broken: "The connection broke before all was written; send the prompt again.",
  noChild: "No checkpoints are loaded, so prompts cannot be typed; start with arena.runs=[...].",
  child: { starting: "checking the checkpoints…", loading: "loading the base…", ready: "", down: "not running" },
  sampled: (done, wanted, left) => `${done} of ${wanted} held-out answers sampled${left ? `, about ${left} left` : ""}`,
  over: (n) => (n ? `, ${n} prompts over length` : ""),
  prompts: (n, k) => `${k} checkpoints · ${n} held-out prompts`,
  votes: (n, wanted, told) => `Standings: ${n} of ${wanted} held-out prompts voted on, `
    + (told ? `told after ${told} votes` : "not told yet"),
  step: (n) => `Who wins is told after every ${n} votes and at the end: told sooner, it would say who wrote what.`,
  seen: (n) => `${n} ${n === 1 ? "prompt is" : "prompts are"} not asked: Look told you who wrote what, in an open prompt or a list of what got worse, longer or shorter.`,
  sames: (n) => `${n} ${n === 1 ? "prompt is" : "prompts are"} not asked: all answers are the same.`,
  heldOut: (n) => `Held-out prompts, after ${n} votes`,
  typed: (n) => `Prompts that were typed, after ${n} ${n === 1 ? "vote" : "votes"}`,
  heads: ["checkpoint", "wins, a tie half (95% interval)", "among the best", "strength (nats)"],
  keys: [
    ["L T V", "look at held-out prompts, try a prompt, vote blind"],
    ["J K, ← →", "Look: the next and the previous prompt"],
    ["D", "Look: mark the words that differ from the first answer"],
    ["/", "Look: search"],
    ["Ctrl Enter", "Try: ask all checkpoints"],
    ["Esc", "Try: stop writing"],
    ["1 2 3 …, Enter", "Vote: rank the outlined answer, submit (its own ? shows all its keys)"],
    ["?", "show or hide these keys"],
  ],
};

let view = "";
let status = null;
let lines = []; // of the list
let at = 0; // in the list
let shown = null; // the prompt that Look shows
let diffing = false;
let trying = null; // the last prompt that was typed
let toldAfter = 0; // how many votes the standings that are shown count
let pace = null; // [time, answers done] when the page first saw sampling
const LETTERS = "ABCDEFGH";

// -- views ------------------------------------------------------------------------------------------------------------

function open(name, request = {}) {
  if (view === "look" && name !== "look") {
    shown = null;
    lines = [];
    ["columns", "list", "against"].forEach((part) => find(`.ar-look .ar-${part}`).replaceChildren());
  }
  view = name;
  document.body.dataset.view = name;
  element.querySelectorAll(".ar-tabs button").forEach((tab) =>
    tab.dataset.view === name ? tab.setAttribute("aria-current", "page") : tab.removeAttribute("aria-current"));
  find(".ar-look").hidden = name !== "look";
  find(".ar-try").hidden = name !== "try";
  find(".ar-standings").hidden = true;
  complain("");
  if (name === "look") list();
  if (name === "try") find(".ar-box").focus({ preventScroll: true });
  if (name === "vote") {
    document.activeElement?.blur();
    find(".ar-told").replaceChildren();
    if (!request.ask) standings();
    document.dispatchEvent(new CustomEvent("pl-rank", { detail: request }));
  }
}

function complain(text) {
  find(".ar-trouble").textContent = text;
  find(".ar-trouble").hidden = !text;
}

async function asked(path, body) {
  const reply = await post(path, body);
  if (!reply.ok) complain(reply.status ? String(reply.content.error || reply.status) : words.offline);
  return reply.ok ? reply.content : null;
}

async function watch() {
  const reply = await fetch("/api/arena/status").then((one) => one.json()).catch(() => null);
  const before = status;
  status = reply;
  drawStatus();
  if (reply && !before) begin();
  else if (reply && view === "look" && before && reply.done !== before.done) list(true);
  setTimeout(watch, reply && (reply.done < reply.wanted || reply.child?.state !== "ready") ? 1000 : 4000);
}

function begin() {
  for (const [name, value] of Object.entries(status.defaults)) find(`[name=${name}]`).value = value;
  if (!view) open(status.prompts ? "look" : "try");
}

function drawStatus() {
  if (!status) {
    find(".ar-status").textContent = words.offline;
    return;
  }
  const { done, wanted, child } = status;
  const parts = [words.prompts(status.prompts, status.checkpoints) + words.over(status.over_length)];
  if (done < wanted && !status.gave_up) parts.push(words.sampled(done, wanted, timeLeft(done, wanted)));
  if (child && words.child[child.state]) parts.push(child.state === "down" ? child.words : words.child[child.state]);
  if (status.gave_up) parts.push(status.gave_up);
  find(".ar-status").textContent = parts.join(" · ");
}

function timeLeft(done, wanted) {
  pace ??= [performance.now(), done];
  const seconds = (performance.now() - pace[0]) / 1000;
  if (done - pace[1] < 1) return "";
  const left = ((wanted - done) * seconds) / (done - pace[1]);
  return left < 90 ? `${Math.ceil(left)} s` : `${Math.ceil(left / 60)} min`;
}

// -- vote -------------------------------------------------------------------------------------------------------------

async function standings() {
  const reply = await fetch("/api/arena/standings").then((one) => one.json()).catch(() => null);
  if (!reply || view !== "vote") return;
  const parts = [make("p", "", words.step(reply.step))];
  if (reply.seen) parts.push(make("p", "", words.seen(reply.seen)));
  if (reply.same) parts.push(make("p", "", words.sames(reply.same)));
  for (const [tally, title] of [[reply.held_out, words.heldOut], [reply.typed, words.typed]])
    if (tally) parts.push(make("h3", "", title(tally.votes)), table(tally.standings));
  const { votes = 0 } = reply.held_out || {};
  if (votes > toldAfter) find(".ar-standings").open = true;
  toldAfter = votes;
  find(".ar-standings summary").textContent = words.votes(reply.votes, reply.wanted, votes);
  find(".ar-told").replaceChildren(...parts);
  find(".ar-standings").hidden = false;
}

function table(rows) {
  const made = make("table", "");
  const line = (tag, cells) => {
    const row = make("tr", "");
    row.append(...cells.map((cell) => make(tag, "", cell)));
    return row;
  };
  const share = (n) => `${(100 * n).toFixed(1)}%`;
  made.append(line("th", words.heads), ...rows.map(({ name, win_rate: rate, best, strength }) =>
    line("td", [name, rate ? `${share(rate.value)} (${share(rate.low)} to ${share(rate.high)})` : "", best, strength.toFixed(2)])));
  return made;
}

document.addEventListener("pl-submitted", () => view === "vote" && standings());
document.addEventListener("pl-over", async () => {
  open("try");
  await reveal();
});

// -- mouse and keys ---------------------------------------------------------------------------------------------------

const acts = {
  keys: () => {
    find(".pl-keys").hidden = !find(".pl-keys").hidden;
    find("[data-act=keys]").setAttribute("aria-expanded", String(!find(".pl-keys").hidden));
  },
  list: () => find(".ar-look").classList.toggle("ar-listing"),
  previous: () => look(at - 1),
  next: () => look(at + 1),
  diff: () => {
    diffing = !diffing;
    if (shown) drawPrompt();
  },
  stop: () => {
    halt();
    complain(words.stopped);
  },
  reveal,
  rank: () => open("vote", { ask: trying.ask }),
};

element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.dataset.view) open(button.dataset.view);
  else if (button?.dataset.act) acts[button.dataset.act]();
  else if (button?.dataset.line) {
    find(".ar-look").classList.remove("ar-listing");
    look(Number(button.dataset.line));
  }
});
find(".ar-form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
let typed = 0;
find(".ar-search").addEventListener("input", () => {
  clearTimeout(typed);
  typed = setTimeout(list, 50);
});
// Another order shows what now comes first.
[".ar-against", ...Object.values(WISHES)].forEach((one) => find(one).addEventListener("change", () => {
  anew = true;
  list();
}));

const keys = { l: () => open("look"), t: () => open("try"), v: () => open("vote") };
const lookKeys = { j: acts.next, arrowright: acts.next, k: acts.previous, arrowleft: acts.previous, d: acts.diff,
  "/": () => find(".ar-search").focus(), "?": acts.keys };

document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && view === "try") ask();
  else if (event.key === "Escape" && trying && !find("[data-act=stop]").disabled) acts.stop();
  else if (event.key === "Escape" && event.target === find(".ar-search")) find(".ar-search").blur();
  else {
    const typing = event.target.closest?.("input, textarea, select, [contenteditable]");
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.toLowerCase();
    const act = (!event.repeat && keys[key]) || (view === "look" && lookKeys[key]) || (view === "try" && key === "?" && acts.keys);
    if (!act) return;
    act();
  }
  event.preventDefault();
});

find(".ar-search").placeholder = words.search;
find(".ar-box").placeholder = words.ask;
find(".ar-diff").append(words.diff, " ", make("kbd", "", "D"));
for (const [select, options] of [[".ar-order", words.orders], [".ar-only", words.only]])
  find(select).append(...options.map(([value, name]) => new Option(name, value)));
words.keys.forEach(([key, meaning]) => find(".pl-keys").append(make("dt", "", key), make("dd", "", meaning)));
watch();
