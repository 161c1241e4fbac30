// Drawing an item: the conversation, the answers as cards, and what has been said of them so far.

const letters = () => task.answers.map((answer) => answer.letter);
const pairwise = () => task.answers.length === 2;
const scale = () => scaleOf(task.strength);

function rendered(html) {
  const made = make("div", "pl-text");
  made.dir = "auto";
  made.innerHTML = html; // the server let nothing through that can do anything
  return made;
}

function asWritten(text) {
  const made = make("div", "pl-text pl-plaintext");
  made.dir = "auto";
  made.replaceChildren(...spelled(text));
  return made;
}

function button(className, text, act = "") {
  const made = make("button", className, text);
  made.type = "button";
  if (act) made.dataset.act = act;
  return made;
}

function drawTask() {
  written = false;
  unfolded = false;
  find("[data-act=written]").setAttribute("aria-pressed", "false");
  find(".pl-turns").replaceChildren(...task.conversation.map(turn));
  find(".pl-question").textContent = t(pairwise() ? "questionTwo" : "question");
  find(".pl-cards").dataset.count = task.answers.length;
  find(".pl-cards").replaceChildren(...task.answers.map(card));
  find(".pl-strip").hidden = pairwise();
  find(".pl-scale").hidden = !pairwise();
  if (pairwise()) drawScale();
  if (task.practice) find(".pl-practice").textContent = t("practice", { n: task.practice.number, of: task.practice.of });
  drawWords();
  drawSaid();
  fold();
}

function turn(message) {
  const made = make("li", `pl-turn pl-${message.role}`);
  made.append(make("div", "pl-role", table("roles")[message.role]), rendered(message.html));
  return made;
}

function card(answer, place) {
  const made = make("article", "pl-card");
  made.tabIndex = -1;
  made.dataset.card = place;
  const head = make("div", "pl-cardhead");
  const letter = make("span", "pl-letter", answer.letter);
  if (!pairwise()) letter.dataset.drag = place;
  head.append(letter);
  if (!pairwise()) head.append(rankButtons(answer.letter));
  made.append(head, rendered(answer.html));
  return made;
}

function rankButtons(letter) {
  const made = make("div", "pl-ranks");
  made.setAttribute("role", "group");
  task.answers.forEach((_, i) => {
    const one = button("pl-rank", i + 1);
    one.dataset.rank = i + 1;
    one.setAttribute("aria-label", t("rank", { rank: i + 1, letter }));
    made.append(one);
  });
  return made;
}

// -- long answers are cut at one height, all or none ------------------------------------------------------------------

function fold() {
  const texts = [...element.querySelectorAll(".pl-card > .pl-text")];
  const limit = Math.max(300, Math.round(window.innerHeight * 0.56));
  find(".pl-cards").style.setProperty("--fold", `${limit}px`);
  const long = texts.some((text) => text.scrollHeight > limit + 80);
  find(".pl-cards").classList.toggle("pl-folded", long && !unfolded);
  texts.forEach((text) => text.classList.toggle("pl-cut", long && !unfolded && text.scrollHeight > limit));
  find("[data-act=unfold]").hidden = !long;
  find("[data-act=unfold]").replaceChildren(t(unfolded ? "fold" : "unfold"), " ", make("kbd", "", "O"));
}

function drawWritten() {
  find("[data-act=written]").setAttribute("aria-pressed", String(written));
  element.querySelectorAll(".pl-card > .pl-text").forEach((text, i) =>
    text.replaceWith(written ? asWritten(task.answers[i].text) : rendered(task.answers[i].html)));
  fold();
}

// -- the words of the rater -------------------------------------------------------------------------------------------

function drawWords() {
  find(".pl-reason summary span").textContent = t(task.reason_required ? "reasonNeeded" : "reason");
  find(".pl-reason").classList.toggle("pl-needed", task.reason_required);
  find(".pl-reason").open = task.reason_required || Boolean(said.reason);
  find(".pl-better").open = Boolean(said.edited);
  find(".pl-reason textarea").value = said.reason;
  find(".pl-better textarea").value = said.edited;
  find(".pl-starts").replaceChildren(...task.answers.map((answer, i) => {
    const one = button("pl-plain", t("startFrom", { letter: answer.letter }));
    one.dataset.start = i;
    return one;
  }));
}

