// What every widget needs; it stands before the widget's own script, in one function with it. Everything that a model or
// a person wrote goes into the page through textContent alone.

const roles = { system: "Setting", user: "User", assistant: "Assistant" };
const find = (selector) => element.querySelector(selector);
const make = (tag, className, text = "") => {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
};

// A request and what came back: status 0 if nothing did.
async function post(path, body) {
  let reply;
  try {
    reply = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
    });
  } catch {
    return { ok: false, status: 0, content: {} };
  }
  return { ok: reply.ok, status: reply.status, content: await reply.json().catch(() => ({})) };
}

function turnOf(message) {
  const made = make("li", `pl-turn pl-${message.role}`);
  const text = make("div", "pl-text", message.content);
  text.dir = "auto";
  made.append(make("div", "pl-role", roles[message.role]), text);
  return made;
}

