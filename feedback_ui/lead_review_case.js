// Drawing the review queue: the list, a case with all that people and models said of it, and the reviewer's own bar.

function drawReviewList() {
  const { box, state, why, rows, more, counts, causes, case: own } = review;
  const tab = (words, pressed, act) => {
    const made = button(words, act, "rv-tab");
    made.setAttribute("aria-pressed", String(pressed));
    return made;
  };
  const turn = (change) => () => { Object.assign(review, change); listReviews(); };
  box.querySelector(".rv-head").replaceChildren(
    el("div", "rv-tabs", ...Object.entries(REVIEW_STATES).map(([name, title]) =>
      tab(name === "open" ? `${title} ${whole(counts.all)}` : title, state === name, turn({ state: name })))),
    el("div", "rv-tabs", tab("All", why === null, turn({ why: null })), ...Object.entries(REVIEW_KINDS).map(([name, title]) =>
      tab(state === "open" ? `${title} ${whole(counts[name])}` : title, why === name, turn({ why: name })))), keysOfReview());
  box.querySelector(".rv-list").replaceChildren(
    el("ol", "rv-rows", ...rows.map((row) => reviewRow(row, row.id === own?.id))),
    ...(more ? [button("More", () => listReviews(rows.at(-1).id), "pl-plain")] : []), causesOf(causes));
}

// Keys that no button names.
function keysOfReview() {
  const made = el("details", "rv-keys", el("summary", "pl-quiet", "Keys ", make("kbd", "", "?")), el("dl", "", ...Object.entries({
    "A B C …": "mark an answer", "1 2 3 …": "its rank; of two answers: A is better, equal, B is better", "← →": "to the one beside it",
    "Shift ↑ ↓": "a place up or down", "=": "as good as the one above", "⌫": "no rank", Z: "undo", R: "say why; Esc leaves it",
    "N P": "the next review, the one before" }).flatMap(([key, what]) => [make("dt", "", key), make("dd", "", what)])));
  made.open = Boolean(find(".rv-keys")?.open);
  return made;
}

function reviewRow(row, current) {
  const chips = el("span", "rv-chips", ...row.kinds.map((kind) => make("span", `rv-chip rv-is-${kind}`,
    kind === "flag" ? [...new Set(row.flags)].join(", ") : REVIEW_KINDS[kind])));
  const done = row.state === "open" ? null : hintOf(row);
  const made = button("", () => openReview(row.id), "rv-row");
  made.append(named(row.prompt || "–", "span", "rv-prompt"), chips, ...(done ? [done] : []));
  if (current) made.setAttribute("aria-current", "true");
  return el("li", "", made);
}

const hintOf = ({ state, cause, reviewer, closed }) => el("span", "rv-done",
  `${cause ? CAUSES[cause][0] : REVIEW_STATES[state]} · ${day(closed)} · `, named(reviewer));

function causesOf(causes) {
  if (!causes.length) return "";
  const most = Math.max(...causes.map(({ reviews }) => reviews));
  return card("What it came of", el("dl", "rv-causes", ...causes.flatMap(({ cause, reviews, guideline }) => [
    make("dt", "", CAUSES[cause][0] + (cause === "guideline" ? (guideline ? `, version ${guideline}` : ", no guideline") : "")),
    el("dd", "", meter(reviews / most, `${reviews} of ${most}`), make("span", "", whole(reviews)))])));
}

// -- a case -----------------------------------------------------------------------------------------------------------

function drawCase() {
  const { box, case: own } = review;
  box.querySelector(".rv-bar").hidden = !own;
  const into = box.querySelector(".rv-case");
  if (!own) {
    const nothing = { open: "Nothing waits for a review.", decided: "Nothing was decided yet.", dismissed: "Nothing was dismissed." };
    into.replaceChildren(el("div", "ld-card rv-nothing", make("div", "rv-tick", "✓"), make("h2", "", nothing[review.state]),
      hint("An item comes here when trusted raters disagree, when a reward model is sure of the contrary, or when somebody flags it.")));
    return;
  }
  into.replaceChildren(whyOf(own), conversationOf(own), answersOf(own), card("What was said", saidTable(own)));
  complainInReview("");
  find(".rv-note").value = review.said.note;
  drawSaidOfReview();
  foldReview(true);
  focusReviewCard(0);
  window.scrollTo({ top: 0 });
}