// -- what is said so far ----------------------------------------------------------------------------------------------

function drawSaid() {
  element.querySelectorAll(".pl-card").forEach((made, i) => {
    const rank = said.ranks[i];
    const tie = rank !== null && said.ranks.filter((other) => other === rank).length > 1;
    made.dataset.ranked = rank ?? "";
    made.classList.toggle("pl-best", !tie && winner(said.ranks) === i);
    const state = rank === null ? t("unranked") : t(tie ? "rankedTied" : "ranked", { rank });
    made.setAttribute("aria-label", t("answerState", { letter: letters()[i], state }));
    made.querySelectorAll(".pl-rank").forEach((one) =>
      one.setAttribute("aria-pressed", String(Number(one.dataset.rank) === rank)));
  });
  if (pairwise()) markScale();
  else drawStrip();
  drawStrength();
  drawState();
}

function chip(place) {
  const made = button("pl-chip", letters()[place]);
  made.tabIndex = -1;
  made.dataset.drag = made.dataset.go = place;
  return made;
}

// A place for each rank, a gap before each to drop between, and a tray for what is unranked.
function drawStrip() {
  const parts = said.ranks.flatMap((_, i) => {
    const gap = make("span", "pl-gap");
    gap.dataset.gap = i + 1;
    const slot = make("span", "pl-slot");
    slot.dataset.slot = i + 1;
    slot.append(make("span", "pl-number", i + 1),
      ...said.ranks.flatMap((rank, place) => (rank === i + 1 ? [chip(place)] : [])));
    return [gap, slot];
  });
  const end = make("span", "pl-gap");
  end.dataset.gap = said.ranks.length + 1;
  const tray = make("span", "pl-tray");
  tray.dataset.slot = 0;
  const loose = said.ranks.flatMap((rank, place) => (rank === null ? [chip(place)] : []));
  tray.append(make("span", "pl-number", t("notRanked")), ...loose);
  tray.classList.toggle("pl-bare", !loose.length);
  find(".pl-strip").replaceChildren(...parts, end, tray);
}

function drawScale() {
  const steps = scale();
  const middle = (steps.length - 1) / 2;
  const names = choices("strengths");
  find(".pl-scale").replaceChildren(make("span", "pl-end", "A"), ...steps.map((one, i) => {
    const made = button("pl-step", "");
    const letter = i < middle ? "A" : "B";
    const name = one.strength ? names[STRENGTHS.indexOf(one.strength)] : i === middle ? t("equal") : letter;
    made.setAttribute("role", "radio");
    made.setAttribute("aria-label", scaleWords(one));
    made.dataset.step = i;
    made.dataset.far = Math.abs(i - middle);
    made.append(make("span", "pl-stepname", name), make("span", "pl-stepshort", i === middle ? "=" : Math.abs(i - middle)));
    return made;
  }), make("span", "pl-end", "B"), scaleEnds(steps));
}

// On a phone the steps have no words: the ends have.
function scaleEnds(steps) {
  const made = make("span", "pl-ends");
  made.setAttribute("aria-hidden", "true"); // each step has its words as its name
  made.append(...[steps[0], steps.at(-1)].map((one) => make("span", "", scaleWords(one))));
  return made;
}

// What a step of the scale says, in words.
function scaleWords({ ranks, strength }) {
  if (ranks[0] === ranks[1]) return t("scaleEqual");
  const letter = ranks[0] === 1 ? "A" : "B";
  if (!strength) return t("scalePlain", { letter });
  if (strength === "better") return t("scaleBetter", { letter });
  return t("scaleSaid", { letter, strength: choices("strengths")[STRENGTHS.indexOf(strength)] });
}

function markScale() {
  const at = onScale(scale(), said);
  const half = (scale().length - 1) / 2;
  element.querySelectorAll(".pl-step").forEach((one, i) => {
    one.setAttribute("aria-checked", String(i === at));
    one.tabIndex = i === (at < 0 ? half : at) ? 0 : -1;
  });
}

