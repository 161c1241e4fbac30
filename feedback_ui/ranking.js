// The ranking page: fetches a task, lets the rater rank its answers, submits, and fetches the next.
// gradio runs this once after shared.js, with `element` holding ranking.html. Nothing is ranked until the rater ranks it.

const words = {
  question: "Which answer is best?",
  answer: (letter) => `Answer ${letter}`,
  rank: (letter, rank) => `Rank ${rank} for answer ${letter}`,
  unranked: "not ranked",
  ranked: (rank, tied) => (tied ? `rank ${rank}, tied` : `rank ${rank}`),
  start: "1 is best. The same number is a tie.",
  left: (letters) => `Still to rank: ${letters.join(", ")}`,
  ready: "Ready to submit",
  noneSaid: "None is acceptable",
  rankFirst: "Rank at least one answer, or mark that none is acceptable.",
  partial: (letters) =>
    `${letters.join(", ")} ${letters.length > 1 ? "are" : "is"} unranked and will count as worse than the others.`,
  none: "None is acceptable",
  skip: "Skip",
  submit: "Submit",
  anyway: "Submit anyway",
  saving: "Saving…",
  goOn: "Go on",
  saved: "Your ranking is kept",
  count: (done, wanted, mine) => `${done} of ${wanted} answers · ${mine} by you`,
  empty: "Nothing left to rate",
  emptyWhy: "The rest is ranked, with another rater just now, or skipped. Thank you.",
  bringBack: (n) => (n === 1 ? "Show the one you skipped" : `Show the ${n} you skipped`),
  look: "Look again",
  offline: "The server cannot be reached. Your ranking is still here: try again in a moment.",
  notLeased: "This item is no longer yours. Press N for another one.",
  answeredBefore: "You ranked this item differently before, and that ranking was kept. Press N for the next one.",
  refused: (why) => `Not saved: ${why}. Your ranking is still here.`,
  keys: [
    ["1 2 3 …", "rank the outlined answer; the same number is a tie"],
    ["A B C …", "go to that answer"],
    ["← →", "go to the answer before or after"],
    ["Backspace", "take the rank of this answer away"],
    ["Z", "undo the last change"],
    ["X", "none is acceptable"],
    ["Enter", "submit"],
    ["N", "skip to the next item"],
    ["?", "show or hide these keys"],
  ],
};

let task = null;
let said = { ranks: [], none: false }; // what the rater has said of the task; replaced, never changed
let before = []; // what `said` was, for undo
let current = 0; // the card that number keys rank
let began = 0;
let busy = false;
let warned = false; // the rater has been told that some answers are unranked
let told = false; // it is submitted, and who wrote what is shown

// -- talking to the server ------------------------------------------------------------------------------------------

async function send(path, body) {
  const reply = await post(path, body);
  if (reply.ok) return reply.content;
  if (!reply.status) throw new Error(words.offline);
  if (reply.status === 403) throw new Error(words.notLeased);
  if (reply.status === 409) throw new Error(words.answeredBefore);
  throw new Error(words.refused(reply.content.error || reply.status));
}

// One request at a time: keys pressed meanwhile do nothing, and a failure leaves the ranking as it is.
async function exchange(work) {
  if (busy) return;
  busy = true;
  complain("");
  drawState();
  try {
    await work();
  } catch (error) {
    complain(error.message);
  } finally {
    busy = false;
    drawState();
  }
}

async function next(request = {}) {
  const reply = await send("/api/next", request);
  drawProgress(reply.progress, reply.guideline);
  task = reply.task;
  said = { ranks: task ? task.answers.map(() => null) : [], none: false };
  before = [];
  warned = told = false;
  began = performance.now();
  drawTask(reply.progress.skipped);
}

function submit() {
  if (!task || busy) return;
  if (told) {
    announce("pl-over");
    return;
  }
  const left = unranked();
  if (!said.none && left.length === said.ranks.length) {
    complain(words.rankFirst);
  } else if (left.length && left.length < said.ranks.length && !warned) {
    warned = true;
    complain(words.partial(left));
    drawState();
  } else {
    exchange(async () => {
      const seconds = (performance.now() - began) / 1000;
      const reply = await send("/api/submit",
        { token: task.token, ranks: said.ranks, none_acceptable: said.none, seconds });
      announce("pl-submitted");
      if (reply.writers?.length) tell(reply.writers);
      else await next();
    });
  }
}

