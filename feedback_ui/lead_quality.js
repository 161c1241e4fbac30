// How far people agree, how it went, and each rater's figures with what can be done about them.

const CHARTS = ["alpha", "percent", "strata", "guidelines", "gold", "accepted", "left", "ties", "seconds", "model", "confidence"];

async function drawQuality(box) {
  const told = await ask("/api/lead/quality", { campaign });
  if (!told) return;
  const { overall, by_stratum: strata, by_guideline: versions } = told.agreement;
  box.append(...alarmsOf(told.alarms), agreementTiles(overall),
    chartsOf(CHARTS, { empty: "Charts come with the answers of two days." }),
    el("div", "ld-pair", card("By stratum", agreementTable(strata.filter(({ stratum, items }) => stratum || items), "Stratum", ({ stratum }) => stratum || "no stratum")),
      card("By guideline version", agreementTable(versions, "Version", ({ name }) => name))));
}

function alarmsOf(alarms) {
  if (!alarms.length) return [];
  const rows = alarms.map(({ words, campaign: own, since }) => el("li", "", named(words, "b"),
    el("span", "ld-none", ` since ${day(since)}`, ...(own && campaign === null ? [" in ", named(own)] : []))));
  const made = card(`${alarms.length} ${alarms.length === 1 ? "alarm" : "alarms"}`, el("ul", "ld-alarms", ...rows));
  made.classList.add("ld-warn");
  return [made];
}

const between = ({ low, high }, words = figure) => `95% interval ${words(low)} to ${words(high)}`;

function agreementTiles(overall) {
  const one = (name, estimate, words) => tile(name, estimate ? words(estimate.value) : "–", estimate ? between(estimate, words) : "not enough that two raters both ranked");
  return el("div", "ld-tiles", one("Krippendorff's alpha", overall.alpha, figure), one("Pairs on which two agree", overall.percent, percent),
    one("Kendall's tau-b", overall.tau_b, figure), tile("Items that two ranked", whole(overall.items)));
}

const agreementTable = (rows, title, name) => tableOf([
  { title, wide: true, by: name, cell: (one) => named(name(one), "b") },
  { title: "Items", right: true, by: ({ items }) => items, cell: ({ items }) => whole(items) },
  { title: "Alpha", right: true, by: ({ alpha }) => alpha?.value, cell: ({ alpha }) => intervalBar(alpha, { told: figure }) },
  { title: "Pairs", right: true, by: (one) => one.percent?.value, cell: (one) => intervalBar(one.percent, { level: 0.5 }) },
], rows, { empty: "No items yet that two raters ranked." });

// -- raters -----------------------------------------------------------------------------------------------------------

const RATED = [
  ["Gold right", "gold", { level: 0.75 }, "Share of gold items right"],
  ["Agrees", "agreement", { level: 0.5 }, "Share of pairs on which other raters said the same"],
  ["Consistent", "consistency", { level: 0.5 }, "Share of pairs said the same way on an item that came again"],
  ["First wins", "left", { level: 0.5 }, "Share of decided pairs won by the answer shown first"],
  ["Ties", "ties", {}, "Share of pairs that are tied"],
];

async function drawRaters(box) {
  const told = await ask("/api/lead/quality", { campaign });
  if (!told) return;
  const again = () => { box.replaceChildren(); return drawRaters(box); };
  const state = (name) => told.raters.filter((one) => one.state === name);
  const detail = make("div", "ld-detail");
  box.append(...standing("Proposed for quarantine", "Their answers still count. Look at the reasons, then decide.", state("proposed"), again),
    ...standing("In quarantine", "Their answers are kept and do not count; their items are open to others.", state("held"), again),
    ...standing("Look at", "Not enough to propose a quarantine. They get more gold, and their answers count.", told.raters.filter(toLookAt), again),
    detail, card(`${whole(told.raters.length)} raters`, tableOf([
      { title: "Rater", wide: true, by: ({ rater }) => rater, cell: ({ rater }) => raterLink(rater, detail) },
      { title: "State", by: stateTold, cell: (one) => (stateTold(one) ? stateOf(stateTold(one)) : "") },
      { title: "Answers", right: true, by: ({ answers }) => answers, cell: ({ answers }) => whole(answers) },
      ...RATED.map(([title, key, how, why]) => ({ title, why, right: true, by: (one) => one[key]?.value, cell: (one) => intervalBar(one[key], how) })),
      { title: "Seconds", right: true, by: ({ seconds }) => seconds?.value, cell: ({ seconds }) => (seconds ? whole(seconds.value) : "–") },
      { title: "", right: true, cell: (one) => raterMenu(one, again) },
    ], told.raters, { sort: [2, true], empty: "Nobody has rated anything yet." })));
  badge("raters", state("proposed").length + told.raters.filter(toLookAt).length);
}

// Whom a test has flagged, and no quarantine is open of them.
const toLookAt = ({ state, flagged }) => !state && flagged.length > 0;
const stateTold = (one) => one.state || (toLookAt(one) ? "look at" : "");

function standing(title, why, raters, again) {
  if (!raters.length) return [];
  const rows = raters.map((one) => el("article", "ld-standing",
    el("div", "ld-cardhead", named(one.rater, "h3"), make("span", "ld-none", `${whole(one.answers)} answers`),
      el("div", "ld-both", ...actsOn(one).map(([words, action, go]) => button(words, () => judge(one.rater, action, words, again), go ? "pl-go" : "pl-plain")))),
    el("ul", "", ...(one.state ? one.why : one.flagged).map((words) => named(words, "li")))));
  const made = card(title, hint(why), ...rows);
  if (raters[0].state === "proposed") made.classList.add("ld-warn");
  return [made];
}

const actsOn = ({ state }) => (state === "proposed" ? [["Dismiss", "dismiss"], ["Quarantine", "hold", true]]
  : state === "held" ? [["Lift", "lift"]] : [["Quarantine", "hold"]]);

const raterMenu = (one, again) => menuOf(`What to do about ${one.rater}`,
  actsOn(one).map(([words, action]) => [`${words}…`, () => judge(one.rater, action, words, again)]));

const SAID = {
  hold: ["Their answers will not count and their items go to others. Nothing is deleted, and it can be lifted.", "is in quarantine."],
  lift: ["Their answers count again; where somebody took the place meanwhile, as surplus.", "counts again."],
  dismiss: ["They are not proposed again for what they did so far.", "is not proposed any more."],
};

async function judge(rater, action, words, again) {
  const said = await dialog(`${words}: ${rater}`, SAID[action][0], { note: { label: "Why? It is kept in the log.", rows: 3, needed: true, maxLength: 2000 } }, words);
  if (!said) return;
  if (await ask("/api/lead/quarantine", { rater, action, note: said.note })) {
    tell(`${rater} ${SAID[action][1]}`);
    again();
  }
}

function raterLink(rater, detail) {
  const made = button("", () => {
    const head = el("div", "ld-cardhead", named(rater, "h2"), button("Close", () => detail.replaceChildren(), "pl-quiet"));
    detail.replaceChildren(card(head, chartsOf(["gold", "agreement", "left", "seconds"], { rater, empty: "Charts come with answers of two days." })));
    detail.scrollIntoView({ block: "nearest", behavior: "smooth" });
  }, "ld-link");
  made.append(named(rater));
  return made;
}
