// How texts are shown in the arena: as text, whatever they hold, and with the words that differ.

const roles = { system: "Setting", user: "User", assistant: "Assistant" };

function turnOf(message) {
  const made = make("li", `pl-turn pl-${message.role}`);
  made.append(make("div", "pl-role", roles[message.role]), textOf(message.content));
  return made;
}

function textOf(text) {
  const made = make("div", "pl-text pl-plaintext");
  made.dir = "auto";
  write(made, text);
  return made;
}

function write(into, text) {
  if (!ODD.test(text)) into.textContent = text;
  else into.replaceChildren(...spelled(text));
}

// Words of `text` that are not in `first` as <ins>, words that went as <del>: by the longest common subsequence.
function differences(first, text) {
  const [a, b] = [first, text].map((one) => one.match(/^\s+|\S+\s*/g) || []);
  const same = (i, j) => a[i].trim() === b[j].trim();
  if (a.length * b.length > 4e6) return spelled(text);
  const width = b.length + 1;
  const common = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      common[i * width + j] = same(i, j) ? common[(i + 1) * width + j + 1] + 1
        : Math.max(common[(i + 1) * width + j], common[i * width + j + 1]);
  const made = [];
  const put = (tag, word) => {
    if (made.length && made.at(-1).tag === tag) made.at(-1).text += word;
    else made.push({ tag, text: word });
  };
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && same(i, j)) { put("", b[j]); i++; j++; }
    else if (j >= b.length || (i < a.length && common[(i + 1) * width + j] >= common[i * width + j + 1])) put("del", a[i++]);
    else put("ins", b[j++]);
  }
  return made.flatMap(({ tag, text: part }) => {
    if (!tag) return spelled(part);
    const marked = make(tag, "");
    marked.append(...spelled(part));
    return [marked];
  });
}

function column(name, facts, texts) {
  const made = make("article", "ar-column");
  const top = make("div", "ar-top");
  top.append(make("span", "ar-name", name), facts);
  made.append(top, ...texts);
  return made;
}
