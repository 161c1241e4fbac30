// What must not be lost: drafts and what is not sent yet are kept in this browser, per rater, and sent until the server
// has them. Every submission has a key, so that one that arrives twice counts once.

const PREFIX = "prefloop";
const DRAFT_DAYS = 14;
let me = "";

// The browser may have no storage, or a full one: then the page remembers for itself, until it is closed.
const shelf = {
  name: (key) => `${PREFIX}/${me}/${key}`,
  get(key) {
    try {
      return JSON.parse(localStorage.getItem(shelf.name(key)));
    } catch {
      return null;
    }
  },
  put(key, value) {
    try {
      localStorage.setItem(shelf.name(key), JSON.stringify(value));
      return true;
    } catch {
      return false;
    }
  },
  drop(key) {
    try {
      localStorage.removeItem(shelf.name(key));
    } catch { /* then nothing is there */ }
  },
  keys(start) {
    try {
      return Object.keys(localStorage).filter((key) => key.startsWith(shelf.name(start)))
        .map((key) => key.slice(shelf.name("").length));
    } catch {
      return [];
    }
  },
};

let unsent = []; // oldest first; `refused` says why the server will never take one
let sending = null;
let trouble = ""; // "", "offline", "signedOut", or the server's words
let tries = 0;
let timer = 0;

const newKey = () => [...crypto.getRandomValues(new Uint8Array(16))].map((n) => n.toString(16).padStart(2, "0")).join("");

// What an earlier page of this rater could not send.
function recall() {
  const kept = shelf.keys("unsent/").map((key) => shelf.get(key)).filter(Boolean);
  unsent = [...kept, ...unsent.filter((one) => !kept.some((other) => other.key === one.key))];
  unsent.sort((a, b) => a.at - b.at);
  const old = Date.now() - DRAFT_DAYS * 86400e3;
  shelf.keys("draft/").filter((key) => !(shelf.get(key)?.at > old)).forEach(shelf.drop);
}

function keep(entry) {
  const small = { ...entry, task: null };
  return shelf.put(`unsent/${entry.key}`, entry) || shelf.put(`unsent/${entry.key}`, small);
}

function enqueue(path, body, about = {}) {
  const entry = { key: newKey(), path, body, at: Date.now(), refused: "", ...about };
  if (path === "/api/submit" || path === "/api/revise") entry.body.key = entry.key;
  unsent.push(entry);
  keep(entry);
  flush();
  return entry;
}

function forget(entry) {
  unsent = unsent.filter((one) => one !== entry);
  shelf.drop(`unsent/${entry.key}`);
  if (!unsent.some((one) => !one.refused)) trouble = "";
  drawSync();
}

async function flush() {
  clearTimeout(timer);
  if (sending) return;
  for (;;) {
    sending = unsent.find((one) => !one.refused) || null;
    drawSync();
    if (!sending) return;
    const entry = sending;
    const reply = await post(entry.path, entry.body);
    sending = null;
    if (!settled(entry, reply)) break;
  }
  drawSync();
}

// Whether to go on with the next one.
function settled(entry, reply) {
  if (reply.ok) {
    trouble = "";
    tries = 0;
    forget(entry);
    arrived(entry, reply.content);
    return true;
  }
  if (reply.status === 401) {
    trouble = "signedOut";
    signedIn().then(flush);
    return false;
  }
  if (!reply.status || reply.status === 429 || reply.status >= 500) {
    trouble = reply.status ? String(reply.content.error || reply.status) : "offline";
    // For a minute often, as a restart takes; not all raters at one moment.
    timer = setTimeout(flush, 1000 * (reply.after || (tries < 24 ? 2 : 12) + Math.random()));
    tries += 1;
    return false;
  }
  if (entry.path === "/api/skip") { // it is not ours any more: that is what was asked for
    forget(entry);
    return true;
  }
  entry.refused = String(reply.content.error || reply.status);
  keep(entry);
  refusedNow(entry);
  return true;
}

// Tokens that the server need not offer again: they are dealt with here, and it will hear of it.
const holding = () => unsent.filter((entry) => !entry.refused).map((entry) => entry.body.token).filter(Boolean);

function drawSync() {
  const waiting = unsent.filter((one) => !one.refused).length;
  const refused = unsent.length - waiting;
  const [state, words] = refused ? ["bad", t("notSaved", { n: refused })]
    : trouble === "signedOut" ? ["bad", t("signInToSave")]
    : trouble === "offline" ? ["wait", waiting ? t("offline", { n: waiting }) : t("offlineNone")]
    : trouble ? ["wait", t("notSaved", { n: waiting })]
    : waiting ? ["busy", sending ? t("saving") : t("unsent", { n: waiting })] : ["good", t("saved")];
  const before = find(".pl-sync").dataset.state;
  if (before && [state, before].some((one) => one === "wait" || one === "bad") && state !== before) tell(words);
  find(".pl-sync").dataset.state = state;
  find(".pl-sync span").textContent = words;
  find(".pl-sync").title = trouble && trouble !== "offline" && trouble !== "signedOut" ? trouble : "";
  if (drawer === "sync") drawUnsent();
}

window.addEventListener("online", () => flush());
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && flush());
