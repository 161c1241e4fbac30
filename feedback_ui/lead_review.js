// The review queue: which review is open, what the reviewer says of it, and the keys, which are those of the rating
// page where they do the same. What is said is kept while the page is open, by the number of the review.

const REVIEW_KINDS = { disagreement: "Disagreement", model: "Model", flag: "Flagged" };
const REVIEW_STATES = { open: "Open", decided: "Decided", dismissed: "Dismissed" };
const CAUSES = { ambiguous: ["Ambiguous prompt", "U"], guideline: ["Guideline gap", "L"], mistake: ["Mistake", "K"],
  edge: ["Edge case", "V"], taste: ["Taste", "T"] };
const reviewWords = new Map(); // by a review's number, what the reviewer has said of it so far

let review = null; // what is seen now; a new one each time the view is opened

async function drawReview(box) {
  review = { box, state: "open", why: null, rows: [], more: false, counts: null, causes: [], case: null, said: null,
    past: [], current: 0, busy: false, written: false, folded: true };
  box.append(el("div", "rv-head"), el("div", "rv-page", el("aside", "rv-list"), el("div", "rv-case")), reviewBar());
  await listReviews();
}

// -- the list ---------------------------------------------------------------------------------------------------------

async function listReviews(after = null, wanted = null) {
  const own = review;
  const told = await ask("/api/lead/reviews", { campaign, state: own.state, why: own.why, after });
  if (!told || own !== review) return;
  Object.assign(own, { rows: after === null ? told.reviews : [...own.rows, ...told.reviews], more: told.more,
    counts: told.counts, causes: told.causes });
  drawReviewList();
  if (after !== null) return;
  const first = own.rows.find(({ id }) => id === wanted) ?? own.rows[0];
  if (first) await openReview(first.id);
  else closeReview();
}

async function openReview(id) {
  const own = review;
  const told = await ask("/api/lead/review", { id });
  if (!told || own !== review) return;
  const { ranks, none_acceptable: none, cause, gold } = told.decision || {};
  own.case = told;
  own.said = reviewWords.get(id) || { ranks: ranks ?? told.answers.map(() => null), none: Boolean(none), cause: cause ?? null,
    gold: Boolean(gold), note: told.note };
  Object.assign(own, { past: [], current: 0, written: false, folded: true });
  drawReviewList();
  drawCase();
}

function closeReview() {
  review.case = review.said = null;
  drawCase();
}

function stepReview(step) {
  const { rows, case: own } = review;
  const at = rows.findIndex(({ id }) => id === own?.id);
  const to = rows[at + step];
  if (to) openReview(to.id);
  else if (step > 0 && review.more) listReviews(rows.at(-1).id).then(() => review.rows[at + 1] && openReview(review.rows[at + 1].id));
  else tell(step > 0 ? "That was the last one." : "That was the first one.");
}

// -- what the reviewer says -------------------------------------------------------------------------------------------

const reviewLetters = () => review.case.answers.map(({ letter }) => letter);
const reviewPair = () => review.case.answers.length === 2;

function sayReview(change) {
  if (!review.case || review.busy) return;
  review.past.push(review.said);
  settleReview({ ...review.said, ...change });
}

function settleReview(said) {
  review.said = said;
  reviewWords.set(review.case.id, said);
  drawSaidOfReview();
  find(".rv-live").textContent = orderOf(said.ranks, reviewLetters(), ", ") || "nothing ranked";
}

function rankReview(place, rank) {
  sayReview({ ranks: placed(review.said.ranks, place, rank) });
  const { ranks } = review.said;
  const later = [...ranks.keys()].map((step) => (place + step) % ranks.length).find((i) => ranks[i] === null);
  focusReviewCard(later ?? place);
}

function undoReview() {
  if (review.past.length) settleReview({ ...review.past.pop(), note: review.said.note });
}

// What is still missing, in words.
function lackingInReview({ ranks, none, cause, gold }) {
  if (!none && ranks.every((rank) => rank === null)) return "Rank the answers first, or say that none is acceptable.";
  if (!cause) return "Say what it came of: pick a cause.";
  if (gold && !none && new Set(ranks).size === 1) return "Gold must put one answer above another.";
  return null;
}