// With more than two answers: how much better the one best answer is.
function drawStrength() {
  const box = find(".pl-strength");
  const best = winner(said.ranks);
  box.hidden = pairwise() || !task.strength || best === null || over || (unranked().length > 0 && !warned);
  if (box.hidden) return;
  box.setAttribute("aria-label", t("strengthOf", { letter: letters()[best] }));
  const names = choices("strengths");
  box.replaceChildren(make("span", "pl-hint", t("strengthOf", { letter: letters()[best] })), ...STRENGTHS.map((one, i) => {
    const made = button("pl-strong", names[i]);
    made.setAttribute("role", "radio");
    made.setAttribute("aria-checked", String(said.strength === one));
    made.dataset.strength = one;
    return made;
  }), make("kbd", "", "S"));
}

const unranked = () => letters().filter((_, i) => said.ranks[i] === null);

function drawState() {
  const go = find(".pl-go[data-act=submit]");
  const left = task ? unranked() : [];
  const untouched = task && left.length === said.ranks.length;
  const act = busy ? "saving" : over ? "goOn" : warned ? "anyway" : editing ? "saveChange" : "submit";
  go.firstElementChild.textContent = t(act);
  find(".pl-none").setAttribute("aria-pressed", String(said.none));
  element.querySelectorAll(".pl-acts button").forEach((one) => (one.disabled = busy || (over && one !== go)));
  if (!task) return;
  go.classList.toggle("pl-wait", !over && (untouched ? !said.none : left.length > 0 && !warned));
  const done = !untouched && !left.length;
  find(".pl-order").textContent = untouched ? "" : pairwise() ? scaleWords(said) : orderOf(said.ranks, letters());
  find(".pl-flagged").hidden = !said.none;
  const hint = find(".pl-state > .pl-hint");
  hint.textContent = over ? t("kept") : untouched ? (said.none ? t("ready") : t(pairwise() ? "startTwo" : "start"))
    : left.length ? t("left", { letters: left.join(", ") }) : done && !find(".pl-strength").hidden ? "" : t("ready");
  hint.classList.toggle("pl-ready", over || said.none || done);
}

function focusCard(place) {
  const cards = [...element.querySelectorAll(".pl-card")];
  current = Math.max(0, Math.min(place, cards.length - 1));
  cards.forEach((made, i) => made.classList.toggle("pl-current", i === current && !pairwise()));
  cards[current]?.focus({ preventScroll: true });
  if (!busy) cards[current]?.scrollIntoView({ block: "nearest" });
}

// -- how far the work is ----------------------------------------------------------------------------------------------

const SEVERAL = 20; // answers at least, by which the count of all goes up among several raters
let counted = {}; // the last reply that told it

function drawProgress(reply) {
  const { progress } = reply;
  if (progress?.wanted !== undefined) {
    // Among several raters the count of all stands still after some kinds of items: it is told in twentieths.
    const share = progress.done / Math.max(1, progress.wanted);
    counted = reply;
    find(".pl-meter").hidden = hello.sign_in && progress.wanted <= SEVERAL; // it would be empty until the end
    const percent = hello.sign_in ? 5 * Math.floor(share * 20) : 100 * share;
    find(".pl-count").textContent = t(hello.sign_in ? "countMine" : "count", { ...progress, n: progress.mine });
    find(".pl-fill").style.width = `${percent}%`;
    find(".pl-meter").setAttribute("aria-valuenow", Math.round(percent));
  }
  if ("guideline" in reply) guideline = reply.guideline?.html ? reply.guideline : null;
  find("[data-act=guide]").hidden = !guideline;
}

let passed = null; // how practice went, once it is passed

function drawPassed(reply) {
  const { state, right, done } = reply.qualification || {};
  passed = practising && !reply.task?.practice && state === "passed" ? { right, done } : null;
  find(".pl-passed").hidden = !passed;
  if (passed) find(".pl-passed").textContent = t("passed", passed);
  if (!reply.task?.practice) practising = false;
}