function skip() {
  if (!task || told) return;
  exchange(async () => {
    await send("/api/skip", { token: task.token });
    announce("pl-skipped");
    await next();
  });
}

// On the arena's page: other widgets hear what happens here, and may say what to rank next.
const announce = (name) => element.dispatchEvent(new CustomEvent(name, { bubbles: true }));
document.addEventListener("pl-rank", function rank(event) {
  if (busy) setTimeout(rank, 50, event);
  else exchange(() => next(event.detail));
});

// The server says who wrote A, B, ... once the ranking can no longer change.
function tell(writers) {
  told = true;
  element.querySelectorAll(".pl-letter").forEach((letter, i) => letter.after(make("span", "pl-writer", writers[i])));
  drawState();
}

// -- what the rater says --------------------------------------------------------------------------------------------

const unranked = () => task.answers.filter((_, i) => said.ranks[i] === null).map((answer) => answer.letter);

function say(change) {
  if (busy || told) return;
  before.push(said);
  said = { ...said, ...change };
  warned = false;
  complain("");
  drawRanks();
}

function setRank(card, rank) {
  say({ ranks: said.ranks.map((old, i) => (i === card ? rank : old)) });
}

// A number key ranks this answer and goes on to the next one without a rank: four keys rank four answers.
function rankAndGoOn(card, rank) {
  setRank(card, rank);
  const count = said.ranks.length;
  const later = [...Array(count).keys()].map((step) => (card + step) % count).find((i) => said.ranks[i] === null);
  focusCard(later ?? card);
}

function undo() {
  if (busy || told || !before.length) return;
  said = before.pop();
  warned = false;
  complain("");
  drawRanks();
}

// -- drawing --------------------------------------------------------------------------------------------------------

function drawProgress(progress, guideline) {
  find(".pl-count").textContent = words.count(progress.done, progress.wanted, progress.mine);
  find(".pl-fill").style.width = `${(100 * progress.done) / Math.max(1, progress.wanted)}%`;
  find(".pl-meter").setAttribute("aria-valuemax", progress.wanted);
  find(".pl-meter").setAttribute("aria-valuenow", progress.done);
  find(".pl-guide").textContent = guideline;
  find("[data-act=guide]").hidden = !guideline;
}

function drawTask(skipped) {
  find(".pl-work").hidden = find(".pl-acts").hidden = find(".pl-state").hidden = !task;
  find(".pl-done").hidden = Boolean(task);
  find("[data-act=skipped]").hidden = !skipped;
  find("[data-act=skipped]").textContent = words.bringBack(skipped);
  complain("");
  if (!task) return;
  find(".pl-turns").replaceChildren(...task.conversation.map(turnOf));
  find(".pl-cards").replaceChildren(...task.answers.map(card));
  drawRanks();
  window.scrollTo({ top: 0 });
  focusCard(0);
}

function card(answer, place) {
  const made = make("article", "pl-card");
  made.tabIndex = -1;
  made.dataset.card = place;
  const ranks = make("div", "pl-ranks");
  ranks.setAttribute("role", "group");
  task.answers.forEach((_, i) => {
    const button = make("button", "pl-rank", i + 1);
    button.type = "button";
    button.dataset.rank = i + 1;
    button.setAttribute("aria-label", words.rank(answer.letter, i + 1));
    ranks.append(button);
  });
  const head = make("div", "pl-cardhead");
  head.append(make("span", "pl-letter", answer.letter), ranks);
  const text = make("div", "pl-text", answer.text);
  text.dir = "auto";
  made.append(head, text);
  return made;
}

function drawRanks() {
  element.querySelectorAll(".pl-card").forEach((made, i) => {
    const rank = said.ranks[i];
    const tied = said.ranks.filter((other) => other === rank).length > 1;
    made.dataset.ranked = rank ?? "";
    const state = rank === null ? words.unranked : words.ranked(rank, tied);
    made.setAttribute("aria-label", `${words.answer(task.answers[i].letter)}, ${state}`);
    made.querySelectorAll(".pl-rank").forEach((button) =>
      button.setAttribute("aria-pressed", String(Number(button.dataset.rank) === rank)));
  });
  drawState();
}

// The order so far, best first: "B › A = C".
function order() {
  const groups = new Map();
  said.ranks.forEach((rank, i) => rank === null || groups.set(rank, [...(groups.get(rank) || []), task.answers[i].letter]));
  return [...groups.keys()].sort((a, b) => a - b).map((rank) => groups.get(rank).join(" = ")).join("  ›  ");
}

