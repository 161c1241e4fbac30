// The words of the page, in the rater's language. WORDS, a table for each language, is put before this by app.py.

const NAMES = { en: "English", de: "Deutsch" };
let language = "en";

function speak(...wishes) {
  const known = wishes.map((wish) => String(wish || "").slice(0, 2).toLowerCase()).find((wish) => wish in WORDS);
  language = known || "en";
  document.documentElement.lang = language;
  element.querySelectorAll("[data-t]").forEach((one) => (one.textContent = t(one.dataset.t)));
  element.querySelectorAll("[data-label]").forEach((one) => one.setAttribute("aria-label", t(one.dataset.label)));
}

const table = (key) => WORDS[language][key] ?? WORDS.en[key];

// The words for `key`, with {name} replaced; `n` chooses between one and other.
function t(key, values = {}) {
  const found = table(key);
  const text = typeof found === "string" ? found : found[new Intl.PluralRules(language).select(values.n)] ?? found.other;
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

const choices = (key) => t(key).split("|");
