// Charts as the server drew them for this page's width, each with its numbers as a file.

// Those of these charts of which anything is known, side by side; they are drawn anew when the width changes.
function chartsOf(names, { columns = 2, empty = "", rater = null } = {}) {
  const made = make("div", columns > 1 ? "ld-pair" : "ld-single");
  let drawn = 0;
  let several = names.length > 1 && columns > 1;
  const draw = async () => {
    const room = several && made.clientWidth > 860 ? (made.clientWidth - 16) / 2 : made.clientWidth;
    const width = Math.max(260, Math.floor(room) - (window.innerWidth > 640 ? 42 : 34));
    if (!made.isConnected || Math.abs(width - drawn) < 24) return;
    drawn = width;
    const told = await ask("/api/lead/charts", { campaign, names, width, rater });
    if (!told) return;
    if (several && told.charts.length === 1) { // it has the room of two
      several = false;
      draw();
    } else made.replaceChildren(...(told.charts.length ? told.charts.map((one) => chartCard(one, rater)) : empty ? [hint(empty)] : []));
  };
  new ResizeObserver(draw).observe(made);
  return made;
}

function chartCard({ name, title, note, svg }, rater) {
  const picture = new DOMParser().parseFromString(svg, "image/svg+xml").documentElement;
  const of = new URLSearchParams(Object.entries({ campaign, rater }).filter(([, own]) => own !== null));
  const file = (kind) => {
    const made = button(kind.toUpperCase(), () => save(`/api/lead/chart/${name}.${kind}?${of}`), "pl-quiet ld-file");
    made.setAttribute("aria-label", `${title} as ${kind.toUpperCase()}`);
    return made;
  };
  const files = el("span", "ld-files", file("svg"), file("csv"));
  const made = card(el("div", "ld-cardhead", make("h2", "", title), files), note ? hint(note) : null, document.importNode(picture, true));
  made.classList.add("ld-chart");
  made.dataset.chart = name;
  return made;
}
