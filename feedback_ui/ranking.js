// The ranking page: shows an item, takes what the rater says of it, and goes on to the next, which it fetched ahead.
// gradio runs this once after the ranking_*.js before it, with `element` holding ranking.html. Nothing is ranked until
// the rater ranks it. In the arena (IN_ARENA) a vote waits for the server, which may say who wrote what.

let hello = { campaigns: [] };
const leads = () => !hello.sign_in || hello.role !== "rater";
let campaign = null;
let task = null;
let said = blank(0); // what the rater has said of the task; replaced, never changed
let past = []; // what `said` was, for undo
let current = 0; // the card that number keys rank
let spent = 0; // seconds on this item while the page was seen
let since = 0;
let busy = false;
let over = false; // it is submitted, and what came back is being read
let warned = false; // the rater has been told that some answers are unranked
let editing = null; // the number of the earlier answer that is being changed
let put = null; // the item that waits meanwhile
let ahead = null; // a promise of the next item
let again = 0; // how many skipped items were asked for again
let asked = null; // the arena's question that is being voted on
let gate = null;
let guideline = null;
let practising = false;
let lastAnswer = null;
let written = false;
let unfolded = false;

// -- talking to the server ------------------------------------------------------------------------------------------

async function ask(path, body) {
  for (;;) {
    const reply = await post(path, body);
    if (reply.ok && trouble) flush(); // it answers again
    if (reply.ok) return reply.content;
    if (reply.status !== 401) throw Object.assign(new Error(why(reply)), { status: reply.status });
    await signedIn();
  }
}

function why({ status, content }) {
  if (!status) return t("unreachable");
  if (status === 403) return t("notLeased");
  if (status === 409) return t("answeredBefore");
  return t("refused", { why: String(content.error || status) });
}

// One at a time: keys pressed meanwhile do nothing, and a failure leaves what was said as it is.
async function exchange(work) {
  if (busy) return;
  busy = true;
  complain("");
  drawState();
  try {
    await work();
  } catch (error) {
    if (!("status" in error)) console.error(error);
    complain(error.message);
  } finally {
    busy = false;
    drawState();
  }
}

const request = () => ({ campaign, holding: [...new Set([...(task && !over ? [task.token] : []),
  ...(put?.task ? [put.task.token] : []), ...holding()])].slice(0, 16), skipped: again > 0, ...(asked ? { ask: asked } : {}) });

async function next() {
  const early = ahead && (await ahead);
  ahead = null;
  task = null;
  let reply = early?.task && early.task.expires * 1000 > Date.now() ? early : null;
  if (!reply) {
    try {
      reply = await ask("/api/next", request());
      drawProgress(reply);
    } catch (error) {
      if (IN_ARENA || (error.status && error.status < 500 && error.status !== 429)) throw error;
      later("waitTitle", 3000);
      return;
    }
  }
  again = Math.max(0, again - 1);
  begin(reply);
}

function later(title, milliseconds) {
  screen(() => ({ title: t(title), why: t("waitWhy"), tick: "…" }));
  setTimeout(() => !task && exchange(next), milliseconds);
}

function begin(reply) {
  gate = reply.gate;
  find(".pl-practice").hidden = !reply.task?.practice;
  drawPassed(reply);
  if (reply.task) open(reply.task);
  else if (gate) drawGate(reply);
  else if (unsent.some((one) => !one.refused)) later("saving", 700); // a rater is given only so many items at once
  else if (reply.standings) screen(() => ({ title: t("revealed"), why: t("revealedWhy", { n: reply.standings.votes }),
    tick: "✓", standings: reply.standings.standings, skipped: reply.progress.skipped }));
  else screen(() => ({ title: t("empty"), why: t("emptyWhy"), tick: "✓", skipped: reply.progress.skipped }));
  lookAhead();
}

// Fetches the next item while this one is being read. Practice is not fetched ahead: it ends when it is passed.
function lookAhead() {
  if (IN_ARENA || !task || task.practice || ahead || editing) return;
  ahead = post("/api/next", request()).then((reply) => {
    if (reply.ok) drawProgress(reply.content);
    if (!reply.content.task) ahead = null; // there may be one later
    return reply.content;
  });
}

// -- an item ----------------------------------------------------------------------------------------------------------

const draftName = () => `draft/${editing ? `answer-${editing}` : task.token}`;
const opening = () => (task.conversation.at(-1)?.html || "").replace(/<[^>]*>/g, " ").slice(0, 80);
const seconds = () => spent + (since ? (performance.now() - since) / 1000 : 0);

