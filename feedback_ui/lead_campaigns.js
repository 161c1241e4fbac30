// Campaigns: made, changed, started, paused, and how far each is in every stratum.

async function drawCampaigns(box) {
  if (campaign === null) {
    const told = await ask("/api/lead/campaigns", {});
    if (told) box.append(campaignsCard(told.campaigns));
    return;
  }
  const told = await ask("/api/lead/campaign", { name: campaign });
  if (told) box.append(...campaignCards(told, box));
}

function campaignsCard(campaigns) {
  const head = el("div", "ld-cardhead", make("h2", "", `${whole(campaigns.length)} ${campaigns.length === 1 ? "campaign" : "campaigns"}`),
    button("New campaign", () => changeCampaign(null), "pl-go"));
  return card(head, tableOf([
    { title: "Campaign", wide: true, by: ({ title, name }) => title || name, cell: ({ title, name }) => el("span", "", linkTo("campaigns", name, title || name), title ? named(` ${name}`, "span", "ld-none") : null) },
    { title: "State", by: ({ state }) => state, cell: ({ state }) => stateOf(state) },
    { title: "Items", right: true, by: ({ items }) => items, cell: ({ items }) => whole(items) },
    { title: "Answers", right: true, by: ({ done }) => done, cell: ({ done, wanted }) => `${whole(done)} of ${whole(wanted)}` },
    { title: "Progress", by: ({ done, wanted }) => done / wanted, cell: ({ done, wanted }) => meter(wanted ? done / wanted : 0) },
    { title: "Raters", right: true, by: ({ raters }) => raters, cell: ({ raters }) => whole(raters) },
    { title: "Compares", wide: true, cell: ({ contestants }) => named((contestants || []).join(", ") || "–", "span", "ld-none") },
  ], campaigns, { empty: "No campaign yet. Make one: a file of prompts with answers is all it takes." }));
}

function linkTo(to, own, words) {
  const made = named(words, "a");
  made.href = address(to, own);
  return made;
}

function campaignCards(told, box) {
  const { settings, state, progress, fillable, refused, coverage } = told;
  const turn = async (action) => {
    const reply = await post(`/api/lead/campaign/${action}`, { name: settings.name });
    if (!reply.ok) return tell(String(reply.content.error || "The server cannot be reached."), true);
    tell(action === "start" ? "Raters get its items now." : "Raters get nothing of it until it is started again.");
    box.replaceChildren();
    return drawCampaigns(box);
  };
  const acts = [button("Change …", () => changeCampaign(told)),
    state === "open" ? button("Pause", () => turn("pause"), "pl-plain") : button("Start", () => turn("start"), "pl-go")];
  const head = el("div", "ld-cardhead", el("h2", "", named(settings.title || settings.name), " ", stateOf(state)), ...acts);
  const made = [card(head, progress.wanted ? meter(progress.done / progress.wanted) : null,
    make("p", "pl-hint ld-how", `${whole(progress.done)} of ${whole(progress.wanted)} answers to ${whole(progress.items)} items, asked for ${ASKED[settings.ask] || settings.ask}.`))];
  if (fillable.length) {
    const stands = card(state === "open" ? "What stands in the way" : "Before it starts", refused.length ? hint("In bold: what has to be mended, or it can never be filled.") : null,
      el("ul", "ld-alarms", ...fillable.map((words) => el("li", "", named(words, refused.includes(words) ? "b" : "span")))));
    stands.classList.add("ld-warn");
    made.push(stands);
  }
  return [...made, card("Coverage", coverageTable(coverage)), chartsOf(["answers", "alpha"])];
}

const ASKED = { queued: "as queued", random: "at random", stratified: "by quota", uncertainty: "where models disagree most" };

