// Drag and drop, by mouse, pen or finger: a letter is dragged onto a place (a tie if it is taken), between two places,
// or back to the tray. Browsers' own drag and drop does not know fingers.

const DISTANCE = 6; // pixels before a press becomes a drag
let drag = null; // { place, from: [x, y], ghost, target }

function targetAt(x, y) {
  return document.elementFromPoint(x, y)?.closest("[data-gap], [data-slot]") || null;
}

function dragTo(event) {
  if (!drag.ghost) {
    if (Math.hypot(event.clientX - drag.from[0], event.clientY - drag.from[1]) < DISTANCE) return;
    drag.ghost = make("span", "pl-chip pl-ghost", letters()[drag.place]);
    find(".pl-bar").append(drag.ghost);
    element.classList.add("pl-dragging");
  }
  drag.ghost.style.transform = `translate(${event.clientX}px, ${event.clientY}px) translate(-50%, -50%)`;
  const target = targetAt(event.clientX, event.clientY);
  if (target === drag.target) return;
  drag.target?.classList.remove("pl-over");
  target?.classList.add("pl-over");
  drag.target = target;
}

function drop(event) {
  const { place, ghost, target } = drag;
  letGo();
  if (!ghost) return;
  // The click that ends a drag is none.
  window.addEventListener("click", (click) => click.stopPropagation(), { capture: true, once: true });
  setTimeout(() => window.dispatchEvent(new Event("click")), 0);
  if (event.type !== "pointerup" || !target) return;
  const { gap, slot } = target.dataset;
  if (gap) say({ ranks: inserted(said.ranks, place, Number(gap)) });
  else say({ ranks: placed(said.ranks, place, Number(slot) || null) });
  focusCard(place);
}

function letGo() {
  drag.target?.classList.remove("pl-over");
  drag.ghost?.remove();
  element.classList.remove("pl-dragging");
  drag = null;
}

element.addEventListener("pointerdown", (event) => {
  const handle = event.target.closest("[data-drag]");
  if (!handle || event.button || busy || over || pairwise()) return;
  drag = { place: Number(handle.dataset.drag), from: [event.clientX, event.clientY], ghost: null, target: null };
  if (event.pointerType === "mouse") event.preventDefault(); // do not select text
  handle.setPointerCapture?.(event.pointerId);
});
element.addEventListener("pointermove", (event) => drag && dragTo(event));
element.addEventListener("pointerup", (event) => drag && drop(event));
element.addEventListener("pointercancel", () => drag && letGo());
