// What stands beside the work: guidelines, the rater's own answers, keys, what is not sent yet; reports, signing in,
// breaks, and the screens that stand where no item is.

let drawer = "";

// -- the drawer -------------------------------------------------------------------------------------------------------

function openDrawer(name, again = false) {
  drawer = name === drawer && !again ? "" : name;
  find(".pl-drawer").hidden = !drawer;
  for (const one of ["guide", "history", "keys", "sync"])
    find(`.pl-head [data-act=${one}]`).setAttribute("aria-expanded", String(one === drawer));
  if (!drawer) return;
  const body = find(".pl-drawerbody");
  const title = { guide: () => t("guidelinesVersion", { n: guideline.number }), history: () => t("history"),
    keys: () => t("keysTitle"), sync: () => t("syncTitle") }[drawer]();
  find(".pl-drawerhead h2").textContent = title;
  find(".pl-drawer").setAttribute("aria-label", title);
  body.replaceChildren();
  if (drawer === "guide") body.append(rendered(guideline.html));
  if (drawer === "history") drawHistory(null);
  if (drawer === "keys") body.append(keysList());
  if (drawer === "sync") drawUnsent();
}

function keysList() {
  const made = make("dl", "pl-keys");
  const two = task && pairwise();
  const rows = two ? [...table(task.strength ? "keysTwo" : "keysThree"), ...table("keys").filter(([key]) => !/^(1 2 3|← →|S|=|Shift|Back)/.test(key))]
    : table("keys");
  rows.forEach(([key, meaning]) => made.append(make("dt", "", key), make("dd", "", meaning)));
  return made;
}

async function drawHistory(before) {
  const body = find(".pl-drawerbody");
  const reply = await post("/api/history", { campaign, before });
  if (drawer !== "history") return;
  body.querySelector(".pl-moreanswers")?.remove();
  if (!reply.ok) {
    body.append(make("p", "pl-error", reply.status ? String(reply.content.error) : t("unreachable")));
    return;
  }
  const found = reply.content.answers;
  if (!before && !found.length) body.append(make("p", "pl-hint", t("historyEmpty")));
  body.append(...found.map(pastAnswer));
  if (!found.length) return;
  const more = button("pl-quiet pl-moreanswers", t("historyMore"));
  more.addEventListener("click", () => drawHistory(found.at(-1).answer));
  if (found.length >= 20) body.append(more);
}

function pastAnswer({ answer, at, prompt, order, none_acceptable: none, editable, model }) {
  const made = make("article", "pl-past");
  const when = new Date(at * 1000).toLocaleString(language, { weekday: "short", hour: "2-digit", minute: "2-digit" });
  const said = orderWords(order) || (none ? t("noneOrder") : "");
  const text = make("p", "pl-pastprompt", prompt);
  text.dir = "auto";
  const foot = make("div", "pl-pastfoot");
  foot.append(make("span", "pl-pastorder", said), make("time", "", when));
  if (model) foot.append(make("span", "pl-model", modelWords(model)));
  if (editable) {
    const change = button("pl-quiet", t("change"));
    change.addEventListener("click", () => exchange(() => openAnswer(answer)));
    foot.append(change);
  }
  made.append(text, foot);
  return made;
}

// What a model said of an item: told once the rater has answered it, and quietly.
const modelWords = (order) => t("modelOrder", { order: orderWords(order) });
const orderWords = (order) => order.map((tier) => tier.join(" = ")).join("  ›  ");

function drawModel(order, said) {
  const box = find(".pl-modelsaid");
  box.textContent = order ? t("modelLast", { order: orderWords(order), said }) : "";
  box.hidden = !order;
}

function drawUnsent() {
  const body = find(".pl-drawerbody");
  body.replaceChildren(make("p", "pl-hint", t(unsent.length ? "syncWaiting" : "syncNone")));
  if (trouble && trouble !== "offline" && trouble !== "signedOut")
    body.append(make("p", "pl-error", t("refused", { why: trouble })));
  if (unsent.some((one) => !one.refused)) {
    const now = button("pl-plain", t("sendNow"));
    now.addEventListener("click", flush);
    body.append(now);
  }
  body.append(...unsent.map(unsentOne));
}

