// Rankings that leave, in other programs' forms, and those that come in.

const FOLDER = "A folder for the datasets library is no file: on the command line, prefloop feedback export with export.kind=datasets writes it.";

async function drawData(box) {
  const told = await askFor("/api/lead/formats");
  if (!told) return;
  box.append(el("div", "ld-pair", exportCard(told.formats), importCard(told.readable)));
}

const selectOf = (name, label, options, more = {}) => fieldOf(name, { label, options, ...more });
const campaignsOffered = (all) => [...(all ? [["", "All campaigns"]] : []), ...me.campaigns.map(({ name, title }) => [name, title || name])];

function exportCard(formats) {
  const lost = make("div", "ld-lost");
  lost.setAttribute("role", "status");
  const form = el("form", "", selectOf("format", "Format", formats.map(({ name, words }) => [name, words || name])), selectOf("kind", "Kind of file", [], { hint: FOLDER }),
    selectOf("campaign", "Campaign", campaignsOffered(true), { value: campaign ?? "" }),
    selectOf("raters", "Raters' names", [["pseudonyms", "pseudonyms, the same every time"], ["names", "as they are"]]), lost,
    el("div", "ld-acts", make("button", "pl-go", "Save the file")));
  const said = () => Object.fromEntries([...new FormData(form)].filter(([, value]) => value));
  const chosen = () => formats.find(({ name }) => name === form.elements.format.value);
  let asking = 0;
  const look = async () => {
    const own = ++asking;
    lost.replaceChildren(hint("Looking what would be lost …"));
    const { format, campaign: of = null } = said();
    const told = await ask("/api/lead/losses", { format, campaign: of });
    if (told && own === asking) lost.replaceChildren(...lossesOf(told, chosen()));
  };
  const kinds = () => form.elements.kind.replaceChildren(...chosen().kinds.map((kind) => new Option(kind, kind)));
  form.addEventListener("change", ({ target }) => {
    if (target.name === "format") kinds();
    if (["format", "campaign"].includes(target.name)) look();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    save(`/api/lead/export?${new URLSearchParams(said())}`);
  });
  kinds();
  requestAnimationFrame(look);
  return card("Export", hint("What counts today, for other programs. For training here, make a snapshot."), form);
}

function lossesOf({ rankings, lost }, { holds_not: never = [] }) {
  const made = [make("p", "ld-rankings", `${whole(rankings)} ${rankings === 1 ? "ranking" : "rankings"}.${lost.length ? " This form cannot hold:" : " All that they say is kept."}`)];
  if (lost.length) made.push(el("ul", "", ...lost.map(({ what, count }) => make("li", "", `${whole(count)} ${what}`))));
  else if (never.length) made.push(make("p", "pl-hint", `It could not hold ${never.join(", ")}.`));
  return made;
}

function importCard(readable) {
  const result = make("div", "");
  result.setAttribute("role", "status");
  const go = make("button", "pl-go", "Import");
  const form = el("form", "", fieldOf("file", { label: "File", type: "file", needed: true }),
    selectOf("format", "Format", [["auto", "find out"], ...readable.filter((name) => name !== "auto").map((name) => [name, name.replaceAll("_", " ")])]),
    selectOf("take", "Take from it", [["items", "prompts and answers, to be rated"], ["rankings", "rankings, by the raters named in it"]]),
    selectOf("campaign", "Into the campaign", campaignsOffered(false), { value: campaign ?? me.campaigns.at(-1)?.name }), result, el("div", "ld-acts", go));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    go.disabled = true;
    result.replaceChildren(hint("Reading it …"));
    const { format, take, campaign: into } = Object.fromEntries(new FormData(form));
    const told = await uploaded(form.elements.file.files[0], async (upload) => post("/api/lead/import", { upload, format, take, campaign: into }));
    go.disabled = false;
    const said = make("p", told.ok ? "ld-good" : "pl-error");
    said.append(...spelled(told.ok ? told.content.said : told.status ? String(told.content.error || told.status) : "The server cannot be reached. Nothing was imported."));
    result.replaceChildren(said);
  });
  return card("Import", hint("All of the file or nothing: what is malformed is named by file, row and column."), form);
}

// A file to the server, and then what is to be done with it there; the reply of whichever failed, or of the last.
async function uploaded(file, then) {
  let reply;
  try {
    reply = await fetch(`/api/lead/upload?${new URLSearchParams({ name: file.name })}`,
      { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: file });
  } catch {
    return { ok: false, status: 0, content: {} };
  }
  const content = await reply.json().catch(() => ({}));
  return reply.ok ? then(content.upload) : { ok: false, status: reply.status, content };
}
