// Lets tables sort by any column, filter their rows, and show all their columns.
(() => {
  "use strict";

  const element = (tag, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };

  class Table {
    constructor(box) {
      this.box = box;
      this.body = box.querySelector("tbody");
      this.headers = [...box.querySelectorAll("thead th")];
      this.rows = [...this.body.rows];
      this.headers.forEach((header, place) => this.makeSortable(header, place));
      this.box.prepend(this.controls());
      this.filter();
    }

    makeSortable(header, place) {
      const button = element("button", { type: "button", className: "sort" });
      button.append(...header.childNodes);
      button.addEventListener("click", () => this.sort(header, place));
      header.append(button);
    }

    // A click on a sorted column turns it around; what has no value stays last.
    sort(header, place) {
      const descending = header.getAttribute("aria-sort") === "ascending";
      const isNumber = "number" in header.dataset;
      const value = (row) => {
        const cell = row.cells[place];
        if (!isNumber) return cell.textContent;
        const kept = cell.dataset.value;
        return kept === undefined ? NaN : Number(kept.replace("inf", "Infinity"));
      };
      const compare = (a, b) => {
        if (isNumber) {
          if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
          return descending ? b - a : a - b;
        }
        const order = a.localeCompare(b, "en", { numeric: true });
        return descending ? -order : order;
      };
      const keyed = this.rows.map((row) => [value(row), row]);
      keyed.sort((one, other) => compare(one[0], other[0]));
      this.body.append(...keyed.map((pair) => pair[1]));
      for (const other of this.headers) other.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    }

    controls() {
      const name = this.box.dataset.name;
      this.text = element("input", { type: "search", placeholder: "name" });
      this.text.addEventListener("input", () => this.filter());
      this.choices = ["kind", "length", "initialization"].map((key) => this.choice(key));
      const shown = this.choices.filter((select) => select.options.length > 2);
      this.count = element("output");
      const bar = element("div", { className: "controls" });
      bar.setAttribute("role", "group");
      bar.setAttribute("aria-label", `Filters of ${name}`);
      bar.append(element("label", {}, "Find ", this.text));
      for (const select of shown) {
        bar.append(element("label", {}, `${select.dataset.label} `, select));
      }
      if (this.box.querySelector(".more")) bar.append(this.allColumns());
      bar.append(this.count);
      return bar;
    }

    choice(key) {
      const values = [...new Set(this.rows.map((row) => row.dataset[key]))];
      values.sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
      const select = element("select", {}, element("option", { value: "" }, "all"));
      select.append(...values.map((value) => element("option", { value }, value)));
      select.dataset.key = key;
      select.dataset.label = { initialization: "Initialisation", kind: "Kind", length: "Length" }[key];
      select.addEventListener("change", () => this.filter());
      return select;
    }

    allColumns() {
      const box = element("input", { type: "checkbox" });
      box.addEventListener("change", () => this.box.classList.toggle("all", box.checked));
      return element("label", {}, box, " All columns");
    }

    filter() {
      const text = this.text.value.trim().toLowerCase();
      let shown = 0;
      for (const row of this.rows) {
        const matches = row.cells[0].textContent.toLowerCase().includes(text)
          && this.choices.every(({ value, dataset }) => !value || row.dataset[dataset.key] === value);
        row.hidden = !matches;
        shown += matches;
      }
      this.count.textContent = `${shown} of ${this.rows.length} rows`;
    }
  }

  for (const box of document.querySelectorAll(".sortable")) new Table(box);
})();
