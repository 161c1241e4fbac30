// Everything that was ever changed, newest first, and whether the log still says so.

async function drawLog(box) {
  const list = make("div", "");
  const about = make("input", "ld-about");
  about.placeholder = "by or about a person";
  about.setAttribute("aria-label", "By or about a person");
  about.type = "search";
  about.addEventListener("change", () => drawEvents(list, about.value.trim()));
  const verdict = make("div", "ld-verdict");
  verdict.setAttribute("role", "status");
  const verify = button("Verify the log", async () => {
    verify.disabled = true;
    verdict.replaceChildren(hint("Reading the whole log …"));
    const told = await ask("/api/lead/verify", {});
    verify.disabled = false;
    verdict.replaceChildren(...(told ? verdictOf(told) : []));
  }, "pl-go");
  box.append(
    card(el("div", "ld-cardhead", make("h2", "", "Is it as it was written?"), verify),
      hint("Every event is chained to the one before it; every row of the store is held to the newest event on it."), verdict),
    card(el("div", "ld-cardhead", make("h2", "", "Events"), about), list));
  await drawEvents(list, "");
}

function verdictOf({ ok, events, head, first_bad: bad }) {
  const said = make("p", ok ? "ld-good" : "pl-error");
  said.append(...spelled(ok ? `All ${whole(events)} events and the rows they made are as they were written.` : `Not as it was written: ${bad}`));
  const stand = el("p", "pl-hint", "The log's head, to be kept elsewhere: ", make("code", "", head));
  return [said, ...(ok ? [stand] : [])];
}

async function drawEvents(list, about) {
  const told = await ask("/api/lead/events", { about });
  if (!told) return;
  const rows = make("div", "ld-events");
  list.replaceChildren(rows, ...(told.events.length ? [] : [hint("Nothing yet.")]));
  const fill = ({ events, more }) => {
    rows.append(...events.map(eventOf));
    list.querySelector(".ld-older")?.remove();
    if (more) list.append(button("Show earlier ones", async () => {
      const next = await ask("/api/lead/events", { about, before: events.at(-1).id });
      if (next) fill(next);
    }, "pl-plain ld-older"));
  };
  fill(told);
}

function eventOf({ id, at, kind, subject, actor, about, payload }) {
  const head = el("summary", "", make("span", "ld-id", id), make("time", "", moment(at)), named(kind, "b"),
    el("span", "ld-by", named(actor || "somebody who was deleted"), ...(about && about !== actor ? [" about ", named(about)] : [])),
    named(subject, "span", "ld-subject"));
  const told = make("pre", "");
  const made = el("details", "ld-event", head, told);
  made.addEventListener("toggle", () => {
    told.replaceChildren(...spelled(payload ? JSON.stringify(payload, null, 1) : "What it said was deleted, with the person whom it was about."));
  });
  return made;
}
