// Draws the charts of the page with Vega, each as wide as its figure, and gives it a legend of
// buttons that turn series off.
(() => {
  "use strict";
  const shared = JSON.parse(document.getElementById("chart-data").textContent);
  const FEW = 3;
  const SHAPES = {
    circle: "M5 0A5 5 0 1 1 -5 0A5 5 0 1 1 5 0Z", square: "M-4.5 -4.5H4.5V4.5H-4.5Z",
    "triangle-up": "M0 -5.5L5.5 4.5H-5.5Z", "triangle-down": "M0 5.5L5.5 -4.5H-5.5Z",
    "triangle-right": "M5.5 0L-4.5 5.5V-5.5Z", diamond: "M0 -6L5 0L0 6L-5 0Z",
    cross: "M-1.8 -5.5H1.8V-1.8H5.5V1.8H1.8V5.5H-1.8V1.8H-5.5V-1.8H-1.8Z", stroke: "",
  };

  // Rows, from the columns that the page keeps.
  const datasets = {};
  for (const [name, { columns, texts }] of Object.entries(shared)) {
    const fields = Object.keys(columns);
    const count = fields.length ? columns[fields[0]].length : 0;
    datasets[name] = Array.from({ length: count }, (_, row) => Object.fromEntries(
      fields.map((field) => {
        const value = columns[field][row];
        return [field, texts[field] ? texts[field][value] : value];
      })
    ));
  }

  const channels = (node, found = []) => {
    if (node && typeof node === "object") {
      for (const [key, value] of Object.entries(node)) {
        if (key === "encoding") found.push(value);
        else channels(value, found);
      }
    }
    return found;
  };

  class Figure {
    constructor(figure) {
      this.figure = figure;
      this.view = figure.querySelector(".view");
      this.source = figure.querySelector("script.spec").textContent;
      const meta = JSON.parse(this.source).usermeta || {};
      this.title = figure.querySelector("figcaption").textContent;
      this.hidden = [];
      this.logarithmic = false;
      this.legend(figure.querySelector(".legend"), meta);
    }

    legend(place, meta) {
      const labels = (meta.legend || []).map((series) => series.label);
      if (meta.is_positive) {
        place.append(this.button("log scale", () => {
          this.logarithmic = !this.logarithmic;
          this.draw();
          return this.logarithmic;
        }, false, null, "switch"));
      }
      const buttons = new Map();
      let all;
      const hide = (hidden) => {
        this.hidden = hidden;
        for (const [label, button] of buttons) {
          button.setAttribute("aria-pressed", String(!hidden.includes(label)));
        }
        if (all) all.setAttribute("aria-pressed", String(hidden.length === 0));
        this.chart.signal("hidden", hidden).runAsync();
      };
      if (labels.length > FEW) {
        // Of many series a few are seen sooner by starting from none.
        all = this.button("all", () => {
          hide(this.hidden.length ? [] : labels);
          return this.hidden.length === 0;
        }, true, null, "switch");
        place.append(all);
      }
      for (const series of meta.legend || []) {
        const button = this.button(series.label, () => {
          const off = this.hidden.includes(series.label);
          hide(off
            ? this.hidden.filter((label) => label !== series.label)
            : [...this.hidden, series.label]);
          return off;
        }, true, symbol(series));
        buttons.set(series.label, button);
        place.append(button);
      }
    }

    // A button that is pressed or not, as `toggle` says.
    button(text, toggle, pressed, before, kind = "series") {
      const button = document.createElement("button");
      button.type = "button";
      button.className = kind;
      button.setAttribute("aria-pressed", String(pressed));
      if (before) button.append(before);
      button.append(document.createTextNode(text));
      button.addEventListener("click", () => {
        button.setAttribute("aria-pressed", String(toggle()));
      });
      return button;
    }

    // The chart's definition for this width, with the legend left to the page.
    spec(width) {
      const spec = JSON.parse(this.source);
      spec.datasets = datasets;
      spec.description = this.title;
      if (spec.spec) {
        const room = width - 90;
        spec.columns = Math.max(1, Math.min(spec.columns || 1, Math.floor(room / 240)));
        spec.spec.width = Math.floor(room / spec.columns) - 24 - (this.excess || 0);
      } else if (typeof spec.width === "number") {
        spec.width = width;
        spec.autosize = { type: "fit-x", contains: "padding" };
      }
      for (const encoding of channels(spec)) {
        for (const channel of ["color", "shape", "strokeDash"]) {
          const field = encoding[channel];
          if (spec.usermeta && spec.usermeta.legend && field && field.field) field.legend = null;
        }
        if (this.logarithmic && encoding.y && encoding.y.scale) {
          encoding.y.scale = { ...encoding.y.scale, type: "log", zero: false };
        }
      }
      for (const param of spec.params || []) {
        if (param.name === "hidden") param.value = this.hidden;
      }
      return spec;
    }

    async draw() {
      const width = this.view.clientWidth;
      this.width = width;
      this.excess = 0;
      for (let tries = 0; tries < 3; tries += 1) {
        const spec = this.spec(width);
        if (this.result) this.result.finalize();
        this.result = await vegaEmbed(this.view, spec, {
          mode: "vega-lite", renderer: "svg", actions: false, ast: true, logLevel: 1,
        });
        this.chart = this.result.view;
        const over = this.view.querySelector("svg").getBoundingClientRect().width - width;
        if (!spec.spec || over <= 0) break;
        this.excess += Math.ceil(over / spec.columns);
      }
      this.figure.dataset.drawn = "true";
    }
  }

  // What a series looks like, as in the picture.
  function symbol(series) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "-16 -7 32 14");
    svg.setAttribute("width", "32");
    svg.setAttribute("height", "14");
    svg.setAttribute("aria-hidden", "true");
    const line = document.createElementNS(svg.namespaceURI, "path");
    line.setAttribute("d", "M-16 0H16");
    line.setAttribute("stroke", series.colour);
    line.setAttribute("stroke-width", "2");
    line.setAttribute("stroke-dasharray", series.dash.join(" "));
    const mark = document.createElementNS(svg.namespaceURI, "path");
    mark.setAttribute("d", SHAPES[series.shape] || "");
    mark.setAttribute("fill", series.colour);
    svg.append(line, mark);
    return svg;
  }

  const figures = [...document.querySelectorAll("figure.chart")].map((one) => new Figure(one));
  const drawAll = async () => {
    for (const figure of figures) await figure.draw();
    document.documentElement.dataset.drawn = "true";
  };
  drawAll();
  let waiting;
  window.addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      for (const figure of figures) {
        if (figure.view.clientWidth !== figure.width) figure.draw();
      }
    }, 150);
  });
})();