function unsentOne(entry) {
  const made = make("article", "pl-past");
  const words = { "/api/skip": t("skippedOne"), "/api/flag": t("reported") }[entry.path] || entry.order;
  made.append(make("p", "pl-pastprompt", entry.prompt || ""), make("div", "pl-pastorder", words));
  if (!entry.refused) return made;
  made.append(make("p", "pl-error", t("syncRefused", { why: entry.refused })));
  const foot = make("div", "pl-pastfoot");
  if (entry.task && entry.said) {
    const open = button("pl-plain", t("openAgain"));
    open.addEventListener("click", () => putBack(entry));
    foot.append(open);
  }
  const away = button("pl-quiet", t("throwAway"));
  away.addEventListener("click", () => forget(entry));
  foot.append(away);
  made.append(foot);
  return made;
}

// -- where no item is -------------------------------------------------------------------------------------------------

function show(part) {
  for (const one of ["work", "gate", "done"]) find(`.pl-${one}`).hidden = one !== part;
  find(".pl-acts").hidden = find(".pl-state").hidden = part !== "work";
  if (part !== "work") find(".pl-strip").hidden = find(".pl-scale").hidden = true;
  find(".pl-bar").hidden = part !== "work" && find(".pl-bar .pl-error").hidden;
}

let redraw = () => {}; // what is seen, once more: in another language

// `content` says it in words, as often as it is asked.
function screen(content) {
  redraw = () => fill(content());
  const box = redraw();
  (box.querySelector("[data-act=agree]") || box.querySelector("h2")).focus({ preventScroll: true }); // for Enter to go on
  window.scrollTo({ top: 0 });
}

function fill({ title, why, tick = "", html = null, agree = "", decline = false, skipped = 0, standings = [], lead = false }) {
  show(html === null ? "done" : "gate");
  const box = find(html === null ? ".pl-done" : ".pl-gate");
  box.querySelector("h2").textContent = title;
  if (html === null) {
    box.querySelector("p").textContent = why;
    find(".pl-tick").textContent = tick;
    find(".pl-revealed").replaceChildren(...(standings.length ? [standingsTable(standings)] : []));
    find("[data-act=skipped]").hidden = !skipped;
    find(".pl-done .pl-lead").hidden = !lead;
    find("[data-act=skipped]").dataset.count = skipped;
    find("[data-act=skipped]").textContent = t("bringBack", { n: skipped });
  } else {
    box.querySelector(".pl-text").innerHTML = html; // made safe by the server
    find("[data-act=agree]").textContent = agree;
    find("[data-act=decline]").hidden = !decline;
  }
  return box;
}

// Who was compared, and how each did: only a campaign that is done tells it.
function standingsTable(rows) {
  const made = make("table", "pl-standings");
  const line = (tag, cells) => {
    const row = make("tr", "");
    row.append(...cells.map((cell) => make(tag, "", cell)));
    return row;
  };
  const share = (n) => (100 * n).toLocaleString(language, { minimumFractionDigits: 1, maximumFractionDigits: 1 });
  const interval = ({ value, low, high }) => t("interval", { value: share(value), low: share(low), high: share(high) });
  made.append(line("th", choices("revealedHeads")), ...rows.map(({ name, win_rate: rate, best }) =>
    line("td", [name, rate ? interval(rate) : "–", best])));
  return made;
}

function drawGate(reply) {
  gate = reply.gate;
  const { done, right } = reply.qualification || {};
  const contents = {
    warning: () => ({ title: t("warningTitle"), html: reply.warning, agree: t("agree"), decline: true }),
    guideline: () => ({ title: t(reply.guideline.changed ? "guidelineChanged" : "guidelineTitle"),
      html: reply.guideline.html, agree: t("acknowledge") }),
    failed: () => ({ title: t("failed"), why: t("failedWhy", { right, done }) }),
    quarantined: () => ({ title: t("quarantined"), why: t("quarantinedWhy") }),
    paused: () => ({ title: t("paused"), why: t("pausedWhy") }),
    not_admitted: () => (find(".pl-campaigns").hidden
      ? { title: t("nothingOpen"), why: t(leads() ? "nothingOpenLead" : "nothingOpenWhy"), lead: leads() }
      : { title: t("notAdmitted"), why: t("notAdmittedOther") }),
  };
  screen(contents[gate]);
}

// -- a report, signing in, a password ---------------------------------------------------------------------------------

