// Charts over the steps: uPlot draws them, and beside each stand its words, its values and its table.
"use strict";

const Charts = (() => {
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const short = (value) => {
    if (value === null || value === undefined || !Number.isFinite(value)) return "–";
    const size = Math.abs(value);
    if (size >= 9999.5) return Math.round(value).toLocaleString("en-US");
    if (size !== 0 && size < 1e-3) return value.toExponential(2);
    return String(Number(value.toPrecision(4)));
  };

  // Each chart: which columns it draws, and how a person tells them apart without colour.
  const KINDS = {
    loss: {
      title: "Loss", unit: "nat/token", height: 260, wide: true,
      series: [
        { key: "loss", name: "training", ink: "s1", band: ["loss_low", "loss_high"] },
        { key: "held_out", name: "held-out", ink: "s2", dash: [6, 4], marked: true },
      ],
      range: (low, high) => {
        const room = 0.06 * (high - low || Math.abs(high) || 1);
        return [low - room, high + room];
      },
    },
    rate: {
      title: "Samples a second", unit: "samples/s", height: 200,
      series: [
        { key: "rate", name: "measured", ink: "s1", band: ["rate_low", "rate_high"] },
        { key: "expected", name: "expected", ink: "s3", dash: [2, 3], flat: true },
      ],
      range: (low, high) => [0, 1.12 * high || 1],
    },
    share: {
      title: "Communication", unit: "% of a step", height: 200,
      series: [{ key: "share", name: "blocked in collectives", ink: "s4" }],
      range: (low, high) => [0, Math.max(1.15 * high || 1, 5)],
    },
  };

  function summary(kind, data) {
    const words = kind.series.map((series, i) => {
      const values = data[i + 1], seen = [];
      values.forEach((value, at) => { if (Number.isFinite(value)) seen.push(at); });
      if (!seen.length) return `${series.name}: nothing yet`;
      const first = seen[0], last = seen[seen.length - 1];
      if (series.flat) return `${series.name} ${short(values[last])}`;
      const all = seen.map((at) => values[at]);
      return `${series.name}: ${short(values[first])} at step ${data[0][first]}, ` +
        `${short(values[last])} at step ${data[0][last]}, ` +
        `lowest ${short(all.reduce((a, b) => Math.min(a, b)))}, highest ${short(all.reduce((a, b) => Math.max(a, b)))}`;
    });
    return `${kind.title} in ${kind.unit}. ${words.join(". ")}.`;
  }

  class Chart {
    constructor(key, el) {
      this.kind = KINDS[key];
      this.el = el;
      this.legend = el("p", { class: "legend" });
      this.plot = el("div", { class: "plot", role: "img", tabindex: "0" });
      this.details = el("details", {}, el("summary", {}, "Table"), el("div", { class: "scroll tall", tabindex: "0" }));
      this.figure = el("figure", { class: this.kind.wide ? "chart wide" : "chart", "data-chart": key },
        el("figcaption", {}, el("span", { class: "title" }, this.kind.title), " ",
          el("span", { class: "soft" }, this.kind.unit)),
        this.legend, this.plot, this.details);
      this.details.addEventListener("toggle", () => this.table());
      this.plot.addEventListener("keydown", (event) => this.key(event));
      this.plot.addEventListener("blur", () => this.plotted?.setCursor({ left: -10, top: -10 }));
      new ResizeObserver(() => this.fit()).observe(this.plot);
    }

    // data: steps, then a list for each series, then lowest and highest where the first has a band
    set(data) {
      this.data = data;
      this.plot.setAttribute("aria-label", summary(this.kind, data));
      if (this.plotted && data[0].length) this.plotted.setData(data); else this.redraw();
      this.read(null);
      this.table();
    }

    redraw() {
      this.plotted?.destroy();
      this.plotted = undefined;
      if (this.data) this.draw();
    }

    fit() {
      if (!this.data) return;
      if (!this.plotted) { this.draw(); return; }
      const width = this.plot.clientWidth;
      if (width > 0 && width !== this.plotted.width) this.plotted.setSize({ width, height: this.kind.height });
    }

    draw() {
      const width = this.plot.clientWidth;
      if (!width) return;
      this.plot.replaceChildren(...(this.data[0].length ? [] : [this.el("p", { class: "nothing" }, "No step yet")]));
      if (!this.data[0].length) return;
      const font = "12.5px " + getComputedStyle(document.body).fontFamily;
      const line = { stroke: colour("line"), width: 1 };
      const axis = { stroke: colour("soft"), font, ticks: { show: false } };
      const drawn = this.kind.series.map((series) => ({
        stroke: colour(series.ink), width: 2, dash: series.dash, spanGaps: Boolean(series.marked),
        points: series.flat ? { show: false } : series.marked ? { show: true, size: 8, fill: colour("paper") } : {},
      }));
      const band = this.kind.series[0].band;
      const unseen = { stroke: null, width: 0, points: { show: false } };
      const count = drawn.length;
      this.plotted = new uPlot({
        width, height: this.kind.height, legend: { show: false },
        padding: [8, 20, 0, 0],
        cursor: { y: false, drag: { x: false, y: false }, points: { size: 7 } },
        scales: {
          x: { time: false },
          y: { range: (_, low, high) => (low === null ? [0, 1] : this.kind.range(low, high)) },
        },
        axes: [
          { ...axis, grid: { show: false }, border: { show: true, ...line }, size: 34,
            values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? tick.toLocaleString("en-US") : "")) },
          { ...axis, grid: line, size: 56, values: (_, ticks) => ticks.map(short) },
        ],
        series: [{}, ...drawn, ...(band ? [unseen, unseen] : [])],
        bands: band ? [{ series: [count + 2, count + 1], fill: colour(this.kind.series[0].ink) + "33" }] : [],
        hooks: { setCursor: [(u) => this.read(u.cursor.idx)] },
      }, this.data, this.plot);
    }

    // The values at a step, or the newest ones.
    read(at) {
      const steps = this.data[0];
      if (at === null || at === undefined || at < 0) at = steps.length - 1;
      const parts = this.kind.series.map((series, i) => {
        const values = this.data[i + 1];
        let seen = at;
        while (series.marked && seen > 0 && !Number.isFinite(values[seen])) seen -= 1;
        const value = short(values[seen]);
        const when = series.marked && seen !== at && value !== "–" ? ` (step ${steps[seen].toLocaleString("en-US")})` : "";
        return this.el("span", { class: `key ${series.ink}${series.dash ? " dashed" : ""}` },
          this.el("i", { "aria-hidden": "true" }), `${series.name} `, this.el("b", {}, value), when);
      });
      const step = steps.length ? `step ${steps[at].toLocaleString("en-US")}` : "no step yet";
      this.legend.replaceChildren(this.el("span", { class: "at" }, step), ...parts);
    }

    key(event) {
      const steps = this.data?.[0] ?? [];
      if (!this.plotted || !steps.length) return;
      const now = this.plotted.cursor.idx ?? steps.length - 1, jump = event.shiftKey ? 10 : 1;
      const to = { ArrowLeft: now - jump, ArrowRight: now + jump, Home: 0, End: steps.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      const at = Math.min(steps.length - 1, Math.max(0, to));
      this.plotted.setCursor({ left: this.plotted.valToPos(steps[at], "x"), top: 20 });
    }

    // At most 60 of the points, made when somebody looks at them.
    table() {
      if (!this.details.open || !this.data) return;
      const steps = this.data[0], count = Math.min(60, steps.length), el = this.el;
      const rows = [];
      for (let i = 0; i < count; i += 1) {
        const at = count === 1 ? 0 : Math.round(i * (steps.length - 1) / (count - 1));
        rows.unshift(el("tr", {}, el("td", { class: "right" }, steps[at].toLocaleString("en-US")),
          ...this.kind.series.map((_, s) => el("td", { class: "right" }, short(this.data[s + 1][at])))));
      }
      this.details.lastChild.replaceChildren(el("table", {},
        el("thead", {}, el("tr", {}, el("th", { class: "right" }, "step"),
          ...this.kind.series.map((series) => el("th", { class: "right" }, series.name)))),
        el("tbody", {}, ...rows)));
    }
  }

  // Columns of the server's points -> what each chart draws.
  function dataOf(key, points, evaluations, expected) {
    const steps = points.step;
    if (key === "share") return [steps, points.share];
    if (key === "rate") return [steps, points.rate, steps.map(() => expected), points.rate_low, points.rate_high];
    const first = steps.length ? steps[0] : 0;
    const shown = evaluations.filter(([step]) => step >= first);
    const joined = uPlot.join([
      [steps, points.loss, points.loss_low, points.loss_high],
      [shown.map(([step]) => step), shown.map(([, loss]) => loss)],
    ]);
    return [joined[0], joined[1], joined[4], joined[2], joined[3]];
  }

  return { KINDS, Chart, dataOf, short };
})();
