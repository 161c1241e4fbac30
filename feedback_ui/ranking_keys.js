// Mouse, thumb and keys; and how the page begins.

const acts = {
  submit,
  skip,
  leave,
  withdraw,
  signIn,
  signOut,
  keepPassword,
  none: () => say({ none: !said.none }),
  flag: openFlag,
  flagStay: () => report(false),
  flagSkip: () => report(true),
  shut: () => element.querySelectorAll("dialog[open]").forEach((one) => one.close()),
  close: () => openDrawer(drawer),
  keys: () => openDrawer("keys"),
  guide: () => guideline && openDrawer("guide"),
  history: () => openDrawer("history"),
  sync: () => openDrawer("sync"),
  password: () => {
    find(".pl-newpassword [name=name]").value = me; // for whoever keeps the passwords
    find(".pl-newpassword").showModal();
  },
  again: () => exchange(next),
  skipped: () => {
    again = Number(find("[data-act=skipped]").dataset.count) || 1;
    exchange(next);
  },
  unfold: () => {
    unfolded = !unfolded;
    fold();
    focusCard(current);
  },
  written: () => {
    written = !written;
    drawWritten();
  },
  breakNow: () => breakOver(0),
  breakLater: () => breakOver(Math.max(0, hello.break_minutes - 10)),
  agree: () => exchange(async () => {
    if (gate === "guideline") await ask("/api/acknowledge", { campaign, version: guideline.version });
    else await ask("/api/warning", { campaign, accept: true });
    await next();
  }),
  decline: () => exchange(async () => {
    await ask("/api/warning", { campaign, accept: false });
    screen(() => ({ title: t("declined"), why: t("declinedWhy") }));
  }),
};

element.addEventListener("click", (event) => {
  const pressed = event.target.closest("button");
  const onCard = event.target.closest(".pl-card");
  const { act, go, step, strength, start, rank } = pressed?.dataset || {};
  if (act) acts[act]();
  else if (!task) return; // the next one is on its way
  else if (go) focusCard(Number(go));
  else if (step) choose(Number(step));
  else if (strength) say({ strength: said.strength === strength ? null : strength });
  else if (start) startFrom(Number(start));
  else if (onCard) {
    const place = Number(onCard.dataset.card);
    if (rank) say({ ranks: placed(said.ranks, place, said.ranks[place] === Number(rank) ? null : Number(rank)) });
    if (!String(window.getSelection())) focusCard(place); // leave a selection of text alone
  }
});

function startFrom(place) {
  const box = find(".pl-better textarea");
  box.value = task.answers[place].text;
  box.dispatchEvent(new Event("input", { bubbles: true }));
  box.focus();
}

for (const [box, name] of [[".pl-reason", "reason"], [".pl-better", "edited"]])
  find(`${box} textarea`).addEventListener("input", (event) => {
    if (!task || over) return;
    said = { ...said, [name]: event.target.value };
    saveDraft();
  });

function write(box) {
  if (!task || over) return;
  find(box).open = true;
  find(`${box} textarea`).focus();
}

element.querySelectorAll("dialog").forEach((dialog) => dialog.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.target.tagName === "TEXTAREA" || event.target.tagName === "BUTTON") return;
  event.preventDefault();
  dialog.querySelector(".pl-go").click();
}));

// The buttons do what is to be done.
element.querySelectorAll("form").forEach((form) => form.addEventListener("submit", (event) => event.preventDefault()));

function escape(event) {
  if (drag) letGo();
  else if (/^(input|textarea|select)$/i.test(event.target.tagName)) {
    event.target.blur();
    if (task) focusCard(current);
  } else if (find(".pl-menu").open) find(".pl-menu").open = false;
  else if (drawer) acts.close();
  else if (editing && !busy) leave();
}

const keys = { "?": acts.keys, Z: undo, X: () => acts.none(), N: skip, Enter: submit, R: () => write(".pl-reason"),
  W: () => write(".pl-better"), O: () => !find("[data-act=unfold]").hidden && acts.unfold(), Q: acts.written, P: openFlag,
  I: acts.guide, M: acts.history, S: strengthen };

// Keys that rank: several answers, or two on a scale.
const many = {
  ArrowRight: () => focusCard(current + 1),
  ArrowLeft: () => focusCard(current - 1),
  Backspace: () => say({ ranks: placed(said.ranks, current, null) }),
  Delete: () => say({ ranks: placed(said.ranks, current, null) }),
  "=": () => say({ ranks: tied(said.ranks, current) }),
};
const two = {
  ArrowRight: () => shift(1),
  ArrowLeft: () => shift(-1),
  Backspace: () => say({ ranks: [null, null], strength: null }),
  Delete: () => say({ ranks: [null, null], strength: null }),
};

