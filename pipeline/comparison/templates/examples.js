// Lets a reader search and sort the examples, and unfold all of them.
(() => {
  "use strict";
  const box = document.querySelector(".examples");
  if (!box) return;
  const examples = [...box.children];
  const open = Number(box.dataset.open);
  const texts = new Map(examples.map((one) => [one, one.textContent.toLowerCase()]));

  const element = (tag, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };

  // What to sort by, and whether the largest comes first; "worst" depends on the metric.
  const isBetterLower = box.dataset.ascending === "true";
  const orders = [
    ["as in the split", "place", false],
    ["where outputs differ most", "distinct", true],
    ["worst of the best prefix", "score", isBetterLower],
    ["best of the best prefix", "score", !isBetterLower],
    ["where the prefix helps most", "gain", true],
    ["where the prefix harms most", "gain", false],
  ].filter(([, key]) => examples.some((one) => key in one.dataset));

  const value = (one, key) => {
    const found = one.dataset[key];
    return found === undefined ? NaN : Number(found.replace("inf", "Infinity"));
  };

  const search = element("input", { type: "search", placeholder: "a word of the text" });
  const sort = element("select", {}, ...orders.map(([title], place) => (
    element("option", { value: String(place) }, title)
  )));
  const fold = element("button", { type: "button" }, "Unfold all");
  const count = element("output");
  const bar = element("div", { className: "controls" },
    element("label", {}, "Find ", search), element("label", {}, "Order ", sort), fold, count);
  bar.setAttribute("role", "group");
  bar.setAttribute("aria-label", "Search and order of examples");
  box.before(bar);

  const show = () => {
    const text = search.value.trim().toLowerCase();
    let shown = 0;
    for (const one of examples) {
      one.hidden = !texts.get(one).includes(text);
      shown += !one.hidden;
    }
    count.textContent = `${shown} of ${examples.length} examples`;
  };
  search.addEventListener("input", show);

  sort.addEventListener("change", () => {
    const [, key, isDescending] = orders[Number(sort.value)];
    const keyed = examples.map((one) => [value(one, key), Number(one.dataset.place), one]);
    keyed.sort(([a, first], [b, second]) => {
      if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
      return (isDescending ? b - a : a - b) || first - second;
    });
    box.append(...keyed.map((entry) => entry[2]));
    keyed.forEach((entry, place) => { entry[2].open = place < open; });
  });

  fold.addEventListener("click", () => {
    const unfold = fold.textContent === "Unfold all";
    for (const one of examples) one.open = unfold;
    fold.textContent = unfold ? "Fold all" : "Unfold all";
  });
  show();

  // On paper all is unfolded, and folded again afterwards.
  let folded = [];
  window.addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    for (const one of folded) one.open = true;
  });
  window.addEventListener("afterprint", () => {
    for (const one of folded) one.open = false;
  });
})();
