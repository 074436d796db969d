// The gallery's page: filters, order, the grid of pictures, and the panel of one image.
// Rows are columns of window.GALLERY (data.js); strings from the run reach the page as text only, never as markup.
"use strict";

(() => {
  const data = window.GALLERY;
  const rows = data.rows;
  const count = rows.key.length;
  const ORIGINAL = "original";
  const maps = [{ name: ORIGINAL, column: ORIGINAL }, ...data.maps];
  const $ = (id) => document.getElementById(id);

  // ---- small pieces ----

  function make(tag, properties = {}, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  }

  const padded = (number, digits) => String(number).padStart(digits, "0");
  const picture = (row, column) =>
    `thumbs/${padded(Math.floor(row / data.part), 4)}/${padded(row, 6)}.${column}.jpg`;

  function text(value) {
    if (value === null) return "–";
    if (typeof value !== "number" || Number.isInteger(value)) return String(value);
    return Math.abs(value) < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
  }

  const plural = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
  const camera = (camid) => camid === null ? text(camid) : `${camid} (c${camid + 1})`; // from 0, and as in names
  const nameOf = (row) => `pid ${text(rows.pid[row])} · cam ${camera(rows.camid[row])}`;
  // A map as it is in run A or B; the original image is the same in both.
  const sides = data.other ? ["a", "b"] : ["a"];
  const inRun = (map, side) => (side === "b" && map.b) || map;
  const runName = { a: data.run, b: data.other };
  const labelOf = (map, side) => (data.other ? `${map.name} · ${side.toUpperCase()}` : map.name);
  const columnOf = (map, measure) => `${map.column}_${measure}`;

  // ---- what is asked for; the address keeps it ----

  const fresh = () => ({
    map: maps[Math.min(1, maps.length - 1)].name, sort: "", descending: false, pid: "",
    side: "a", cameras: new Set(), splits: new Set(), size: Math.min(320, Math.max(64, data.thumb_height)), open: null,
  });
  let state = fresh();
  let shown = [];

  function readAddress() {
    const given = new URLSearchParams(location.hash.slice(1));
    const set = (name) => new Set(given.has(name) ? given.getAll(name) : []);
    state = fresh();
    if (maps.some((map) => map.name === given.get("map"))) state.map = given.get("map");
    if (sides.includes(given.get("run"))) state.side = given.get("run");
    if (sortable.has(given.get("sort"))) state.sort = given.get("sort");
    state.descending = given.get("order") === "desc";
    state.pid = given.get("pid") ?? "";
    state.cameras = set("cam");
    state.splits = set("split");
    const size = Number(given.get("size"));
    if (size >= 64 && size <= 320) state.size = size;
    const open = given.get("open");
    if (open !== null && /^\d+$/.test(open) && Number(open) < count) state.open = Number(open);
  }

  let writing = 0;
  function writeAddress() {
    clearTimeout(writing); // browsers refuse many changes in a short time, as when an arrow key is held
    writing = setTimeout(() => {
      const plain = fresh();
      const said = new URLSearchParams();
      if (state.map !== plain.map) said.set("map", state.map);
      if (state.side !== plain.side) said.set("run", state.side);
      if (state.sort) said.set("sort", state.sort);
      if (state.descending) said.set("order", "desc");
      if (state.pid) said.set("pid", state.pid);
      for (const camera of state.cameras) said.append("cam", camera);
      for (const split of state.splits) said.append("split", split);
      if (state.size !== plain.size) said.set("size", state.size);
      if (state.open !== null) said.set("open", state.open);
      history.replaceState(null, "", `#${said}`);
    }, 120);
  }

  // ---- filter and order ----

  // "12, 40-45, -1" -> [[12, 12], [40, 45], [-1, -1]]; null where a piece is neither a number nor a range.
  function ranges(given) {
    const found = [];
    for (const piece of given.split(/[,;]/).map((part) => part.trim()).filter(Boolean)) {
      const match = /^(-?\d+)(?:\s*(?:-|–|\.\.)\s*(-?\d+))?$/.exec(piece);
      if (!match) return null;
      found.push([Number(match[1]), Number(match[2] ?? match[1])]);
    }
    return found;
  }

  function select() {
    const pids = ranges(state.pid);
    $("pid").setAttribute("aria-invalid", String(pids === null));
    $("pid-problem").hidden = pids !== null;
    if (pids === null) $("pid-problem").textContent = "Write numbers or ranges: 12, 40-45";
    const found = [];
    for (let row = 0; row < count; row++) {
      if (state.cameras.size && !state.cameras.has(text(rows.camid[row]))) continue;
      if (state.splits.size && !state.splits.has(text(rows.split[row]))) continue;
      const pid = rows.pid[row];
      if (pids === null) continue;
      if (pids.length && (pid === null || !pids.some(([low, high]) => low <= pid && pid <= high))) continue;
      found.push(row);
    }
    return order(found);
  }

  function order(found) {
    const sign = state.descending ? -1 : 1;
    const values = state.sort ? rows[state.sort] : null;
    return found.sort((a, b) => {
      if (values === null) return sign * (a - b);
      const [x, y] = [values[a], values[b]];
      if (x === null || y === null) return (x === null) - (y === null) || a - b; // what has no value comes last
      return sign * (x - y) || a - b;
    });
  }

  // ---- the filters' elements ----

  const sortable = new Map();
  function fillSort() {
    const select = $("sort");
    select.append(make("option", { value: "", textContent: data.order_by ? "as selected" : "as stored" }));
    const group = (label, columns) => {
      const options = columns.map(([value, name]) => make("option", { value, textContent: name }));
      columns.forEach(([value, name]) => sortable.set(value, name));
      select.append(make("optgroup", { label }, ...options));
    };
    group("image", data.image_numbers.map((name) => [name, name]));
    for (const map of data.maps) for (const side of sides) {
      const label = labelOf(map, side);
      group(label, data.measures.map((m) => [columnOf(inRun(map, side), m), `${label} ${m}`]));
    }
  }

  function fillChips(id, values, chosen, label = text) {
    const counts = new Map();
    for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
    const sorted = [...counts.keys()].sort((a, b) =>
      (a === null) - (b === null) || (typeof a === "number" ? a - b : String(a) < String(b) ? -1 : 1));
    for (const value of sorted) {
      const box = make("input", { type: "checkbox", value: text(value) });
      box.addEventListener("change", () => {
        box.checked ? chosen().add(box.value) : chosen().delete(box.value);
        update();
      });
      $(id).append(make("label", {}, box, value === null ? "none" : label(value), make("small", { textContent: counts.get(value) })));
    }
    $(id).closest("fieldset").hidden = sorted.length < 2;
  }

  function fillRuns() {
    $("side").hidden = !data.other;
    for (const side of sides) {
      const key = make("kbd", { textContent: side });
      const button = make("button", { type: "button" }, key, make("span", { textContent: runName[side] ?? "" }));
      button.addEventListener("click", () => showRun(side));
      $("runs").append(button);
    }
  }

  function fillMaps() {
    maps.forEach((map, index) => {
      const key = make("kbd", { textContent: index < 9 ? String(index + 1) : "" });
      const button = make("button", { type: "button" }, key, make("span", { textContent: map.name }));
      button.addEventListener("click", () => show(map));
      $("maps").append(button);
    });
    const bar = $("bar").getContext("2d");
    data.colours.forEach((colour, x) => {
      bar.fillStyle = colour;
      bar.fillRect(x, 0, 1, 1);
    });
  }

  function fillAbout() {
    document.title = `${data.run} · promptsg gallery`;
    $("run").textContent = data.run;
    const left = Object.values(data.left_out).reduce((sum, number) => sum + number, 0);
    const reasons = Object.entries(data.left_out).map(([reason, number]) => `${number} ${reason}`).join(", ");
    const parts = [plural(data.images, "image")];
    if (data.sample) parts.push("a random sample");
    if (left) parts.push(`${plural(left, "row")} left out (${reasons})`);
    if (data.cut) parts.push(`${data.cut.toLocaleString("en")} more matched, cut by the limit`);
    $("about").textContent = `${parts.join("; ")}. Run ${data.fingerprint.slice(0, 12)}.`;
    const where = [data.where && `where ${data.where}`, data.order_by && `order by ${data.order_by}`].filter(Boolean);
    $("where").hidden = !where.length;
    $("where").textContent = where.join("\n");
    $("keys").textContent = `Keys: 1–${Math.min(9, maps.length)} switch the map${data.other ? ", a and b the run" : ""}, arrows move, Enter opens`;
  }

  // ---- the grid ----

  const cells = [];
  function fillGrid() {
    const ratios = [];
    for (let row = 0; row < count; row++) {
      const image = make("img", { loading: "lazy", decoding: "async", alt: "" });
      const value = make("span", { className: "value" });
      const cell = make("button", { type: "button", title: rows.key[row], tabIndex: -1 }, image,
        make("span", { textContent: nameOf(row) }), value);
      cell.dataset.row = row;
      cells.push({ cell, image, value });
      if (rows.width[row] && rows.height[row]) ratios.push(Math.min(3, rows.width[row] / rows.height[row]));
    }
    ratios.sort((a, b) => a - b);
    ratio = ratios[ratios.length >> 1] ?? 0.5;
  }

  let ratio = 0.5;
  let drawn = [];
  function drawGrid() {
    const column = inRun(maps.find((map) => map.name === state.map), state.side).column;
    for (const row of shown) {
      const { cell, image, value } = cells[row];
      const source = picture(row, column);
      if (image.getAttribute("src") !== source) image.src = source;
      const of = { ap: "AP ", first_rank: "first match at rank " }[state.sort] ?? "";
      value.textContent = state.sort ? `${of}${text(rows[state.sort][row])}` : "";
      value.hidden = !state.sort || state.sort === "pid" || state.sort === "camid";
      cell.setAttribute("aria-label", `${rows.key[row]}, ${nameOf(row)}${value.hidden ? "" : `, ${value.textContent}`}`);
    }
    if (shown.length !== drawn.length || shown.some((row, place) => row !== drawn[place])) {
      $("grid").replaceChildren(...shown.map((row) => cells[row].cell));
      drawn = shown;
    }
    if (shown.length && !shown.includes(current)) focusable(shown[0]);
    $("empty").hidden = shown.length > 0;
    const all = shown.length === count ? "" : ` of ${count.toLocaleString("en")}`;
    $("count").textContent = `${shown.length.toLocaleString("en")}${all} image${count === 1 ? "" : "s"}`;
    $("by").textContent = state.sort ? `by ${sortable.get(state.sort)}, ${state.descending ? "high" : "low"} first` : "";
  }

  let current = -1; // the one picture that Tab reaches; arrows move from there
  function focusable(row) {
    if (current >= 0) cells[current].cell.tabIndex = -1;
    current = row;
    cells[row].cell.tabIndex = 0;
  }

  function move(row, key) {
    const place = shown.indexOf(row);
    const wide = getComputedStyle($("grid")).gridTemplateColumns.split(" ").length;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -wide, ArrowDown: wide, Home: -place, End: shown.length }[key];
    const next = key === "End" ? shown.length - 1 : place + step;
    if (next < 0 || next >= shown.length) return;
    focusable(shown[next]);
    cells[shown[next]].cell.focus();
  }

  function update() {
    shown = select();
    const chosen = maps.find((one) => one.name === state.map);
    const map = inRun(chosen, state.side);
    [...$("maps").children].forEach((button, index) =>
      button.setAttribute("aria-pressed", String(maps[index] === chosen)));
    [...$("runs").children].forEach((button, index) =>
      button.setAttribute("aria-pressed", String(sides[index] === state.side)));
    $("scale").classList.toggle("off", map.name === ORIGINAL);
    $("low").textContent = map.limits ? text(map.limits[0]) : "low";
    $("high").textContent = map.limits ? text(map.limits[1]) : "high";
    $("meaning").textContent = map.limits ? "same for all images" : "each map's own range";
    $("sort").value = state.sort;
    $("direction").textContent = state.descending ? "↓ descending" : "↑ ascending";
    if ($("pid").value !== state.pid) $("pid").value = state.pid;
    for (const [id, chosen] of [["cameras", state.cameras], ["splits", state.splits]]) {
      for (const box of $(id).querySelectorAll("input")) box.checked = chosen.has(box.value);
    }
    $("size").value = state.size;
    document.documentElement.style.setProperty("--thumb", `${state.size}px`);
    document.documentElement.style.setProperty("--cell", `${Math.max(142, Math.round(state.size * ratio) + 12)}px`);
    $("reset").disabled = !state.pid && !state.cameras.size && !state.splits.size;
    drawGrid();
    drawPanel();
    writeAddress();
  }

  function show(map) {
    state.map = map.name;
    update();
  }

  function showRun(side) {
    state.side = side;
    update();
  }

  // ---- maps: bytes that a script brings, drawn as the command draws them ----

  const brought = new Map(); // part -> promise of column -> bytes
  const waiting = new Map();
  window.galleryMaps = (part, coded) => {
    const bytes = {};
    for (const [column, one] of Object.entries(coded)) bytes[column] = Uint8Array.from(atob(one), (c) => c.charCodeAt(0));
    waiting.get(part)?.(bytes);
  };

  function bring(part) {
    if (!brought.has(part)) {
      brought.set(part, new Promise((done, failed) => {
        waiting.set(part, done);
        const script = make("script", { src: `maps/${padded(part, 4)}.js` });
        script.addEventListener("error", () => failed(new Error(`${script.getAttribute("src")} cannot be loaded`)));
        document.head.append(script);
      }));
    }
    return brought.get(part);
  }

  async function levelsOf(row, map) {
    const bytes = (await bring(Math.floor(row / data.part)))[map.column];
    const [h, w] = map.grid ?? data.grid;
    const size = h * w;
    const place = row % data.part;
    return bytes.subarray(place * size, (place + 1) * size);
  }

  const palette = data.colours.map((colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16)));

  // The two nearest patches of each pixel and the second one's share: bilinear, a patch's value at its centre. Centres
  // are fractions of the image: the first one, and the step from one to the next.
  function neighbours(pixels, patches, [centre, step]) {
    return Array.from({ length: pixels }, (_, pixel) => {
      const at = Math.min(patches - 1, Math.max(0, ((pixel + 0.5) / pixels - centre) / step));
      const first = Math.floor(at);
      return [first, Math.min(patches - 1, first + 1), at - first];
    });
  }

  // With `fades` a pixel is as opaque as its level is high, as in the pictures of the grid.
  function paint(canvas, levels, map, fades) {
    const [h, w] = map.grid ?? data.grid;
    const centres = map.centres ?? data.centres;
    const context = canvas.getContext("2d");
    const out = context.createImageData(canvas.width, canvas.height);
    const across = neighbours(canvas.width, w, centres[1]);
    neighbours(canvas.height, h, centres[0]).forEach(([above, below, down], y) => {
      across.forEach(([left, right, over], x) => {
        const top = levels[above * w + left] * (1 - over) + levels[above * w + right] * over;
        const bottom = levels[below * w + left] * (1 - over) + levels[below * w + right] * over;
        const level = Math.round(top * (1 - down) + bottom * down);
        out.data.set([...palette[level], fades ? level : 255], 4 * (y * canvas.width + x));
      });
    });
    context.putImageData(out, 0, 0);
  }

  // ---- the panel ----

  const panel = $("panel");
  let pictured = null;

  function list(pairs) {
    return make("dl", {}, ...pairs.flatMap(([name, value]) => [
      make("dt", { textContent: name }), make("dd", { textContent: value })]));
  }

  function shape(row) {
    const [width, height] = [rows.width[row] || 1, rows.height[row] || 2];
    const tall = Math.max(1, Math.min(data.thumb_height, Math.round((3 * data.thumb_height * height) / width)));
    return [Math.max(1, Math.min(6 * data.thumb_height, Math.round((width * tall) / height))), tall];
  }

  // As high as the pictures beside it, so that each bar lies level with the stripe that it counts.
  function stripes(row, map) {
    const names = data.measures.filter((measure) => measure.startsWith("stripe_"));
    const shares = names.map((measure) => rows[columnOf(map, measure)][row]);
    const most = Math.max(...shares.map((share) => share ?? 0)) || 1;
    return make("ol", {}, ...shares.map((share) => {
      const bar = make("i");
      bar.style.width = `${(100 * (share ?? 0)) / most}%`;
      return make("li", {}, share === null ? "–" : `${(100 * share).toFixed(1)} %`, bar);
    }));
  }

  function mapSection(row, shared, side) {
    const [map, label] = [inRun(shared, side), labelOf(shared, side)];
    const [width, height] = shape(row);
    const framed = (caption, ...layers) => {
      const stack = make("div", { className: "stack" }, ...layers);
      stack.style.aspectRatio = `${width} / ${height}`;
      return make("figure", {}, stack, make("figcaption", { textContent: caption }));
    };
    const image = (alt) => make("img", { src: picture(row, ORIGINAL), alt });
    const canvas = () => make("canvas", { width, height });
    const [heat, over] = [canvas(), canvas()];
    const bars = framed("share by stripe", stripes(row, map));
    bars.className = "bars";
    const pictures = make("div", { className: "three" }, framed("original", image(`Original of ${rows.key[row]}`)),
      framed("heatmap", heat), framed("overlay", image(""), over), bars);
    const measures = data.measures.filter((measure) => !measure.startsWith("stripe_"));
    const numbers = list(measures.map((measure) => [measure, text(rows[columnOf(map, measure)][row])]));
    const section = make("section", {}, make("h3", { textContent: label }), pictures, numbers);
    section.setAttribute("aria-label", label);
    section.dataset.map = map.name;
    section.dataset.side = side;
    levelsOf(row, map).then(
      (levels) => [heat, over].forEach((one) => paint(one, levels, map, one === over && data.fade)),
      (problem) => section.append(make("p", { className: "problem", textContent: problem.message })));
    return section;
  }

  function drawPanel() {
    const row = state.open;
    if (row === null) {
      if (panel.open) panel.close();
      pictured = null;
      return;
    }
    const opens = !panel.open;
    if (row !== pictured) {
      const facts = ["split", "shard", ...data.image_numbers].map(
        (name) => [name, name === "camid" ? camera(rows.camid[row]) : text(rows[name][row])]);
      $("panel-key").textContent = rows.key[row];
      $("panel-image").replaceChildren(list(facts));
      $("panel-maps").replaceChildren(...data.maps.flatMap((map) => sides.map((side) => mapSection(row, map, side))));
      pictured = row;
    }
    for (const section of $("panel-maps").children) {
      section.classList.toggle("current", section.dataset.map === state.map && section.dataset.side === state.side);
    }
    const place = shown.indexOf(row);
    $("panel-place").textContent = place < 0 ? "not among the images shown" : `${(place + 1).toLocaleString("en")} of ${shown.length.toLocaleString("en")}`;
    $("previous").disabled = place <= 0;
    $("next").disabled = place < 0 || place === shown.length - 1;
    if (!panel.open) panel.showModal();
    // Not on the slider, which would take the arrow keys, nor on a button that is disabled now.
    if (opens || document.activeElement.disabled) panel.focus();
  }

  function open(row) {
    state.open = row;
    if (row !== null && shown.includes(row)) focusable(row);
    drawPanel();
    writeAddress();
  }

  function step(by) {
    const place = shown.indexOf(state.open) + by;
    if (shown.includes(state.open) && place >= 0 && place < shown.length) open(shown[place]);
  }

  function setOpacity(value) {
    document.documentElement.style.setProperty("--opacity", value);
    $("opacity").value = value;
    $("opacity-value").textContent = Number(value).toFixed(2);
  }

  // ---- events ----

  function listen() {
    $("grid").addEventListener("click", (event) => {
      const cell = event.target.closest("button");
      if (cell) open(Number(cell.dataset.row));
    });
    $("filters").addEventListener("submit", (event) => event.preventDefault());
    $("sort").addEventListener("change", () => { state.sort = $("sort").value; update(); });
    $("direction").addEventListener("click", () => { state.descending = !state.descending; update(); });
    $("pid").addEventListener("input", () => { state.pid = $("pid").value; update(); });
    $("size").addEventListener("input", () => { state.size = Number($("size").value); update(); });
    $("reset").addEventListener("click", () => {
      Object.assign(state, { pid: "", cameras: new Set(), splits: new Set() });
      update();
    });
    $("opacity").addEventListener("input", () => setOpacity($("opacity").value));
    $("previous").addEventListener("click", () => step(-1));
    $("next").addEventListener("click", () => step(1));
    $("close").addEventListener("click", () => open(null));
    panel.addEventListener("click", (event) => { if (event.target === panel) open(null); }); // beside it
    panel.addEventListener("close", () => {
      if (state.open !== null) open(null);
      if (current >= 0) cells[current].cell.focus();
    });
    addEventListener("hashchange", () => { readAddress(); update(); });
    addEventListener("keydown", pressed);
  }

  function pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches('input[type="text"], select')) return;
    if (data.other && sides.includes(event.key)) return showRun(event.key);
    if (/^[1-9]$/.test(event.key) && maps[event.key - 1]) return show(maps[event.key - 1]);
    if (event.target.matches('input[type="range"]')) return;
    if (panel.open) {
      if (event.key === "ArrowLeft") step(-1);
      if (event.key === "ArrowRight") step(1);
      return;
    }
    const cell = event.target.closest("#grid button");
    if (cell && /^(Arrow(Left|Right|Up|Down)|Home|End)$/.test(event.key)) {
      event.preventDefault();
      move(Number(cell.dataset.row), event.key);
    } else if (event.target === document.body && shown.length && /^Arrow(Left|Right|Up|Down)$/.test(event.key)) {
      event.preventDefault(); // the first arrow marks an image, from which the next ones move
      const row = shown.includes(current) ? current : shown[0];
      focusable(row);
      cells[row].cell.focus();
    }
  }

  fillAbout();
  fillRuns();
  fillMaps();
  fillSort();
  fillChips("cameras", rows.camid, () => state.cameras, camera);
  fillChips("splits", rows.split, () => state.splits);
  fillGrid();
  setOpacity(data.alpha);
  readAddress();
  listen();
  update();
})();