function drawState() {
  const button = find(".pl-go");
  const act = busy ? words.saving : told ? words.goOn : warned ? words.anyway : words.submit;
  button.replaceChildren(act, " ", make("kbd", "", "Enter"));
  find(".pl-none").setAttribute("aria-pressed", String(said.none));
  element.querySelectorAll(".pl-acts button").forEach((one) => (one.disabled = busy || (told && one !== button)));
  if (!task) return;
  const left = unranked();
  const untouched = left.length === said.ranks.length;
  button.classList.toggle("pl-wait", untouched ? !said.none : left.length > 0 && !warned);
  const parts = [];
  if (!untouched) parts.push(make("span", "pl-order", order()));
  if (said.none) parts.push(make("span", "pl-flag", words.noneSaid));
  const hint = told ? words.saved : untouched ? (said.none ? words.ready : words.start)
    : left.length ? words.left(left) : words.ready;
  parts.push(make("span", left.length && !said.none ? "pl-hint" : "pl-hint pl-ready", hint));
  find(".pl-state").replaceChildren(...parts);
}

function complain(text) {
  find(".pl-error").textContent = text;
  find(".pl-error").hidden = !text;
  find(".pl-bar").hidden = !task && !text;
}

function focusCard(place) {
  const cards = [...element.querySelectorAll(".pl-card")];
  current = Math.max(0, Math.min(place, cards.length - 1));
  cards.forEach((made, i) => made.classList.toggle("pl-current", i === current));
  cards[current]?.focus({ preventScroll: true });
  if (!busy) cards[current]?.scrollIntoView({ block: "nearest" });
}

function fold(name, selector) {
  const panel = find(selector);
  panel.hidden = !panel.hidden;
  find(`[data-act=${name}]`).setAttribute("aria-expanded", String(!panel.hidden));
}

// -- mouse, thumb and keys ------------------------------------------------------------------------------------------

const acts = {
  submit,
  skip,
  none: () => say({ none: !said.none }),
  keys: () => fold("keys", ".pl-keys"),
  guide: () => fold("guide", ".pl-guide"),
  skipped: () => exchange(() => next({ skipped: true })),
  look: () => exchange(() => next()),
};

element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  const onCard = event.target.closest(".pl-card");
  if (button?.dataset.act) {
    acts[button.dataset.act]();
  } else if (onCard) {
    const place = Number(onCard.dataset.card);
    if (button && !busy) {
      const rank = Number(button.dataset.rank);
      setRank(place, said.ranks[place] === rank ? null : rank);
    }
    if (!String(window.getSelection())) focusCard(place); // leave a selection of text alone
  }
});

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input, textarea, select, [contenteditable]");
  if (!element.checkVisibility() || typing || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  // Enter and Space press the button that has the focus; on a rank button Enter submits, as on its card.
  const button = event.target.closest?.("button");
  if (button && (event.key === " " || (event.key === "Enter" && !button.dataset.rank))) return;
  const count = said.ranks.length;
  const key = event.key.length === 1 ? event.key.toUpperCase() : event.key;
  const letter = task ? task.answers.findIndex((answer) => answer.letter === key) : -1;
  if (key === "?") acts.keys();
  else if (!task) return;
  else if (/^[1-9]$/.test(key) && Number(key) <= count) rankAndGoOn(current, Number(key));
  else if (letter >= 0) focusCard(letter);
  else if (key === "ArrowRight") focusCard(current + 1);
  else if (key === "ArrowLeft") focusCard(current - 1);
  else if (key === "Backspace" || key === "Delete") setRank(current, null);
  else if (key === "Z") undo();
  else if (key === "X") acts.none();
  else if (key === "N") skip();
  else if (key === "Enter") submit();
  else return;
  event.preventDefault();
});

find(".pl-question").textContent = words.question;
find(".pl-done h2").textContent = words.empty;
find(".pl-done p").textContent = words.emptyWhy;
find("[data-act=look]").textContent = words.look;
find("[data-act=none]").append(words.none, " ", make("kbd", "", "X"));
find("[data-act=skip]").append(words.skip, " ", make("kbd", "", "N"));
words.keys.forEach(([key, meaning]) => find(".pl-keys").append(make("dt", "", key), make("dd", "", meaning)));
exchange(() => next());