const FLAGS = ["unsafe", "personal", "broken", "other"];

function openFlag() {
  if (!task || over) return;
  find(".pl-flag textarea").value = "";
  find(".pl-kinds").replaceChildren(...choices("flagKinds").map((name, i) => {
    const label = make("label", "");
    const box = make("input", "");
    Object.assign(box, { type: "radio", name: "flag", value: FLAGS[i], checked: !i });
    label.append(box, name);
    return label;
  }));
  find(".pl-flag").showModal();
  find(".pl-kinds input").focus();
}

function report(thenSkip) {
  const kind = find(".pl-kinds input:checked").value;
  enqueue("/api/flag", { token: task.token, kind, note: find(".pl-flag textarea").value }, { prompt: opening() });
  find(".pl-flag").close();
  tell(t("flagKept"));
  if (thenSkip) skip();
}

let signing = null;

// Resolves once the rater is signed in again; the work stays where it is.
function signedIn() {
  signing ??= new Promise((done) => {
    const dialog = find(".pl-sign");
    find(".pl-sign [name=name]").value = me;
    dialog.showModal();
    find(".pl-sign [name=password]").focus();
    dialog.onclose = () => signing && dialog.showModal(); // Esc does not help: nothing is saved without it
    dialog.done = () => {
      signing = null;
      trouble = "";
      dialog.close();
      done();
    };
  });
  return signing;
}

async function signIn() {
  const dialog = find(".pl-sign");
  const [name, password] = ["name", "password"].map((field) => dialog.querySelector(`[name=${field}]`).value);
  const reply = await post("/api/sign_in", { name, password });
  const error = dialog.querySelector(".pl-error");
  error.hidden = reply.ok;
  if (!reply.ok) {
    error.textContent = reply.status ? String(reply.content.error || reply.status) : t("unreachable");
    return;
  }
  dialog.querySelector("[name=password]").value = "";
  if (me && reply.content.rater !== me) window.location.reload(); // another rater: nothing of the first is theirs
  else dialog.done();
}

async function keepPassword() {
  const dialog = find(".pl-newpassword");
  const [old, fresh] = ["old", "new"].map((field) => dialog.querySelector(`[name=${field}]`));
  const reply = await post("/api/password", { old: old.value, new: fresh.value });
  const error = dialog.querySelector(".pl-error");
  error.hidden = reply.ok;
  if (!reply.ok) error.textContent = reply.status ? String(reply.content.error || reply.status) : t("unreachable");
  else {
    old.value = fresh.value = "";
    dialog.close();
    tell(t("passwordChanged"));
  }
}

async function signOut() {
  const waiting = unsent.length;
  if (waiting && trouble !== "offline" && !window.confirm(t("signOutUnsent", { n: waiting }))) return;
  const reply = trouble === "offline" ? { status: 0 } : await post("/api/sign_out", {});
  if (reply.ok || reply.status === 401) return window.location.assign("/sign-in");
  const box = find(".pl-menubox .pl-error");
  box.hidden = false;
  box.textContent = reply.status ? why(reply) : waiting ? t("signOutOffline", { n: waiting }) : t("signOutUnreached");
  return flush(); // the server may be back
}

// -- breaks -----------------------------------------------------------------------------------------------------------

let touched = Date.now(); // when the rater last did anything
const TICK = 30; // seconds
const active = (minutes = 2) => document.visibilityState === "visible" && Date.now() - touched < minutes * 60e3;

function tick(minutes) {
  let worked = shelf.get("worked") || { minutes: 0, until: 0 };
  if (Date.now() - worked.until > 600e3) worked.minutes = 0; // that was a break
  if (active()) worked = { minutes: worked.minutes + TICK / 60, until: Date.now() };
  shelf.put("worked", worked);
  if (!minutes || worked.minutes < minutes || !find(".pl-break").hidden) return;
  find(".pl-break span").textContent = t("break", { n: Math.round(worked.minutes) });
  find(".pl-break").hidden = false;
}

function breakOver(minutes) {
  shelf.put("worked", { minutes, until: Date.now() });
  find(".pl-break").hidden = true;
}

["pointerdown", "keydown", "wheel", "touchmove"].forEach((kind) =>
  document.addEventListener(kind, () => (touched = Date.now()), { passive: true }));