function whyOf(own) {
  const lines = own.why.flatMap((why) => {
    if (why.kind === "disagreement") return [el("li", "", chipOf("disagreement"), `Raters put ${pairsOf(why.pairs, " and ")} both ways round.`)];
    if (why.kind === "model") return [el("li", "", chipOf("model"), `The reward model is sure of the contrary of what a rater said: ${pairsOf(why.pairs, " above ")}.`)];
    return own.flagged.map((flag) => el("li", "", make("span", "rv-chip rv-is-flag", flag.kind), named(flag.rater),
      flag.note ? ": " : ".", ...(flag.note ? [named(flag.note, "q")] : [])));
  });
  const decided = own.state === "open" ? [] : [el("li", "", make("span", "rv-chip", REVIEW_STATES[own.state]),
    named(own.reviewer), own.decision ? `: ${orderInWords(own.decision)}. ${CAUSES[own.decision.cause][0]}${own.decision.gold ? "; a gold item" : ""}.` : ".")];
  const place = el("span", "rv-place", named(own.campaign), ` · item ${own.item}${own.kind === "normal" ? "" : `, ${own.kind}`}`);
  return el("div", "rv-why", el("ul", "", ...lines, ...decided), place);
}

const chipOf = (kind) => make("span", `rv-chip rv-is-${kind}`, REVIEW_KINDS[kind]);
const pairsOf = (pairs, between) => pairs.map((pair) => pair.join(between)).join(", ");
const orderInWords = ({ order, none_acceptable: none }) =>
  [order.map((tier) => tier.join(" = ")).join(" › ") || "no order", ...(none ? ["none acceptable"] : [])].join(", ");

function safeHtml(html) {
  const made = make("div", "pl-text");
  made.dir = "auto";
  made.innerHTML = html; // the server let nothing through that can do anything
  return made;
}

function conversationOf(own) {
  return card("Conversation", el("ol", "pl-turns", ...own.conversation.map(({ role, html }) =>
    el("li", `pl-turn pl-${role}`, make("div", "pl-role", role), safeHtml(html)))));
}

function answersOf(own) {
  const cards = own.answers.map((answer, place) => {
    const made = el("article", "rv-answer", el("div", "rv-answerhead", make("span", "rv-letter", answer.letter),
      reviewPair() ? null : rankButtonsOf(answer.letter, place)), safeHtml(answer.html));
    made.tabIndex = -1;
    made.addEventListener("click", () => String(window.getSelection()) || focusReviewCard(place));
    return made;
  });
  return el("section", "rv-answers", el("div", "rv-tools", make("h2", "", "Answers"),
    keyed("As written", "Q", writtenInReview, "pl-quiet rv-written"), keyed("Show all", "O", () => foldReview(), "pl-quiet rv-unfold")),
  el("div", "rv-cards", ...cards));
}

function rankButtonsOf(letter, place) {
  return el("div", "rv-ranks", ...review.case.answers.map((_, i) => {
    const made = button(String(i + 1), () => sayReview({ ranks: placed(review.said.ranks, place, review.said.ranks[place] === i + 1 ? null : i + 1) }), "pl-rank");
    made.setAttribute("aria-label", `Rank ${i + 1} for ${letter}`);
    return made;
  }));
}

function keyed(title, key, act, className) {
  const made = button("", act, className);
  made.append(make("span", "", title), " ", make("kbd", "", key));
  return made;
}

// What raters said, and models. A rater who is not heard, or whose answer does not count, is marked.
function saidTable(own) {
  const rows = [...own.given, ...own.models.map((model) => ({ ...model, rater: model.model, isModel: true }))];
  return tableOf([
    { title: "Who", cell: whoSaid },
    { title: "Order", cell: (one) => make("b", "", orderInWords(one)) },
    { title: "Reason", wide: true, cell: reasonOf },
    { title: "Guideline", cell: ({ guideline }) => (guideline ? `version ${guideline}` : "–") },
    { title: "Took", right: true, cell: ({ seconds }) => (seconds === null || seconds === undefined ? "–" : `${Math.round(seconds)} s`) },
    { title: "When", right: true, cell: ({ at }) => (at ? moment(at) : "–") },
  ], rows, { empty: "Nobody has answered it yet." });
}

function whoSaid(one) {
  const marks = one.isModel ? ["reward model"] : [...(one.kind === "repeat" ? ["repeat"] : []), ...(one.trusted ? [] : ["not trusted"]),
    ...(one.counts ? [] : ["does not count"]), ...(one.informed ? ["after seeing the model's order"] : [])];
  return el("span", "rv-who", named(one.rater), ...marks.map((mark) => make("span", "rv-mark", mark)));
}

function reasonOf(one) {
  if (one.isModel) return `scores ${one.scores.map((score, i) => `${reviewLetters()[i]} ${figure(score)}`).join(", ")}${one.spread === null ? "" : `; spread ${figure(one.spread)}`}`;
  const made = el("span", "", one.reason ? named(one.reason) : "–", one.strength ? make("span", "rv-mark", one.strength) : null);
  if (one.edited) made.append(el("details", "rv-edited", make("summary", "", "A better answer"), named(one.edited, "div", "pl-plaintext")));
  return made;
}

// -- answers as they were written, and long ones cut ------------------------------------------------------------------

