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

// Printing shows everything, and folds close again afterwards.
addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("details:not([open])")) {
    fold.open = true;
    fold.dataset.printed = "";
  }
});
addEventListener("afterprint", () => {
  for (const fold of document.querySelectorAll("details[data-printed]")) {
    fold.open = false;
    delete fold.dataset.printed;
  }
});

// One button opens all folds of a page.
addEventListener("DOMContentLoaded", () => {
  const folds = [...document.querySelectorAll("article details")];
  const title = document.querySelector("article h1");
  if (folds.length < 2 || !title) return;
  const button = document.createElement("button");
  button.className = "unfold";
  button.textContent = "Unfold all";
  button.onclick = () => {
    const open = button.textContent === "Unfold all";
    for (const fold of folds) fold.open = open;
    button.textContent = open ? "Fold all" : "Unfold all";
  };
  title.after(button);
});

// Filter the entries of a page. An entry has what a field can choose as classes, such as
// lesson-tensors. The address holds what is chosen, so it can be sent, and Back restores it.
addEventListener("DOMContentLoaded", () => {
  const form = document.querySelector("form.filter");
  if (!form) return;
  const rows = [...document.querySelectorAll(".entry")];
  const sections = [...document.querySelectorAll("section section")];
  const fields = [...form.querySelectorAll("input, select")];
  const contents = rows.map((row) => row.textContent.toLowerCase());

  function wanted() {
    const chosen = Object.fromEntries(fields.map((field) => [field.name, field.value]));
    const classes = ["lesson", "verdict", "symptom"]
      .filter((name) => chosen[name])
      .map((name) => `${name}-${chosen[name]}`);
    // The result is asked for in one environment or in any.
    if (chosen.environment) classes.push(`result-${chosen.environment}-${chosen.result || "run"}`);
    else if (chosen.result) classes.push(`result-any-${chosen.result}`);
    return classes;
  }

  function filter() {
    const words = form.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const classes = wanted();
    rows.forEach((row, number) => {
      row.hidden = !(
        classes.every((name) => row.classList.contains(name)) &&
        words.every((word) => contents[number].includes(word))
      );
    });
    for (const section of sections) {
      section.hidden = !section.querySelector(".entry:not([hidden])");
    }
    const shown = rows.filter((row) => !row.hidden).length;
    form.querySelector("output").textContent = `${shown} of ${rows.length} ${form.dataset.of}`;
  }

  function read() {
    const chosen = new URLSearchParams(location.search);
    for (const field of fields) field.value = chosen.get(field.name) ?? "";
    filter();
  }

  function write(event) {
    const chosen = new URLSearchParams(
      fields.filter((field) => field.value).map((field) => [field.name, field.value]),
    );
    const address = `${location.pathname}${chosen.size ? `?${chosen}` : ""}${location.hash}`;
    // Typing changes the address without filling the history.
    if (event.target.tagName === "SELECT") history.pushState(null, "", address);
    else history.replaceState(null, "", address);
    filter();
  }

  form.hidden = false;
  form.addEventListener("input", write);
  form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("popstate", read);
  read();
});
