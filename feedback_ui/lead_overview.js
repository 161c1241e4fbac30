// What a lead wants to know first: is anything wrong, how far are we, do people agree?

async function drawOverview(box) {
  const told = await ask("/api/lead/overview", { campaign });
  if (!told) return;
  const shown = told.campaigns.filter(({ name }) => campaign === null || name === campaign);
  const sum = (key) => shown.reduce((total, one) => total + one[key], 0);
  const [wanted, done] = [sum("wanted"), sum("done")];
  box.append(
    el("div", "ld-tiles",
      tile("Answers in", whole(done), wanted ? `${percent(done / wanted)} of ${whole(wanted)} wanted` : ""),
      tile("Items", whole(sum("items"))),
      tile("Raters today", whole(told.raters.day), `${whole(told.raters.week)} this week, ${whole(told.raters.ever)} ever`),
      tile("Reports", whole(told.flags), "items that a rater pointed at")),
    chartsOf(["answers", "alpha"]),
    card("Campaigns", tableOf([
      { title: "Campaign", wide: true, by: ({ name }) => name, cell: ({ name }) => campaignLink(name) },
      { title: "State", by: ({ state }) => state, cell: ({ state }) => stateOf(state) },
      { title: "Items", right: true, by: ({ items }) => items, cell: ({ items }) => whole(items) },
      { title: "Answers", right: true, by: (one) => one.done, cell: (one) => `${whole(one.done)} of ${whole(one.wanted)}` },
      { title: "Progress", by: (one) => one.done / one.wanted, cell: (one) => meter(one.wanted ? one.done / one.wanted : 0) },
    ], shown, { empty: "No campaign yet." })));
}

const stateOf = (state) => make("span", `ld-state ld-is-${state}`, state);

function campaignLink(name) {
  const made = named(me.campaigns.find((one) => one.name === name)?.title || name, "a");
  made.href = address("overview", name);
  return made;
}
