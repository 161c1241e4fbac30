// What every widget and the sign-in page need; it stands before their own scripts, in one function with them. What a
// model or a person wrote goes into the page through textContent, or as HTML that the server made safe.

const find = (selector) => element.querySelector(selector);
const make = (tag, className, text = "") => {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
};

// A request and what came back: status 0 if nothing did. `after`: how many seconds the server wants to be left alone.
async function post(path, body) {
  let reply;
  try {
    reply = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(30000),
    });
  } catch {
    return { ok: false, status: 0, content: {}, after: 0 };
  }
  const after = Number(reply.headers.get("Retry-After")) || 0;
  return { ok: reply.ok, status: reply.status, content: await reply.json().catch(() => ({})), after };
}

// Characters that would be invisible, or reorder what stands around them, are named.
const ODD = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]/;

function spelled(text) {
  return text.split(new RegExp(`(${ODD.source})`)).filter(Boolean).map((part) =>
    ODD.test(part) ? make("span", "pl-odd", `U+${part.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}`) : part);
}