function open(shown, words = null) {
  task = shown;
  const draft = shelf.get(draftName());
  const fits = draft?.said?.ranks?.length === task.answers.length;
  said = { ...blank(task.answers.length), ...words, ...(fits ? draft.said : {}) };
  spent = fits ? Number(draft.spent) || 0 : 0;
  since = document.visibilityState === "visible" ? performance.now() : 0;
  past = [];
  over = warned = false;
  find(".pl-lesson").hidden = true;
  find(".pl-editing").hidden = !editing;
  if (task.practice) practising = true;
  redraw = () => task && drawTask();
  show("work");
  complain("");
  drawTask();
  window.scrollTo({ top: 0 });
  focusCard(0);
  tell(t("newItem", { n: task.answers.length }));
}

function saveDraft() {
  shelf.put(draftName(), { said, spent: seconds(), at: Date.now() });
}

function say(change) {
  if (busy || over || !task) return;
  past.push(said);
  settle({ ...said, ...change });
}

function settle(fresh) {
  said = fresh;
  if (said.strength && winner(said.ranks) === null) said = { ...said, strength: null };
  warned = false;
  complain("");
  saveDraft();
  drawSaid();
  const order = pairwise() ? scaleWords(said) : orderOf(said.ranks, letters(), ", ");
  tell(unranked().length === said.ranks.length ? t("unranked") : order);
}

// A number key ranks this answer and goes on to the next one without a rank: four keys rank four answers.
function rankAndGoOn(place, rank) {
  say({ ranks: placed(said.ranks, place, rank) });
  const count = said.ranks.length;
  const later = [...Array(count).keys()].map((step) => (place + step) % count).find((i) => said.ranks[i] === null);
  focusCard(later ?? place);
}

function choose(step) {
  const steps = scale();
  if (steps[step]) say({ ...steps[step] });
}

function shift(step) {
  const at = onScale(scale(), said);
  choose(at < 0 ? (scale().length - 1) / 2 + step : Math.max(0, Math.min(scale().length - 1, at + step)));
  find(`.pl-step[data-step="${onScale(scale(), said)}"]`)?.focus({ preventScroll: true });
}

function strengthen() {
  if (find(".pl-strength").hidden) return;
  say({ strength: STRENGTHS[(STRENGTHS.indexOf(said.strength) + 1) % STRENGTHS.length] });
}

function undo() {
  if (busy || over) return;
  if (task && past.length) settle({ ...past.pop(), reason: said.reason, edited: said.edited });
  else if (!editing && !IN_ARENA) back();
}

// -- submitting -------------------------------------------------------------------------------------------------------

// What is still missing, in words; null if nothing is.
function missing() {
  if (!said.none && unranked().length === said.ranks.length) return t(pairwise() ? "chooseFirst" : "rankFirst");
  if (task.reason_required && !said.reason.trim()) return t("reasonFirst");
  return null;
}

function submit() {
  if (!task || busy) return;
  if (over) {
    announce("pl-over");
    if (!IN_ARENA) exchange(next);
    return;
  }
  const lacks = missing();
  const left = unranked();
  if (lacks) {
    complain(lacks);
    if (lacks === t("reasonFirst")) write(".pl-reason");
  } else if (left.length && left.length < said.ranks.length && !warned) {
    warned = true;
    complain(t("partial", { n: left.length, letters: left.join(", ") }));
    drawSaid();
  } else deliver();
}

function judgement() {
  const whole = (text) => text.toWellFormed?.() ?? text;
  return { ranks: said.ranks, strength: said.strength, none_acceptable: said.none, reason: whole(said.reason),
    edited: whole(said.edited), seconds: Math.round(seconds() * 10) / 10 };
}

function deliver() {
  const order = orderOf(said.ranks, letters()) || t("noneOrder");
  if (editing) {
    enqueue("/api/revise", { answer: editing, ...judgement() }, { order: t("changedOne", { order }), prompt: opening() });
    leave();
  } else if (IN_ARENA || task.practice) {
    exchange(async () => {
      const reply = await ask("/api/submit", { token: task.token, key: newKey(), ...judgement() });
      shelf.drop(draftName());
      announce("pl-submitted");
      if (reply.writers?.length) named(reply.writers);
      else if (reply.lesson) lesson(reply.lesson);
      else await next();
    });
  } else {
    enqueue("/api/submit", { token: task.token, ...judgement() }, { order, prompt: opening(), task, said });
    exchange(next);
  }
}