function coverageTable(coverage) {
  const most = Math.max(...coverage.map(({ share, quota }) => Math.max(share ?? 0, quota ?? 0)), 0.01);
  return tableOf([
    { title: "Stratum", wide: true, by: ({ stratum }) => stratum, cell: ({ stratum }) => named(stratum || "no stratum", "b") },
    { title: "Items", right: true, by: ({ items }) => items, cell: ({ items }) => whole(items) },
    { title: "Answers", right: true, by: ({ answers }) => answers, cell: ({ answers, wanted }) => `${whole(answers)} of ${whole(wanted)}` },
    { title: "Progress", by: ({ answers, wanted }) => answers / wanted, cell: ({ answers, wanted }) => meter(wanted ? answers / wanted : 0) },
    { title: "Share of answers", right: true, why: "The line is the quota", by: ({ share }) => share, cell: ({ share, quota }) => shareBar(share, quota, most) },
    { title: "Agreement", right: true, why: "Krippendorff's alpha", by: ({ agreement }) => agreement?.value, cell: ({ agreement }) => intervalBar(agreement, { told: figure }) },
    { title: "Models apart", right: true, why: "Spread of the ensemble's scores, mean", by: ({ uncertainty }) => uncertainty, cell: ({ uncertainty }) => figure(uncertainty) },
  ], coverage, { empty: "It has no items yet." });
}

// What share of the answers a stratum has, and a line where its quota is.
function shareBar(share, quota, most) {
  const bar = el("span", "ld-interval ld-filled", make("i", ""));
  bar.firstChild.style.width = `${100 * (share ?? 0) / most}%`;
  if (quota !== null && quota !== undefined) {
    bar.append(make("s", ""));
    bar.lastChild.style.left = `${100 * quota / most}%`;
  }
  const made = el("span", "ld-estimate", make("span", "", `${percent(share ?? 0)}${quota === null || quota === undefined ? "" : ` of ${percent(quota)}`}`), bar);
  return made;
}

// -- making and changing one ------------------------------------------------------------------------------------------

// What a lead may set, in the order in which it is thought about; a file is uploaded first and then named.
const SETTINGS = [
  ["What is rated", [
    ["name", { label: "Name", needed: true, maxLength: 64, hint: "Short, for files and addresses. It stays." }],
    ["title", { label: "Title for raters", maxLength: 200 }],
    ["answers", { label: "Prompts with answers", type: "file", hint: "A prompt with its answers on each line, as prefloop generate writes them. More can come later." }],
    ["answers_per_item", { label: "Answers of an item, at most", type: "number", min: 2, max: 8, hint: "Empty: all, up to 8." }],
  ]],
  ["Who, and how often", [
    ["raters", { label: "Raters", hint: "Names, with commas between them. Empty: everybody who has an account." }],
    ["raters_per_item", { label: "Raters for an item", type: "number", min: 1 }],
    ["overlap", { label: "Share of items that more raters get", type: "number", min: 0, max: 1, step: "any" }],
    ["overlap_raters", { label: "Raters for those", type: "number", min: 1 }],
  ]],
  ["What is asked next", [
    ["ask", { label: "Items come", options: Object.entries(ASKED) }],
    ["quotas", { label: "Quotas", rows: 3, hint: "For “by quota”. One stratum on a line, such as maths: 0.3; together they make 1." }],
    ["random_share", { label: "Share that is drawn at random all the same", type: "number", min: 0, max: 1, step: "any" }],
    ["scores", { label: "A model's scores", type: "file", hint: "As prefloop score writes them. For “where models disagree most”, and to hold the model against people." }],
    ["show_model", { label: "Show raters the model's order, after they answered", type: "checkbox" }],
  ]],
  ["Quality", [
    ["gold", { label: "Gold items", type: "file", hint: "Rankings that are right, one on each line." }],
    ["gold_share", { label: "Share of gold", type: "number", min: 0, max: 0.5, step: "any" }],
    ["probation", { label: "Share of gold for who is new, or in doubt", type: "number", min: 0, max: 1, step: "any" }],
    ["repeats", { label: "Share of repeats", type: "number", min: 0, max: 0.5, step: "any" }],
    ["reason_share", { label: "Share that asks for a reason", type: "number", min: 0, max: 1, step: "any" }],
    ["strength", { label: "Ask how much better the best is", type: "checkbox" }],
  ]],
  ["What raters read", [
    ["guideline", { label: "Guidelines", rows: 8, hint: "Markdown. Another text is a new version, which every rater confirms." }],
    ["warning", { label: "Warning before the work", rows: 2 }],
    ["qualification", { label: "Qualification round", type: "file", hint: "As gold; these come first, with their explanations." }],
    ["qualification_pass", { label: "Share of it to get right", type: "number", min: 0, max: 1, step: "any" }],
    ["break_minutes", { label: "Suggest a break after minutes of work", type: "number", min: 0, step: "any" }],
    ["hide", { label: "Names to black out", hint: "With commas between them." }],
  ]],
];
const START = { ask: "queued", raters_per_item: 1, overlap: 0.1, overlap_raters: 3, random_share: 0.25, gold_share: 0.1, probation: 0.5, repeats: 0.05,
  reason_share: 0, strength: true, qualification_pass: 0.8, break_minutes: 50 };
