// Signing in, joining with an invitation, and a new password. What the address says after # never reaches a server.

const way = { "/join": "join", "/reset": "reset" }[window.location.pathname] || "signIn";
const said = new URLSearchParams(window.location.search);
const invitation = new URLSearchParams(window.location.hash.slice(1)).get("t") || said.get("t");
const onward = said.get("to") === "lead" ? `/lead${window.location.hash}` : "/"; // the lead's view stands after #
const field = (name) => find(`[name=${name}]`);
const device = (key) => { try { return localStorage.getItem(`prefloop/${key}`); } catch { return null; } };

function complain(text) {
  find(".pl-error").textContent = text;
  find(".pl-error").hidden = !text;
}

// What is sent, and where; or what is still wrong, in words.
function asked() {
  const [name, password] = [field("name").value.trim(), field("password").value];
  if (way === "signIn" && (!name || !password)) return t("needName");
  if (!password) return t("needPassword"); // an invitation may say the name
  if (way === "signIn") return ["/api/sign_in", { name, password }];
  if (password !== field("again").value) return t("passwordsDiffer");
  return way === "join" ? ["/api/join", { invitation, name, password }] : ["/api/reset", { invitation, password }];
}

find("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const found = asked();
  if (typeof found === "string") {
    complain(found);
    return;
  }
  find(".pl-go").disabled = true;
  const reply = await post(...found);
  find(".pl-go").disabled = false;
  if (reply.ok) window.location.replace(onward);
  else {
    complain(reply.status ? String(reply.content.error || reply.status) : t("serverGone"));
    field("password").select();
  }
});

const night = window.matchMedia("(prefers-color-scheme: dark)");
const theme = device("theme") || "system";
document.documentElement.classList.toggle("dark", theme === "dark" || (theme === "system" && night.matches));
speak(device("language"), navigator.language);
document.title = `prefloop: ${t(way)}`;
find("h1").textContent = t(way);
find(".pl-hint").textContent = { signIn: t("welcome"), join: t("joinWhy"), reset: "" }[way];
find(".pl-go").textContent = { signIn: t("signIn"), join: t("joinDo"), reset: t("resetDo") }[way];
find(".pl-name").hidden = way === "reset";
find(".pl-namerule").hidden = way !== "join";
find(".pl-again").hidden = find(".pl-passwordrule").hidden = way === "signIn";
field("password").autocomplete = way === "signIn" ? "current-password" : "new-password";
field(way === "reset" ? "password" : "name").focus();
