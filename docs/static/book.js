// Conveniences: without this file, the pages still show everything.

// Make what scrolls sideways reachable by keyboard, and nothing else.
function markScrollers() {
  for (const pre of document.querySelectorAll("pre, .table-wrapper")) {
    if (pre.scrollWidth > pre.clientWidth) pre.tabIndex = 0;
    else pre.removeAttribute("tabindex");
  }
}
addEventListener("DOMContentLoaded", markScrollers);
addEventListener("load", markScrollers);
addEventListener("resize", markScrollers);
document.addEventListener("toggle", markScrollers, true);

// Open the mistake that a link points to.
function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const fold = target?.closest("details") ?? target?.querySelector(":scope > details");
  if (fold) {
    fold.open = true;
    target.scrollIntoView();
  }
}
addEventListener("hashchange", openTarget);
addEventListener("DOMContentLoaded", openTarget);

// Filter the claims. Each row has its lesson and verdict as classes.
addEventListener("DOMContentLoaded", () => {
  const form = document.getElementById("filter");
  if (!form) return;
  const rows = [...document.querySelectorAll(".claim")];
  const { text, lesson, verdict } = form.elements;

  function filter() {
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const content = row.textContent.toLowerCase();
      row.hidden = !(
        (!lesson.value || row.classList.contains(`lesson-${lesson.value}`)) &&
        (!verdict.value || row.classList.contains(`verdict-${verdict.value}`)) &&
        words.every((word) => content.includes(word))
      );
    }
    for (const section of document.querySelectorAll("section section")) {
      section.hidden = !section.querySelector(".claim:not([hidden])");
    }
    const shown = rows.filter((row) => !row.hidden).length;
    form.querySelector("output").textContent = `${shown} of ${rows.length} claims`;
  }

  form.hidden = false;
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  filter();
});