const LISTS = ["raters", "hide"];

function changeCampaign(told) {
  const before = told ? { ...told.settings, guideline: told.guideline } : START;
  const wrong = make("div", "pl-error");
  wrong.setAttribute("role", "alert");
  wrong.hidden = true;
  const go = make("button", "pl-go", told ? "Keep the changes" : "Make it");
  const form = el("form", "ld-form", make("h2", "", told ? `Change ${before.title || before.name}` : "New campaign"),
    ...SETTINGS.map(([title, fields]) => el("fieldset", "", make("legend", "", title), ...fields.map(([name, field]) => fieldOf(name, { ...field, value: shownValue(name, before[name]) })))),
    wrong, el("div", "ld-acts", button("Cancel", () => box.close()), go));
  form.elements.name.readOnly = Boolean(told);
  const box = el("dialog", "ld-dialog ld-large", form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    go.disabled = true;
    const reply = await saved(form, before);
    go.disabled = false;
    wrong.hidden = reply.ok;
    wrong.replaceChildren(...spelled(reply.ok ? "" : reply.status ? String(reply.content.error || reply.status) : "The server cannot be reached. Nothing was changed."));
    if (!reply.ok) return wrong.scrollIntoView({ block: "nearest" });
    box.close();
    tell(String(reply.content.said || "It is kept."));
    await refreshed();
    const to = address("campaigns", form.elements.name.value.trim());
    return window.location.hash === to ? arrive() : window.location.assign(to);
  });
  box.addEventListener("close", () => box.remove());
  element.append(box);
  box.showModal();
}

const shownValue = (name, value) => (LISTS.includes(name) ? (value || []).join(", ")
  : name === "quotas" ? Object.entries(value || {}).map(([stratum, share]) => `${stratum}: ${share}`).join("\n")
  : value ?? "");

// What the form says, as the server knows it; the server says what is wrong with it.
async function saved(form, before) {
  const settings = {};
  for (const [name, { type, options }] of SETTINGS.flatMap(([, fields]) => fields)) {
    const input = form.elements[name];
    const value = type === "checkbox" ? input.checked : input.value.trim();
    if (type === "file") {
      const failed = input.files[0] && await uploaded(input.files[0], (upload) => { settings[name] = name === "answers" ? [upload] : upload; return null; });
      if (failed) return failed;
    } else if (LISTS.includes(name)) settings[name] = value.split(",").map((one) => one.trim()).filter(Boolean);
    else if (name === "quotas") settings[name] = quotasOf(value);
    else if (type === "number") settings[name] = value === "" ? null : Number(value);
    else settings[name] = options && !value ? before[name] : value;
  }
  const { guideline, ...rest } = settings;
  return post("/api/lead/campaign/save", { settings: rest, guideline });
}

const quotasOf = (text) => Object.fromEntries(text.split("\n").map((line) => line.trim()).filter(Boolean).map((line) => {
  const at = line.lastIndexOf(":");
  return at < 0 ? [line, NaN] : [line.slice(0, at).trim(), Number(line.slice(at + 1))];
}));
