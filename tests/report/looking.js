// Looks at a report from inside, as a person would, and leaves what it saw as text.
const column = (table, place) =>
  [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => row.cells[place].textContent);
const of = (caption) =>
  [...document.querySelectorAll("table")].filter((each) => each.caption.textContent === caption)[0];

const sortBy = (table, place) => {
  const heading = table.tHead.rows[0].cells[place];
  heading.querySelector("button").click();
  return { order: heading.getAttribute("aria-sort"), values: column(table, place) };
};

const filterBy = (table, words) => {
  const input = table.parentElement.previousElementSibling.querySelector("input");
  input.value = words;
  input.dispatchEvent(new Event("input"));
  const told = input.nextElementSibling.textContent;
  const shown = column(table, 0);
  input.value = "";
  input.dispatchEvent(new Event("input"));
  return { shown, told, all: column(table, 0).length };
};

const box = (each) => {
  const { left, right, width, height } = each.getBoundingClientRect();
  return { left, right, width, height };
};

addEventListener("load", () => {
  const classes = of("Positions by class");
  const seen = {
    width: innerWidth,
    wide: document.documentElement.scrollWidth,
    hostile: String(window.hostile),
    drawings: [...document.querySelectorAll("figure > svg")].map((each) => ({
      ...box(each),
      title: each.querySelector("title").textContent,
      letters: Math.min(...[...each.querySelectorAll("text")].map((text) => box(text).height)),
    })),
    ink: getComputedStyle(document.body).color,
    line: getComputedStyle(document.querySelector("figure > svg text")).fill,
    pictures: [...document.images].map((each) => each.naturalWidth),
    loaded: performance.getEntriesByType("resource").map((each) => each.name)
      .filter((name) => !name.startsWith("data:")),
    outside: [...document.querySelectorAll("section, table, figure, .cards > li, .tiles > div")]
      .filter((each) => !each.closest(".scrolls"))
      .filter((each) => box(each).right > innerWidth + 0.5 || box(each).left < -0.5)
      .map((each) => each.outerHTML.slice(0, 80)),
    text: document.body.innerText,
    headings: [...document.querySelectorAll("th button")].length,
  };
  if (classes) {
    seen.rising = sortBy(classes, 0);
    seen.falling = sortBy(classes, 0);
    seen.counts = sortBy(classes, 1);
    if (classes.classList.contains("filters"))
      seen.filtered = filterBy(classes, column(classes, 0)[0]);
  }
  parent.postMessage(JSON.stringify(seen), "*");
});