async function decideReview() {
  const { case: own, said } = review;
  if (!own || review.busy) return;
  const lacks = lackingInReview(said);
  if (lacks) {
    complainInReview(lacks);
    return;
  }
  const reply = await sendReview("decide", { ranks: said.ranks, none_acceptable: said.none, cause: said.cause,
    note: said.note, gold: said.gold });
  if (!reply) return;
  tell(reply.gold === null ? "Decided." : own.gold_share > 0 || own.kind !== "normal"
    ? "Decided. It is a gold item now, for raters who have not met it."
    : `Decided. It is a gold item now; nobody gets it before gold_share of ${own.campaign} is above 0.`);
}

async function dismissReview() {
  if (!review.case || review.busy) return;
  if (await sendReview("dismiss", { note: review.said.note })) tell("Dismissed: it comes back for news alone.");
}

// On success the next one is open; on failure what was said stays.
async function sendReview(what, body) {
  const own = review;
  own.busy = true;
  complainInReview("");
  drawSaidOfReview();
  const { id, state } = own.case;
  const reply = await ask(`/api/lead/review/${what}`, { id, ...body, again: state !== "open" });
  own.busy = false;
  if (own !== review) return null;
  if (!reply) {
    await openReview(id); // somebody may have been faster
    return null;
  }
  reviewWords.delete(id);
  const at = own.rows.findIndex((one) => one.id === id);
  await listReviews(null, own.state === "open" ? own.rows[at + 1]?.id ?? own.rows[at - 1]?.id : id);
  return reply;
}

// -- keys -------------------------------------------------------------------------------------------------------------

const reviewKeys = {
  Enter: decideReview,
  J: dismissReview,
  N: () => stepReview(1),
  P: () => stepReview(-1),
  X: () => sayReview({ none: !review.said.none }),
  Y: () => sayReview({ gold: !review.said.gold }),
  Z: undoReview,
  Q: () => writtenInReview(),
  O: () => foldReview(),
  R: () => find(".rv-note").focus(),
  "?": () => (find(".rv-keys").open = !find(".rv-keys").open),
  ...Object.fromEntries(Object.entries(CAUSES).map(([cause, [, key]]) => [key, () => sayReview({ cause })])),
  Backspace: () => sayReview({ ranks: reviewPair() ? [null, null] : placed(review.said.ranks, review.current, null) }),
  Delete: () => reviewKeys.Backspace(),
  ArrowRight: () => (reviewPair() ? shiftReview(1) : focusReviewCard(review.current + 1)),
  ArrowLeft: () => (reviewPair() ? shiftReview(-1) : focusReviewCard(review.current - 1)),
  "=": () => reviewPair() || sayReview({ ranks: tied(review.said.ranks, review.current) }),
};

const reviewScale = scaleOf(false); // two answers: A, equal, B

function shiftReview(step) {
  const at = reviewScale.findIndex(({ ranks }) => String(ranks) === String(review.said.ranks));
  sayReview({ ranks: reviewScale[at < 0 ? 1 + step : Math.max(0, Math.min(2, at + step))].ranks });
}

function actOfReview(event) {
  const key = event.key.length === 1 ? event.key.toUpperCase() : event.key;
  if (event.shiftKey && !reviewPair() && (key === "ArrowUp" || key === "ArrowDown"))
    return () => sayReview({ ranks: stepped(review.said.ranks, review.current, key === "ArrowUp" ? -1 : 1) });
  if (/^[1-9]$/.test(key)) {
    if (reviewPair()) return reviewScale[key - 1] && (() => sayReview({ ranks: reviewScale[key - 1].ranks }));
    return Number(key) <= review.said.ranks.length ? () => rankReview(review.current, Number(key)) : null;
  }
  const letter = reviewLetters().indexOf(key);
  return letter >= 0 ? () => focusReviewCard(letter) : reviewKeys[key];
}

document.addEventListener("keydown", (event) => {
  if (!review?.box.isConnected || !review.case || find("dialog[open]")) return;
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  if (event.target.matches?.(".rv-note") && event.key === "Escape") return focusReviewCard(review.current);
  if (event.target.closest?.("input, textarea, select, [contenteditable]")) return;
  const pressed = event.target.closest?.("button, summary, a");
  if (pressed && (event.key === " " || event.key === "Enter") && !pressed.matches(".pl-rank, .rv-cause, .rv-step")) return;
  const act = actOfReview(event);
  if (!act) return;
  event.preventDefault();
  act();
});
