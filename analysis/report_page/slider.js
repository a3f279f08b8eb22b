"use strict";
// Draws the topology of the runs at a step, from the JSON in the page. Loads nothing.

const SIDES = { output: "links per output neuron", input: "links per input neuron" };
const INTERVAL = 250; // milliseconds between the steps while it plays
const grouped = new Intl.NumberFormat("en");

/** Make an HTML element with properties and children. */
function html(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Make an SVG element with attributes and text. */
function svg(tag, attributes = {}, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}

/** The index of the last of some ascending numbers that is not after one. */
function latest(numbers, one) {
  let found = 0;
  numbers.forEach((number, i) => { if (number <= one) found = i; });
  return found;
}

/** The levels of all frames of a layer, unpacked once: [pixel * frames + frame]. */
function levels(layer) {
  layer.unpacked ??= (async () => {
    const packed = Uint8Array.from(atob(layer.levels), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  })();
  return layer.unpacked;
}

/** A colour of the style sheet, such as "--ink", as [red, green, blue]. */
function colour(name) {
  const text = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  return [1, 3, 5].map((i) => parseInt(text.slice(i, i + 2), 16));
}

/** Paint one frame of a layer: no link is the page's colour, the density `most` is full ink. */
function paint(canvas, layer, pixels, frame, frames, most) {
  const [tall, wide] = layer.tiles;
  const page = colour("--page"), ink = colour("--ink");
  const ramp = Array.from({ length: 256 }, (_, level) => {
    const share = Math.min(1, level / (255 * Math.sqrt(most)));
    return page.map((from, i) => Math.round(from + share * (ink[i] - from)));
  });
  const image = new ImageData(wide, tall);
  for (let i = 0; i < tall * wide; i++) {
    image.data.set(ramp[pixels[i * frames + frame]], 4 * i);
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** Degrees [k, neurons, k, neurons, ...] as points [k, share of neurons with at least k]. */
function atLeast(counts) {
  const points = [];
  let above = 0;
  for (let i = counts.length - 2; i >= 0; i -= 2) {
    above += counts[i + 1];
    points.unshift([counts[i], above]);
  }
  return points.map(([k, neurons]) => [k, neurons / above]);
}

/** 1, 2 and 5 times the powers of ten in a range; the powers alone where that is too many. */
function ticks(low, high, factors = [1, 2, 5]) {
  const all = Array.from({ length: 19 }, (_, i) => i - 9)
    .flatMap((e) => factors.map((m) => Number(`${m}e${e}`)))
    .filter((tick) => low <= tick && tick <= high);
  return all.length > 6 && factors.length > 1 ? ticks(low, high, [1]) : all;
}

/** An empty chart of degrees on logarithmic axes; `chart.draw(start, now)` fills it. */
function degreeChart(side, [least, most], fewest) {
  const [left, right, top, bottom] = [44, 246, 8, 134];
  const along = (from, to, low, high) => (value) =>
    from + (to - from) * Math.log(value / low) / Math.log(high / low);
  const x = along(left, right, least / 1.15, most * 1.15);
  const y = along(bottom, top, fewest / 1.4, 1.35);
  const chart = svg("svg", { viewBox: "0 0 252 172", role: "img" });
  const middle = { "text-anchor": "middle" };
  for (const k of ticks(least / 1.15, most * 1.15)) {
    chart.append(svg("path", { class: "grid", d: `M${x(k)} ${top}V${bottom}` }));
    chart.append(svg("text", { x: x(k), y: bottom + 14, ...middle }, grouped.format(k)));
  }
  for (const share of ticks(fewest, 1, fewest > 0.1 ? [1, 2, 5] : [1])) {
    chart.append(svg("path", { class: "grid", d: `M${left} ${y(share)}H${right}` }));
    const text = `${Number((100 * share).toPrecision(2))}%`;
    chart.append(svg("text", { x: left - 5, y: y(share) + 4, "text-anchor": "end" }, text));
  }
  chart.append(svg("path", { class: "frame", d: `M${left} ${top}V${bottom}H${right}` }));
  chart.append(svg("text", { x: (left + right) / 2, y: 166, ...middle }, `${SIDES[side]}, k`));
  const upwards = `translate(10 ${(top + bottom) / 2}) rotate(-90)`;
  chart.append(svg("text", { transform: upwards, ...middle }, "at least k"));
  const lines = ["start", "start dots", "now", "now dots"]
    .map((name) => svg("path", { class: name }));
  const none = svg("text", { x: (left + right) / 2, y: (top + bottom) / 2, ...middle });
  chart.append(...lines, none);
  const path = (points) => points
    .map(([k, share], i) => `${i ? "L" : "M"}${x(k).toFixed(1)} ${y(share).toFixed(1)}`)
    .join("");
  chart.draw = (start, now) => {
    const [from, to] = [start, now].map(atLeast);
    [from, to].forEach((points, i) => {
      lines[2 * i].setAttribute("d", path(points));
      lines[2 * i + 1].setAttribute("d", points.map((point) => `${path([point])}h0`).join(""));
    });
    const degrees = to.map(([k]) => k);
    none.textContent = degrees.length ? "" : "no links";
    chart.setAttribute("aria-label", degrees.length
      ? `Distribution of the ${SIDES[side]}: from ${degrees[0]} to ${degrees.at(-1)}`
      : `No ${SIDES[side]}`);
  };
  return chart;
}

/** What a side of a layer's picture is: "784 input neurons, 7 a pixel". */
function axis(layer, i) {
  const several = layer.sides[i] > 1 ? `, ${layer.sides[i]} a pixel` : "";
  return `${grouped.format(layer.shape[i])} ${Object.keys(SIDES)[i]} neurons${several}`;
}

/** The picture, charts and numbers of one layer of one run; `card.show(step)` moves them. */
function makeCard(run, layer, scale, large) {
  const title = html("h3", { textContent: run.name });
  if (!layer) {
    return Object.assign(html("div", { className: "card" }, title,
      html("p", { textContent: "has no such layer" })), { show() {}, repaint() {} });
  }
  const [tall, wide] = layer.tiles;
  const canvas = html("canvas", { width: wide, height: tall });
  canvas.setAttribute("role", "img");
  canvas.style.width = `${wide * Math.max(1, Math.floor(large / wide))}px`;
  canvas.style.height = `${tall * Math.max(1, Math.floor(large / tall))}px`;
  const picture = html("div", { className: "matrix" }, canvas,
    ...["down", "across"].map((className, i) =>
      html("span", { className, textContent: axis(layer, i) })));
  const sides = Object.keys(SIDES);
  const charts = sides.map((side) => degreeChart(side, scale[side], scale.fewest));
  const numbers = html("tbody");
  const when = html("p");
  const card = html("div", { className: "card" }, title, when, html("div", { className: "parts" },
    picture, html("div", { className: "numbers" }, html("table", {}, numbers)),
    html("div", { className: "charts" }, ...charts)));
  let frame = 0, pixels = null;
  card.repaint = () => pixels && paint(canvas, layer, pixels, frame, run.steps.length, scale.most);
  levels(layer).then((unpacked) => { pixels = unpacked; card.repaint(); });
  card.show = (step) => {
    frame = latest(run.steps, step);
    const updates = `update ${run.updates[frame]} of ${run.updates.at(-1)}`;
    when.textContent = `step ${grouped.format(run.steps[frame])}, ${updates}`;
    canvas.setAttribute("aria-label", `Links of ${layer.name}, ${run.name}, ${when.textContent}`);
    card.repaint();
    sides.forEach((side, i) => {
      charts[i].draw(layer.degrees[side][0], layer.degrees[side][frame]);
    });
    numbers.replaceChildren(...Object.entries(layer.measures).map(([name, values]) => html("tr", {},
      html("th", { textContent: name, scope: "row" }),
      html("td", { textContent: values[frame] ?? "–" }))));
  };
  return card;
}

/** The axes and the full ink that the chosen runs share, so that they can be compared. */
function commonScale(layers) {
  const scale = { most: Math.max(...layers.map((layer) => layer.most)) };
  for (const side of Object.keys(SIDES)) {
    // ascending in each frame: the first is the least, the last but one the largest
    const frames = layers.flatMap((layer) => layer.degrees[side]).filter((counts) => counts.length);
    const most = Math.max(1, ...frames.map((counts) => counts.at(-2)));
    scale[side] = [Math.min(most, ...frames.map((counts) => counts[0])), most];
  }
  scale.fewest = 1 / Math.max(2, ...layers.flatMap((layer) => layer.shape));
  return scale;
}

/** Bring one slider to life. */
function start(root) {
  const { runs } = JSON.parse(root.querySelector("script").textContent);
  const find = (name) => root.querySelector(name);
  const [layerBox, range, play, output, cards, full] =
    [".layer", ".step", ".play", "output", ".cards", ".full"].map(find);
  const boxes = [...root.querySelectorAll("fieldset input")];
  let steps = [], shown = [], timer = null;

  const show = () => {
    const step = steps[range.value] ?? 0;
    const place = `${Number(range.value) + 1} of ${steps.length}`;
    output.textContent = `step ${grouped.format(step)} (${place})`;
    range.setAttribute("aria-valuetext", `step ${step}`);
    shown.forEach((card) => card.show(step));
  };
  const rebuild = () => {
    const step = steps[range.value] ?? 0;
    const chosen = runs.filter((_, i) => boxes[i].checked);
    const layers = chosen.map((run) => run.layers.find((layer) => layer.name === layerBox.value));
    const there = layers.filter(Boolean);
    steps = [...new Set(chosen.flatMap((run) => run.steps))].sort((a, b) => a - b);
    range.max = Math.max(0, steps.length - 1);
    range.value = latest(steps, step);
    range.disabled = play.disabled = steps.length < 2;
    const scale = there.length ? commonScale(there) : null;
    full.textContent = scale ? `${Number((100 * scale.most).toPrecision(3))} % and more` : "";
    shown = chosen.map((run, i) => makeCard(run, layers[i], scale, chosen.length > 1 ? 256 : 384));
    cards.replaceChildren(...shown);
    show();
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
    output.setAttribute("aria-live", "polite");
  };
  const move = () => {
    range.value = Number(range.value) + 1;
    show();
    if (Number(range.value) >= Number(range.max)) stop();
  };
  const toggle = () => {
    if (timer) return stop();
    if (Number(range.value) >= Number(range.max)) range.value = 0;
    show();
    timer = setInterval(move, INTERVAL);
    play.textContent = "Pause";
    output.setAttribute("aria-live", "off"); // no reader can follow
  };

  range.addEventListener("input", () => { stop(); show(); });
  range.addEventListener("keydown", (event) => {
    if (event.key !== " ") return;
    event.preventDefault();
    toggle();
  });
  play.addEventListener("click", toggle);
  for (const box of [layerBox, ...boxes]) {
    box.addEventListener("change", () => { stop(); rebuild(); });
  }
  root.hidden = false;
  rebuild();
  return () => shown.forEach((card) => card.repaint());
}

const repaints = [...document.querySelectorAll(".slider")].map(start);
const repaint = () => repaints.forEach((one) => one());
const theme = document.querySelector(".theme");
const dark = matchMedia("(prefers-color-scheme: dark)");
const chosen = document.documentElement.dataset;
const isDark = () => chosen.theme ? chosen.theme === "dark" : dark.matches;

/** Set the page's colours: "light", "dark", or undefined for those of the system. */
function setTheme(name) {
  if (name) chosen.theme = name;
  else delete chosen.theme;
  theme.textContent = isDark() ? "Light" : "Dark";
  theme.title = `${theme.textContent} colours`;
  repaint();
}

let before;
theme.addEventListener("click", () => setTheme(isDark() ? "light" : "dark"));
dark.addEventListener("change", () => setTheme(chosen.theme));
addEventListener("beforeprint", () => { before = chosen.theme; setTheme("light"); });
addEventListener("afterprint", () => setTheme(before));
setTheme();
theme.hidden = false;