// The server has it.
function arrived(entry, content) {
  if (entry.body.answer) shelf.drop(`draft/answer-${entry.body.answer}`);
  if (entry.path !== "/api/submit") return;
  shelf.drop(`draft/${entry.body.token}`);
  lastAnswer = content.answer;
  drawModel(content.model, entry.order);
  drawProgress(content);
  lookAhead();
}

function refusedNow(entry) {
  complain(t("refused", { why: entry.refused }));
  shelf.drop(`draft/${entry.body.token}`); // it is kept with the refused one
}

function skip() {
  if (!task || over || busy) return;
  if (editing) return leave();
  if (IN_ARENA)
    return exchange(async () => {
      await ask("/api/skip", { token: task.token });
      announce("pl-skipped");
      await next();
    });
  enqueue("/api/skip", { token: task.token }, { prompt: opening() });
  return exchange(next);
}

// After practice: how it should be.
function lesson(taught) {
  over = true;
  redraw = () => {
    drawTask();
    drawLesson(taught);
  };
  const box = drawLesson(taught);
  drawSaid();
  box.scrollIntoView({ block: "nearest" });
  tell([...box.children].map((one) => one.innerText).join(". "));
}

function drawLesson({ right, ranks, html }) {
  const box = find(".pl-lesson");
  box.replaceChildren(make("h3", "", t(right ? "lessonRight" : "lessonWrong")),
    make("p", "pl-pastorder", t("lessonOrder", { order: orderOf(ranks, letters()) || t("noneOrder") })), rendered(html));
  box.classList.toggle("pl-wrong", !right);
  box.hidden = false;
  return box;
}

// The server says who wrote A, B, ... once the ranking can no longer change.
function named(writers) {
  over = true;
  element.querySelectorAll(".pl-letter").forEach((letter, i) => letter.after(make("span", "pl-writer", writers[i])));
  drawSaid();
}

// -- back to earlier answers ------------------------------------------------------------------------------------------

function aside() {
  if (put || !task) return;
  put = { task, said, past };
  saveDraft();
}

function openAnswer(answer) {
  return ask("/api/reopen", { answer }).then((reply) => {
    aside();
    editing = answer;
    const { ranks, strength, none_acceptable: none, reason, edited } = reply.said;
    open(reply.task, { ranks, strength, none, reason, edited });
    tell(t("editing"));
  });
}

// The last answer: out of what is not sent yet, or from the server.
function back() {
  exchange(async () => {
    const entry = unsent.findLast((one) => one.path === "/api/submit" && one !== sending && one.task);
    if (entry) return putBack(entry);
    const answer = lastAnswer ?? (await ask("/api/history", { campaign, before: null })).answers.find((one) => one.editable)?.answer;
    if (answer == null) return complain(t("nothingToUndo"));
    await openAnswer(answer);
    return tell(t("undone"));
  });
}

// Before the server has heard of it, a submission can simply be taken back.
function putBack(entry) {
  forget(entry);
  openDrawer(drawer);
  wait();
  open(entry.task, entry.said);
}

// The item at hand waits as the next one.
function wait() {
  aside();
  if (put) ahead = Promise.resolve({ task: put.task, gate: null, progress: {} });
  put = null;
  editing = null;
}

function leave() {
  const { task: waiting, said: words } = put || {};
  if (editing) shelf.drop(draftName());
  editing = put = null;
  find(".pl-editing").hidden = true;
  if (waiting) {
    open(waiting, words);
    lookAhead();
  } else exchange(next);
}

const withdraw = () => exchange(async () => {
  await ask("/api/withdraw", { answer: editing });
  shelf.drop(draftName());
  const words = said;
  if (lastAnswer === editing) lastAnswer = null;
  editing = null;
  const own = task;
  task = put?.task;
  wait();
  open(own, words);
  saveDraft();
  tell(t("withdrawn"));
});

// -- what the rater is told ------------------------------------------------------------------------------------------

function complain(text) {
  const box = find(".pl-bar .pl-error");
  box.textContent = text;
  box.hidden = !text;
  find(".pl-bar").hidden = find(".pl-work").hidden && !text;
}

function tell(text) {
  find(".pl-live").textContent = text;
}

// On the arena's page: other widgets hear what happens here, and may say what to rank next.
const announce = (name) => element.dispatchEvent(new CustomEvent(name, { bubbles: true }));
