// What a lead wants to know first: is anything wrong, how far are we, do people agree?

async function drawOverview(box) {
  const [told, quality, reviews] = await Promise.all([ask("/api/lead/overview", {}), ask("/api/lead/quality", { campaign }),
    ask("/api/lead/reviews", { campaign, state: "open" })]);
  if (!told || !quality || !reviews) return;
  const shown = told.campaigns.filter(({ name }) => campaign === null || name === campaign);
  const sum = (key) => shown.reduce((total, one) => total + one[key], 0);
  const [wanted, done] = [sum("wanted"), sum("done")];
  const { alpha, percent: alike } = quality.agreement.overall;
  const proposed = quality.raters.filter(({ state }) => state === "proposed").length;
  const flagged = quality.raters.filter(toLookAt).length;
  badge("raters", proposed + flagged);
  badge("review", reviews.counts.all);
  box.append(...alarmsOf(quality.alarms),
    el("div", "ld-tiles",
      tile("Answers in", whole(done), wanted ? `${percent(done / wanted)} of ${whole(wanted)} wanted` : "none wanted yet"),
      tile("Agreement", alpha ? figure(alpha.value) : "–", alpha ? `alpha, ${between(alpha)}; ${percent(alike.value)} of pairs` : "no items yet that two raters ranked"),
      tile("Raters today", whole(told.raters.day), `${whole(told.raters.week)} this week, ${whole(told.raters.ever)} ever`),
      toDo("To review", reviews.counts.all, "review", `${whole(told.flags)} reports by raters`),
      toDo("To decide on", proposed + flagged, "raters", `${whole(proposed)} raters proposed for quarantine, ${whole(flagged)} to look at`)),
    chartsOf(["answers", "alpha"]),
    card("Campaigns", tableOf([
      { title: "Campaign", wide: true, by: ({ title, name }) => title || name, cell: ({ title, name }) => linkTo("campaigns", name, title || name) },
      { title: "State", by: ({ state }) => state, cell: ({ state }) => stateOf(state) },
      { title: "Items", right: true, by: ({ items }) => items, cell: ({ items }) => whole(items) },
      { title: "Answers", right: true, by: (one) => one.done, cell: (one) => `${whole(one.done)} of ${whole(one.wanted)}` },
      { title: "Progress", by: (one) => one.done / one.wanted, cell: (one) => meter(one.wanted ? one.done / one.wanted : 0) },
    ], shown, { empty: "No campaign yet. Make one under Campaigns." })));
}

const stateOf = (state) => make("span", `ld-state ld-is-${state.replace(" ", "-")}`, state);

// A tile that leads to the work it counts.
function toDo(name, count, to, note) {
  const made = el("a", "ld-tile ld-todo", ...tile(name, whole(count), note).childNodes);
  made.href = address(to);
  if (count) made.classList.add("ld-due");
  return made;
}