function writtenInReview() {
  review.written = !review.written;
  review.box.querySelectorAll(".rv-answer").forEach((made, i) => {
    const { html, text } = review.case.answers[i];
    made.lastChild.replaceWith(review.written ? named(text, "div", "pl-text pl-plaintext") : safeHtml(html));
  });
  find(".rv-written").setAttribute("aria-pressed", String(review.written));
  foldReview(review.folded);
}

function foldReview(folded = !review.folded) {
  review.folded = folded;
  const cards = find(".rv-cards");
  cards.classList.toggle("rv-folded", folded);
  const cut = [...cards.querySelectorAll(".pl-text")].map((text) => text.classList.toggle("rv-cut", text.scrollHeight > text.clientHeight + 8));
  find(".rv-unfold").hidden = folded && !cut.includes(true);
  find(".rv-unfold span").textContent = folded ? "Show all" : "Shorten";
}

function focusReviewCard(place) {
  const cards = [...review.box.querySelectorAll(".rv-answer")];
  review.current = Math.max(0, Math.min(place, cards.length - 1));
  cards.forEach((made, i) => made.classList.toggle("rv-current", i === review.current && !reviewPair()));
  cards[review.current]?.focus({ preventScroll: true });
  if (place > 0) cards[review.current]?.scrollIntoView({ block: "nearest" });
}

// -- the reviewer's bar -----------------------------------------------------------------------------------------------

function reviewBar() {
  const note = make("textarea", "rv-note");
  Object.assign(note, { rows: 1, maxLength: 2000, dir: "auto", placeholder: "Why (R)" });
  note.setAttribute("aria-label", "Why");
  note.addEventListener("input", () => {
    review.said = { ...review.said, note: note.value };
    reviewWords.set(review.case.id, review.said);
  });
  const causes = el("div", "rv-pick", ...Object.entries(CAUSES).map(([cause, [title, key]]) => {
    const made = keyed(title, key, () => sayReview({ cause }), "rv-cause");
    made.setAttribute("role", "radio");
    made.dataset.cause = cause;
    return made;
  }));
  causes.setAttribute("role", "radiogroup");
  causes.setAttribute("aria-label", "What it came of");
  const made = el("div", "rv-bar", make("div", "rv-error pl-error"), el("div", "rv-line", make("span", "rv-order"), el("div", "rv-scale")),
    el("div", "rv-line", causes, note),
    el("div", "rv-acts", keyed("None acceptable", "X", reviewKeys.X, "pl-plain rv-none"), keyed("Gold item", "Y", reviewKeys.Y, "pl-plain rv-gold"),
      make("span", "ld-room"), keyed("Dismiss", "J", dismissReview, "pl-plain"), keyed("Next", "N", reviewKeys.N, "pl-plain"),
      keyed("Decide", "Enter", decideReview, "pl-go rv-go")), make("div", "rv-live"));
  made.hidden = true;
  made.querySelector(".rv-live").setAttribute("role", "status");
  made.querySelector(".rv-error").setAttribute("role", "alert");
  return made;
}

function complainInReview(what) {
  find(".rv-error").textContent = what;
  find(".rv-error").hidden = !what;
}

function drawSaidOfReview() {
  const { box, case: own, said, busy } = review;
  if (!own) return;
  if (!lackingInReview(said)) complainInReview("");
  box.querySelectorAll(".rv-answer").forEach((made, i) => {
    made.classList.toggle("rv-best", winner(said.ranks) === i);
    made.setAttribute("aria-label", `Answer ${own.answers[i].letter}, ${said.ranks[i] === null ? "unranked" : `rank ${said.ranks[i]}`}`);
    made.querySelectorAll(".pl-rank").forEach((one, rank) => one.setAttribute("aria-pressed", String(said.ranks[i] === rank + 1)));
  });
  const order = orderOf(said.ranks, reviewLetters());
  find(".rv-order").textContent = order || (reviewPair() ? "" : "1 to 9 rank the marked answer");
  find(".rv-order").classList.toggle("pl-hint", !order);
  find(".rv-scale").replaceChildren(...(reviewPair() ? reviewScale.map(scaleStep) : []));
  box.querySelectorAll(".rv-cause").forEach((one) => one.setAttribute("aria-checked", String(one.dataset.cause === said.cause)));
  find(".rv-none").setAttribute("aria-pressed", String(said.none));
  find(".rv-gold").setAttribute("aria-pressed", String(said.gold));
  find(".rv-go span").textContent = busy ? "Saving" : own.state === "open" ? "Decide" : "Decide again";
  box.querySelectorAll(".rv-acts button").forEach((one) => (one.disabled = busy));
}

function scaleStep({ ranks }, i) {
  const made = keyed(["A is better", "Equal", "B is better"][i], String(i + 1), () => sayReview({ ranks }), "rv-step");
  made.setAttribute("aria-pressed", String(String(review.said.ranks) === String(ranks)));
  return made;
}
