// What a rater says of the answers: plain values and what can be done to them. Nothing here knows of the page.
// `ranks[i]` is the place of the i-th answer shown: 1 is best, the same number is a tie, null is unranked.

const STRENGTHS = ["negligibly", "slightly", "better", "significantly"];

const blank = (count) => ({ ranks: Array(count).fill(null), strength: null, none: false, reason: "", edited: "" });

// The answers by place, best first.
function tiersOf(ranks) {
  const used = [...new Set(ranks.filter((rank) => rank !== null))].sort((a, b) => a - b);
  return used.map((rank) => ranks.flatMap((own, i) => (own === rank ? [i] : [])));
}

function ranksOf(tiers, count) {
  const ranks = Array(count).fill(null);
  tiers.forEach((tier, i) => tier.forEach((one) => (ranks[one] = i + 1)));
  return ranks;
}

// The one answer that is best, if it is one.
function winner(ranks) {
  const [best = []] = tiersOf(ranks);
  return best.length === 1 ? best[0] : null;
}

const placed = (ranks, one, rank) => ranks.map((own, i) => (i === one ? rank : own));

// Put between two places: what is in the way moves towards the nearest free place.
function inserted(ranks, one, rank) {
  const own = placed(ranks, one, null);
  const taken = (at) => own.includes(at);
  const all = [...own.keys()].map((i) => i + 1);
  const below = all.find((at) => at >= rank && !taken(at));
  const above = all.findLast((at) => at < rank && !taken(at));
  if (below !== undefined)
    return placed(own.map((at) => (at !== null && at >= rank && at < below ? at + 1 : at)), one, rank);
  return placed(own.map((at) => (at !== null && at < rank && at > above ? at - 1 : at)), one, rank - 1);
}

// One step up (-1) or down (1): past its neighbour, or out of its tie. An unranked answer steps in at the end.
function stepped(ranks, one, step) {
  const tiers = tiersOf(ranks);
  const at = tiers.findIndex((tier) => tier.includes(one));
  if (at < 0) return step < 0 ? ranksOf([...tiers, [one]], ranks.length) : ranks;
  const rest = tiers[at].filter((other) => other !== one);
  if (rest.length) tiers.splice(at, 1, ...(step < 0 ? [[one], rest] : [rest, [one]]));
  else if (tiers[at + step]) [tiers[at], tiers[at + step]] = [tiers[at + step], tiers[at]];
  return ranksOf(tiers, ranks.length);
}

// As good as the one above it.
function tied(ranks, one) {
  const tiers = tiersOf(ranks);
  const at = tiers.findIndex((tier) => tier.includes(one));
  if (at < 0 && tiers.length) tiers.at(-1).push(one);
  if (at > 0 && tiers[at].length > 1) tiers[at] = tiers[at].filter((other) => other !== one);
  else if (at > 0) tiers.splice(at, 1);
  if (at > 0) tiers[at - 1].push(one);
  return ranksOf(tiers, ranks.length);
}

// Two answers: a scale from A to B over equal.
function scaleOf(withStrength) {
  const towards = (ranks) => STRENGTHS.map((strength) => ({ ranks, strength }));
  const equal = { ranks: [1, 1], strength: null };
  return withStrength ? [...towards([1, 2]).reverse(), equal, ...towards([2, 1])]
    : [{ ranks: [1, 2], strength: null }, equal, { ranks: [2, 1], strength: null }];
}

const onScale = (scale, said) =>
  scale.findIndex((one) => String(one.ranks) === String(said.ranks) && one.strength === said.strength);

// "B › A = C".
const orderOf = (ranks, letters, between = "  ›  ") =>
  tiersOf(ranks).map((tier) => tier.map((i) => letters[i]).join(" = ")).join(between);
