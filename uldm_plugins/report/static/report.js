"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const place = "uldm " + location.pathname;

  // What the reader has moved is kept over a renewal of the page; a browser may forbid to keep anything.
  const memory = (() => {
    try { return JSON.parse(sessionStorage.getItem(place)) || {}; } catch { return {}; }
  })();
  const zooms = memory.zooms || {};
  const logarithmic = new Set(memory.logarithmic || []);

  // ---- charts -------------------------------------------------------------------------------------------
  const plots = new Map();
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const digits = (value) =>
    value == null ? "–"
    : Number.isInteger(value) ? value.toLocaleString("en")
    : Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en")
    : String(Number(value.toPrecision(4)));

  function lines(series, index, few) {
    const stroke = colour("--c" + ((series.colour ?? index) % 8));
    const shared = { spanGaps: true, points: { show: few }, value: (_, found) => digits(found) };
    const dash = series.dashed ? [6, 4] : undefined;
    if (!series.smooth) return [{ ...shared, label: series.label, stroke, width: 1.75, dash }];
    return [
      { ...shared, label: series.label, stroke: stroke + "59", width: 1 },
      { ...shared, label: "mean", stroke, width: 2 },
    ];
  }

  function columns(chart) {
    const ys = chart.series.flatMap((series) => (series.smooth ? [series.line, series.smooth] : [series.line]));
    return [chart.x, ...ys];
  }

  const positive = (chart) => columns(chart).slice(1).flat().every((value) => value == null || value > 0);

  function settings(figure, chart, width) {
    const axis = {
      stroke: colour("--quiet"), grid: { stroke: colour("--grid"), width: 1 },
      ticks: { show: false }, font: "12px system-ui, sans-serif",
    };
    const id = figure.dataset.chart;
    return {
      width, height: 210, padding: [8, 20, 0, 0],
      scales: { x: { time: false }, y: { distr: logarithmic.has(id) ? 3 : 1 } },
      axes: [
        { ...axis, values: (_, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? digits(tick) : "")), size: 30 },
        { ...axis, values: (_, ticks) => ticks.map((tick) => (tick == null ? "" : digits(tick))), size: 52 },
      ],
      series: [
        { label: chart.counted ?? "step", value: (_, found) => digits(found) },
        ...chart.series.flatMap((series, index) => lines(series, index, chart.points || chart.x.length < 3)),
      ],
      cursor: { y: false, points: { size: 7 }, drag: { x: true, y: false, dist: 5 } },
      hooks: {
        setCursor: [(plot) => plot.cursor.idx == null && showLast(plot)],
        draw: [(plot) => mark(plot, chart)],
        setScale: [(plot, key) => key === "x" && zoomed(figure, chart, plot)],
      },
    };
  }

  // A dashed line at a step, with a word beside it, on the side where there is room.
  function mark(plot, chart) {
    if (!chart.mark || chart.mark.x < plot.scales.x.min || chart.mark.x > plot.scales.x.max) return;
    const { ctx, bbox } = plot, x = plot.valToPos(chart.mark.x, "x", true), ratio = devicePixelRatio;
    const left = x > bbox.left + bbox.width / 2;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = colour("--quiet");
    ctx.lineWidth = ratio;
    ctx.setLineDash([4 * ratio, 4 * ratio]);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    ctx.font = 12 * ratio + "px system-ui, sans-serif";
    ctx.textAlign = left ? "right" : "left";
    ctx.textBaseline = "top";
    ctx.fillText(chart.mark.label, x + (left ? -5 : 5) * ratio, bbox.top + 2 * ratio);
    ctx.restore();
  }

  // Where nobody points, the legend shows the last value of each curve.
  function showLast(plot) {
    const last = (values) => values.findLastIndex((value) => value != null);
    plot.setLegend({ idxs: plot.data.map(last) }, false);
  }

  function zoomed(figure, chart, plot) {
    const { min, max } = plot.scales.x;
    const first = chart.x[0], last = chart.x[chart.x.length - 1];
    const whole = min == null || (min <= first && max >= last);
    if (whole) delete zooms[figure.dataset.chart];
    else zooms[figure.dataset.chart] = [min, max];
    const reset = figure.querySelector(".reset");
    if (reset) reset.hidden = whole;
  }

  function draw(figure) {
    const id = figure.dataset.chart, chart = data.charts[id], box = figure.querySelector(".plot");
    if (!chart || !chart.x.length) return;
    plots.get(figure)?.destroy();
    const plot = new uPlot(settings(figure, chart, box.clientWidth), columns(chart), box);
    plots.set(figure, plot);
    showLast(plot);
    if (zooms[id]) plot.setScale("x", { min: zooms[id][0], max: zooms[id][1] });
    pinch(plot, chart);
  }

  function button(text, name, act) {
    const made = document.createElement("button");
    made.type = "button";
    made.className = name;
    made.textContent = text;
    made.addEventListener("click", () => act(made));
    return made;
  }

  function furnish(figure) {
    const id = figure.dataset.chart, chart = data.charts[id];
    const reset = button("whole", "reset", () => {
      const { x } = chart;
      plots.get(figure).setScale("x", { min: x[0], max: x[x.length - 1] });
    });
    reset.hidden = true;
    const buttons = figure.querySelector(".chart-buttons");
    buttons.append(reset);
    if (chart && positive(chart)) {
      const log = button("log", "log", (made) => {
        logarithmic.has(id) ? logarithmic.delete(id) : logarithmic.add(id);
        made.setAttribute("aria-pressed", String(logarithmic.has(id)));
        draw(figure);
      });
      log.title = "logarithmic scale";
      log.setAttribute("aria-pressed", String(logarithmic.has(id)));
      buttons.append(log);
    }
  }

  // Fingers: one moves along the curve, two zoom. A mouse is uPlot's own business.
  function pinch(plot, chart) {
    const over = plot.over, fingers = new Map();
    let began = null;
    const at = (event) => event.clientX - over.getBoundingClientRect().left;
    over.addEventListener("pointerdown", (event) => {
      if (event.pointerType !== "touch") return;
      fingers.set(event.pointerId, at(event));
      began = fingers.size === 2 ? [...fingers.values()].map((left) => plot.posToVal(left, "x")) : null;
    });
    over.addEventListener("pointermove", (event) => {
      if (!fingers.has(event.pointerId)) return;
      fingers.set(event.pointerId, at(event));
      if (fingers.size === 1) plot.setCursor({ left: at(event), top: 10 });
      if (fingers.size === 2 && began) stretch([...fingers.values()]);
    });
    for (const end of ["pointerup", "pointercancel", "pointerleave"])
      over.addEventListener(end, (event) => fingers.delete(event.pointerId));

    function stretch([left, right]) {
      const perPixel = (began[1] - began[0]) / (right - left);
      if (!(perPixel > 0)) return;
      const last = chart.x[chart.x.length - 1];
      const min = Math.max(chart.x[0], began[0] - left * perPixel);
      const max = Math.min(last, min + over.clientWidth * perPixel);
      if (max > min) plot.setScale("x", { min, max });
    }
  }

  const figures = all("[data-chart]");
  const drawAll = () => figures.forEach(draw);
  figures.forEach(furnish);
  drawAll();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  addEventListener("beforeprint", () => { document.documentElement.classList.add("printing"); drawAll(); });
  addEventListener("afterprint", () => { document.documentElement.classList.remove("printing"); drawAll(); });
  const resized = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const plot = plots.get(target.closest("[data-chart]"));
      if (plot && target.clientWidth && plot.width !== target.clientWidth)
        plot.setSize({ width: target.clientWidth, height: 210 });
    }
  });
  figures.forEach((figure) => resized.observe(figure.querySelector(".plot")));

  // ---- films: pictures over the training, by a slider -----------------------------------------------------
  let playing = 0;
  function film(figure) {
    const frames = all(".frame", figure), slider = figure.querySelector("input"), play = figure.querySelector(".play");
    const show = () => {
      frames.forEach((frame, index) => { frame.hidden = index !== Number(slider.value); });
      figure.querySelector("output").textContent = frames[slider.value].dataset.label;
    };
    slider.addEventListener("input", show);
    let timer = 0;
    const stop = () => { if (timer) { clearInterval(timer); timer = 0; playing -= 1; play.textContent = "▶"; } };
    play.addEventListener("click", () => {
      if (timer) return stop();
      if (slider.value === slider.max) slider.value = 0;
      play.textContent = "❚❚";
      playing += 1;
      show();
      timer = setInterval(() => {
        if (slider.value === slider.max) return stop();
        slider.value = Number(slider.value) + 1;
        show();
      }, 350);
    });
    const kept = memory.films?.[figure.id];
    if (kept !== undefined) { slider.value = kept; show(); }
  }
  all(".film").forEach(film);

  // ---- small things ----------------------------------------------------------------------------------------
  for (const made of all(".copy")) {
    made.addEventListener("click", async () => {
      const text = document.getElementById(made.dataset.copy);
      getSelection().selectAllChildren(text);
      try { await navigator.clipboard.writeText(text.textContent); made.textContent = "copied"; }
      catch { made.textContent = "selected"; }
    });
  }
  const links = new Map(all("nav a").map((link) => [link.hash.slice(1), link]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting || !links.has(entry.target.id)) continue;
      links.forEach((link, id) => link.classList.toggle("here", id === entry.target.id));
    }
  }, { rootMargin: "-15% 0px -75% 0px" });
  all("section[id]").forEach((section) => seen.observe(section));

  // ---- renewal while the run goes on -----------------------------------------------------------------------
  if (!data.refresh) return;
  history.scrollRestoration = "manual";
  const stable = () => all("section[id]").find((section) => section.getBoundingClientRect().bottom > 60);
  function keep() {
    const section = stable();
    const kept = {
      section: section?.id, top: section?.getBoundingClientRect().top, y: scrollY, zooms,
      logarithmic: [...logarithmic],
      open: all("details[open]").map((details) => details.id),
      films: Object.fromEntries(all(".film").flatMap((figure) => {
        const slider = figure.querySelector("input");
        return slider.value === slider.max ? [] : [[figure.id, slider.value]];  // at the end: follow the end
      })),
    };
    try { sessionStorage.setItem(place, JSON.stringify(kept)); } catch { /* then the place is lost */ }
  }
  (memory.open || []).forEach((id) => document.getElementById(id)?.setAttribute("open", ""));
  const section = memory.y > 0 && document.getElementById(memory.section);
  if (section) scrollBy(0, section.getBoundingClientRect().top - memory.top);

  const silent = Date.now() / 1000 - data.updated > data.silence;
  if (data.updated && silent) {
    document.querySelector("[data-silent]").hidden = false;
    document.querySelector("[data-live]").hidden = true;
    return;
  }
  let touched = 0;
  for (const kind of ["pointerdown", "pointermove", "keydown", "wheel", "touchmove"])
    addEventListener(kind, () => { touched = Date.now(); }, { passive: true });
  const renew = () => {
    if (document.hidden || playing || Date.now() - touched < 3000) return setTimeout(renew, 2000);
    keep();
    location.reload();
  };
  setTimeout(renew, data.refresh * 1000);
})();