document.addEventListener("keydown", (event) => {
  if (!element.checkVisibility() || find("dialog[open]") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") return escape(event);
  if (event.repeat && event.target.closest?.("[data-act=agree]")) event.preventDefault(); // Enter is still held down
  if (event.target.closest?.("input, textarea, select, [contenteditable]") || event.repeat) return;
  // Enter and Space press the button that has the focus; on a rank button Enter submits, as on its card.
  const pressed = event.target.closest?.("button, summary");
  const ranking = pressed?.matches(".pl-rank, .pl-step, .pl-strong, .pl-chip");
  if (pressed && (event.key === " " || (event.key === "Enter" && !ranking))) return;
  const act = actOf(event);
  if (!act) return;
  event.preventDefault();
  act();
});

function actOf(event) {
  const key = event.key.length === 1 ? event.key.toUpperCase() : event.key;
  if (key === "?") return acts.keys;
  if (!task) return { M: acts.history, Z: undo }[key];
  if (event.shiftKey && !pairwise() && (key === "ArrowUp" || key === "ArrowDown"))
    return () => say({ ranks: stepped(said.ranks, current, key === "ArrowUp" ? -1 : 1) });
  if (/^[1-9]$/.test(key)) {
    if (pairwise()) return scale()[key - 1] && (() => choose(Number(key) - 1));
    return Number(key) <= said.ranks.length ? () => rankAndGoOn(current, Number(key)) : null;
  }
  const letter = task.answers.findIndex((answer) => answer.letter === key);
  if (letter >= 0) return () => focusCard(letter);
  return (pairwise() ? two : many)[key] || keys[key];
}

// -- look and language ------------------------------------------------------------------------------------------------

const THEMES = ["system", "light", "dark"];
const device = {
  get: (key) => { try { return localStorage.getItem(`${PREFIX}/${key}`); } catch { return null; } },
  put: (key, value) => { try { localStorage.setItem(`${PREFIX}/${key}`, value); } catch { /* for this page only */ } },
};
const night = window.matchMedia("(prefers-color-scheme: dark)");

function drawTheme() {
  const theme = device.get("theme") || "system";
  find(".pl-theme").value = theme;
  document.body.classList.toggle("dark", theme === "dark" || (theme === "system" && night.matches));
}

function drawLanguage() {
  speak(device.get("language"), hello.language, navigator.language);
  find(".pl-theme").replaceChildren(...choices("themes").map((name, i) => new Option(name, THEMES[i])));
  find(".pl-language").replaceChildren(...Object.keys(WORDS).map((one) => new Option(NAMES[one], one)));
  find(".pl-language").value = language;
  if (!IN_ARENA) drawTheme();
  drawSync();
  const focused = document.activeElement;
  redraw();
  if (task) focusCard(current);
  drawProgress(counted);
  if (passed) find(".pl-passed").textContent = t("passed", passed);
  if (drawer) openDrawer(drawer, true);
  focused?.focus({ preventScroll: true });
}

find(".pl-theme").addEventListener("change", (event) => {
  device.put("theme", event.target.value);
  drawTheme();
});
find(".pl-language").addEventListener("change", (event) => {
  device.put("language", event.target.value);
  complain("");
  warned = false;
  drawLanguage();
});
find(".pl-menu").addEventListener("toggle", () => (find(".pl-menubox .pl-error").hidden = true));
night.addEventListener("change", () => IN_ARENA || drawTheme());
document.addEventListener("click", (event) => {
  if (!event.target.closest?.(".pl-menu")) find(".pl-menu").open = false;
});

// -- time -------------------------------------------------------------------------------------------------------------

document.addEventListener("visibilitychange", () => {
  spent = seconds();
  since = document.visibilityState === "visible" && task ? performance.now() : 0;
  if (task && !over && document.visibilityState === "hidden") saveDraft();
});
let resized = 0;
window.addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(() => task && fold(), 150);
});
element.addEventListener("load", () => task && fold(), true); // a picture has come

// While the rater is at work the lease stays theirs.
async function renewal() {
  const left = task ? task.expires - Date.now() / 1000 : 60;
  setTimeout(renewal, 1000 * Math.min(300, Math.max(20, left / 3)));
  if (!task || over || editing || !active(10)) return; // long texts take long to read
  const own = task;
  const reply = await post("/api/renew", { token: own.token });
  if (reply.ok && reply.content.expires) own.expires = reply.content.expires;
}

// -- the beginning ----------------------------------------------------------------------------------------------------

function drawCampaigns() {
  const kept = shelf.get("campaign");
  const all = hello.campaigns || [];
  campaign = (all.find((one) => one.name === kept) || all.find((one) => one.waiting) || all[0])?.name ?? null;
  const plain = (one) => one.title || one.name;
  const alike = (one) => all.some((other) => other !== one && plain(other) === plain(one));
  const title = (one) => (alike(one) ? `${plain(one)} (${one.name})` : plain(one));
  const select = find(".pl-campaigns");
  select.hidden = all.length < 2;
  select.replaceChildren(...all.map((one) => new Option(title(one), one.name)));
  select.value = campaign;
  const only = all.length === 1 ? title(all[0]) : "";
  find(".pl-title").textContent = only === "default" ? "" : only;
}

find(".pl-campaigns").addEventListener("change", (event) => {
  if (task) saveDraft();
  campaign = event.target.value;
  shelf.put("campaign", campaign);
  task = ahead = put = editing = null;
  exchange(next);
});

async function start() {
  drawLanguage();
  if (IN_ARENA) return;
  try {
    hello = await ask("/api/hello", {});
  } catch {
    screen(() => ({ title: t("waitTitle"), why: t("unreachable"), tick: "…" }));
    setTimeout(start, 3000);
    return;
  }
  me = hello.rater;
  find(".pl-rater").textContent = me;
  find(".pl-menubox .pl-lead").hidden = !leads();
  for (const act of ["password", "signOut"]) find(`[data-act=${act}]`).hidden = !hello.sign_in;
  drawLanguage();
  recall();
  flush();
  drawCampaigns();
  exchange(next);
  setTimeout(renewal, 20e3);
  setInterval(() => tick(hello.break_minutes), TICK * 1000);
}

document.addEventListener("pl-rank", function rank(event) {
  if (busy) setTimeout(rank, 50, event);
  else {
    asked = event.detail.ask ?? null;
    exchange(next);
  }
});

start();
