// Who may sign in: accounts, roles, invitations, and what is kept of a person.

const ROLES = [["rater", "rater: ranks answers"], ["lead", "lead: campaigns, quality, reviews"], ["admin", "admin: people too"]];

async function drawPeople(box) {
  const told = await ask("/api/lead/people", {});
  if (!told) return;
  const acts = el("div", "ld-cardhead", make("h2", "", `${whole(told.people.length)} accounts`),
    button("Invite somebody", () => invite("join"), "pl-go"));
  box.replaceChildren(card(acts, tableOf([
    { title: "Name", wide: true, by: ({ name }) => name, cell: ({ name }) => named(name, "b") },
    { title: "Role", by: ({ role }) => role, cell: ({ role }) => role },
    { title: "State", by: ({ state }) => state, cell: ({ state }) => stateOf(state) },
    { title: "Answers", right: true, by: ({ answers }) => answers, cell: ({ answers }) => whole(answers) },
    { title: "Last seen", right: true, by: ({ seen }) => seen, cell: ({ seen }) => (seen ? moment(seen) : "–") },
    { title: "Since", right: true, by: ({ created }) => created, cell: ({ created }) => day(created) },
    { title: "", right: true, cell: (one) => (one.name === me.lead ? make("span", "ld-none", "you") : personMenu(one, box)) },
  ], told.people, { sort: [0, false] })));
}

function personMenu({ name, role, state }, box) {
  const change = async (body, said) => {
    if (await ask("/api/lead/account", { name, role, ...body })) {
      tell(said);
      drawPeople(box);
    }
  };
  return menuOf(`What to do with ${name}`, [
    ["Change role…", async () => {
      const said = await dialog(`Role of ${name}`, "It holds from their next request on.", { role: { label: "Role", options: ROLES, value: role } }, "Change it");
      if (said) change({ action: "role", role: said.role }, `${name} is ${said.role} now.`);
    }],
    ["New password…", () => invite("reset", name)],
    ["Sign out everywhere", () => change({ action: "sign_out" }, `${name} is signed out.`)],
    state === "active" ? ["Disable", () => change({ action: "disable" }, `${name} can sign in no more.`)]
      : ["Enable", () => change({ action: "enable" }, `${name} can sign in again.`)],
    ["Save all their data", () => save(`/api/lead/rater_data?name=${encodeURIComponent(name)}`)],
    ["Delete all their data…", () => forget(name, box)],
  ]);
}

async function invite(purpose, name = "") {
  const join = purpose === "join";
  const fields = {
    ...(join ? { role: { label: "Role", options: ROLES, value: "rater" }, name: { label: "Name (empty: of their choice)", maxLength: 64 } } : {}),
    hours: { label: "Hours that the link works", type: "number", value: 72, min: 1, max: 2160, needed: true },
  };
  const said = await dialog(join ? "Invite somebody" : `New password for ${name}`,
    join ? "The link makes one account, once." : "The link sets one password, once, and ends their sessions.", fields, "Make a link");
  if (!said) return;
  const made = await ask("/api/lead/invite", { purpose, role: said.role || "rater", name: (join ? said.name : name) || null, hours: Number(said.hours) });
  if (!made) return;
  await dialog("Their link", "It is shown this once. Send it to that person alone.", { link: { label: "Link", value: made.link, readOnly: true } }, "Done");
}

async function forget(name, box) {
  const trace = await ask("/api/lead/forget", { name });
  if (!trace) return;
  const used = [...trace.snapshots.map(({ kind, at, place, answers }) => `${kind} of ${day(at)}: ${place}, ${whole(answers)} answers`),
    ...trace.runs.map(({ path, stage, status }) => `${stage} ${path} (${status})`)];
  const kept = used.length ? [make("p", "ld-rankings", "These were made with their answers, and keep them:"), el("ul", "ld-alarms", ...used.map((words) => named(words, "li")))]
    : [hint("No snapshot, export or run has their answers.")];
  const said = await dialog(`Delete all of ${name}'s data?`, "Their account, answers, reports and sessions go for good, and cannot be brought back. What they filled is open again, and the log still verifies.",
    { confirm: { label: `Type ${name} to go on`, needed: true, autocomplete: "off" } }, "Delete", { danger: true, told: kept });
  if (!said) return;
  const gone = await ask("/api/lead/forget", { name, confirm: said.confirm });
  if (!gone) return;
  tell(gone.forgotten ? `${name} is deleted: ${whole(gone.forgotten.answers)} answers; ${whole(gone.forgotten.items)} items are open again. ${gone.forgotten.left}` : `Nothing was deleted: that is not ${name}.`, !gone.forgotten);
  drawPeople(box);
}
