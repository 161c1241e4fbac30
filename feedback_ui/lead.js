// The lead's page: which view is open, for which campaign, and who looks at it. The address after # says both, so that
// a view can be kept as a bookmark and opened beside another.

const VIEWS = {
  overview: { title: "Overview", draw: drawOverview },
  campaigns: { title: "Campaigns", draw: drawCampaigns },
  quality: { title: "Quality", draw: drawQuality },
  raters: { title: "Raters", draw: drawRaters },
  review: { title: "Review", draw: drawReview },
  data: { title: "Data", draw: drawData },
  people: { title: "People", draw: drawPeople, admin: true },
  log: { title: "Log", draw: drawLog },
};

let me = { lead: "", role: "lead", sign_in: false, campaigns: [] };
let view = "overview";
let campaign = null; // all of them
const waiting = {}; // by view: how much there waits for a lead

const address = (to, own = campaign) => `#${to}${own === null ? "" : `/${encodeURIComponent(own)}`}`;

async function arrive() {
  const [to, own] = window.location.hash.slice(1).split("/");
  view = to in VIEWS && allowed(to) ? to : "overview";
  campaign = own ? decoded(own) : null;
  drawHead();
  const box = make("div", `ld-view ld-${view}`);
  box.append(el("h1", "", VIEWS[view].title));
  const body = make("div", "ld-body");
  box.append(body);
  find(".ld-main").replaceChildren(box);
  document.title = `${VIEWS[view].title} · prefloop`;
  body.setAttribute("aria-busy", "true");
  await VIEWS[view].draw(body);
  body.removeAttribute("aria-busy");
  if (!body.childElementCount) body.append(card("", hint("This could not be loaded."), el("div", "", button("Try again", arrive))));
}

// A bookmark that was cut off is of no campaign.
function decoded(own) {
  try { return decodeURIComponent(own); } catch { return null; }
}

// Accounts are an admin's, and there are none without signing in.
const allowed = (name) => !VIEWS[name].admin || (me.sign_in && me.role === "admin");

function drawHead() {
  find(".ld-nav").replaceChildren(...Object.entries(VIEWS).filter(([name]) => allowed(name)).map(([name, { title }]) => {
    const link = el("a", "", title, waiting[name] ? make("b", "", waiting[name]) : null);
    link.href = address(name);
    if (name === view) link.setAttribute("aria-current", "page");
    return link;
  }));
  find(".ld-nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
  const select = find(".ld-campaign");
  select.replaceChildren(new Option("All campaigns", ""), ...me.campaigns.map(({ name, title }) => new Option(title || name, name)));
  select.value = campaign ?? "";
  find(".ld-me").textContent = me.lead;
  find(".ld-out").hidden = !me.sign_in;
}

function badge(name, count) {
  waiting[name] = count;
  drawHead();
}

// Campaigns come and go while the page is open.
async function refreshed() {
  me = (await ask("/api/lead/hello", {})) || me;
  drawHead();
}

find(".ld-campaign").addEventListener("change", ({ target }) => {
  window.location.hash = address(view, target.value || null);
});
find(".ld-out").addEventListener("click", async () => {
  if ((await ask("/api/sign_out", {})) !== null) window.location.replace("/sign-in");
});
document.addEventListener("click", (event) => {
  element.querySelectorAll(".ld-menu[open], .ld-more[open]").forEach((one) => (one.open = one.contains(event.target)));
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") element.querySelectorAll(".ld-menu[open], .ld-more[open]").forEach((one) => (one.open = false));
});
window.addEventListener("hashchange", () => {
  if (window.location.hash === "#main") return;
  arrive();
  window.scrollTo({ top: 0 });
});

// -- light and dark, as on the rating page ----------------------------------------------------------------------------

const night = window.matchMedia("(prefers-color-scheme: dark)");
const kept = (key) => { try { return localStorage.getItem(`prefloop/${key}`); } catch { return null; } };

function dress() {
  const theme = kept("theme") || "system";
  find(".ld-theme").value = theme;
  document.documentElement.classList.toggle("dark", theme === "dark" || (theme === "system" && night.matches));
}
find(".ld-theme").addEventListener("change", ({ target }) => {
  try { localStorage.setItem("prefloop/theme", target.value); } catch { /* it holds for this page alone */ }
  dress();
});
night.addEventListener("change", dress);

(async () => {
  dress();
  await refreshed();
  if (me.lead) await arrive();
})();
