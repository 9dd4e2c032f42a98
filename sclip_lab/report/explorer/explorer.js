"use strict";
(async () => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const [rows, columns] = data.grid, patches = rows * columns;
  const element = (id) => document.getElementById(id);
  const grid = element("grid"), status = element("status"), note = element("note");
  const controls = ["kind", "head", "layer", "scale"];

  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }
  async function unpackMaps(stored) {
    if (!stored) return null;
    const largest = await unpack(stored.largest);
    return { maps: await unpack(stored.maps), largest: new Float32Array(largest.buffer),
      per: stored.per.reduce((a, b) => a * b, 1) };
  }

  const photo = new Image();
  photo.src = data.photo;
  await photo.decode();
  const layers = await unpackMaps(data.layers);
  const edge = data.mask ? await unpack(data.mask) : null;
  const variants = await Promise.all(data.variants.map(async (v) => ({
    label: v.label, topn: v.topn,
    attention: await unpackMaps(v.attention), heads: await unpackMaps(v.heads),
    similarity: await unpack(v.similarity),
    top: new Uint16Array((await unpack(v.top)).buffer), probability: await unpack(v.probability),
  })));
  const figures = [...document.querySelectorAll(".variant")];

  // State: what is chosen, and where the reader points.
  let locked = false, row = rows >> 1, column = columns >> 1;

  function option(select, value, text) {
    const added = document.createElement("option");
    added.value = value; added.textContent = text;
    element(select).append(added);
  }
  const heads = Math.max(0, ...variants.map((v) => (v.heads ? v.heads.per : 0)));
  for (let h = 0; h < heads; h++) option("head", h, "head " + h);
  for (let l = 0; l < layers.per; l++) option("layer", l, "block " + l + " as trained");
  element("outline").disabled = !edge;

  for (let r = 0; r < rows; r++) {
    const line = document.createElement("div");
    line.setAttribute("role", "row");
    for (let c = 0; c < columns; c++) {
      const cell = document.createElement("div");
      cell.setAttribute("role", "gridcell");
      cell.id = "patch-" + r + "-" + c;
      cell.setAttribute("aria-label", "row " + (r + 1) + ", column " + (c + 1));
      line.append(cell);
    }
    grid.append(line);
  }

  // The nearest patch whose heads and layers were kept, and its place among them.
  function nearest() {
    const s = data.stride, across = Math.ceil(columns / s), down = Math.ceil(rows / s);
    const r = Math.min(down - 1, Math.round(row / s)), c = Math.min(across - 1, Math.round(column / s));
    return { place: r * across + c, exact: r * s === row && c * s === column, row: r * s, column: c * s };
  }
  // Row `place`, head or block `part`; keys may have been averaged over squares of `pool`.
  function weights(stored, place, part, pool) {
    const across = Math.ceil(columns / pool), each = across * Math.ceil(rows / pool);
    const index = place * stored.per + part, from = index * each;
    const most = stored.largest[index], out = new Float32Array(patches);
    for (let i = 0; i < patches; i++) {
      const r = Math.floor(Math.floor(i / columns) / pool), c = Math.floor((i % columns) / pool);
      const root = stored.maps[from + r * across + c] / data.levels;
      out[i] = most * root * root;
    }
    return out;
  }
  function similarity(v, patch) {
    const out = new Float32Array(patches);
    for (let i = 0; i < patches; i++) {
      const a = Math.max(i, patch), b = Math.min(i, patch);
      out[i] = 2 * v.similarity[a * (a + 1) / 2 + b] / data.levels - 1;
    }
    return out;
  }
  function mapOf(v) {
    const patch = row * columns + column, kind = element("kind").value;
    if (kind === "similarity") return similarity(v, patch);
    const layer = element("layer").value, head = element("head").value;
    if (layer !== "own") return weights(layers, nearest().place, Number(layer), data.pool);
    if (head !== "mean") {
      return v.heads && head < v.heads.per ? weights(v.heads, nearest().place, Number(head), data.pool) : null;
    }
    return v.attention ? weights(v.attention, patch, 0, 1) : null;
  }

  function draw(canvas, paint) {
    canvas.width = data.size[1]; canvas.height = data.size[0];
    const brush = canvas.getContext("2d");
    brush.drawImage(photo, 0, 0, canvas.width, canvas.height);
    if (paint) paint(brush);
    if (edge && element("outline").checked) {
      brush.fillStyle = "#fff";
      for (let i = 0; i < edge.length; i++) {
        if (edge[i]) brush.fillRect(i % canvas.width, Math.floor(i / canvas.width), 1.5, 1.5);
      }
    }
    return brush;
  }
  function heat(brush, values, low, high) {
    const small = new OffscreenCanvas(columns, rows), pen = small.getContext("2d");
    const pixels = pen.createImageData(columns, rows);
    for (let i = 0; i < patches; i++) {
      const share = high > low ? (values[i] - low) / (high - low) : 0;
      const step = Math.max(0, Math.min(data.levels, Math.round(share * data.levels)));
      pixels.data.set([...data.ramp[step], 255], 4 * i);
    }
    pen.putImageData(pixels, 0, 0);
    brush.globalAlpha = element("strength").value / 100;
    brush.imageSmoothingEnabled = false;
    brush.drawImage(small, 0, 0, data.size[1], data.size[0]);
    brush.globalAlpha = 1;
  }
  function labels(brush, v) {
    brush.globalAlpha = element("strength").value / 100;
    const w = data.size[1] / columns, h = data.size[0] / rows;
    for (let i = 0; i < patches; i++) {
      brush.fillStyle = data.colors[v.top[i * v.topn]];
      brush.fillRect((i % columns) * w, Math.floor(i / columns) * h, w + 1, h + 1);
    }
    brush.globalAlpha = 1;
  }
  function box(brush, r, c) {
    const w = data.size[1] / columns, h = data.size[0] / rows, line = Math.max(1, w / 8);
    for (const [color, grow] of [["#000", line], ["#fff", 0]]) {
      brush.strokeStyle = color; brush.lineWidth = line;
      brush.strokeRect(c * w - grow, r * h - grow, w + 2 * grow, h + 2 * grow);
    }
  }

  function show() {
    const kind = element("kind").value;
    const maps = kind === "labels" ? [] : variants.map(mapOf);
    const present = maps.filter(Boolean);
    const most = (values) => values.reduce((a, b) => Math.max(a, b), -1);
    const least = (values) => values.reduce((a, b) => Math.min(a, b), kind === "similarity" ? 1 : 0);
    const shared = element("scale").value === "shared";
    const patch = row * columns + column;
    const spoken = [];
    variants.forEach((v, i) => {
      const figure = figures[i], canvas = figure.querySelector("canvas");
      const scale = figure.querySelector(".scale");
      const values = maps[i];
      const high = shared ? Math.max(...present.map(most)) : values ? most(values) : 0;
      const low = shared ? Math.min(...present.map(least)) : values ? least(values) : 0;
      const brush = draw(canvas, (pen) => {
        if (kind === "labels") labels(pen, v);
        else if (values) heat(pen, values, low, high);
      });
      const drawn = kind === "attention" && (element("layer").value !== "own" ||
        element("head").value !== "mean") ? nearest() : { row, column };
      box(brush, drawn.row, drawn.column);
      scale.textContent = kind === "labels" ? "most probable class of each patch"
        : values ? (kind === "similarity" ? "cosine " : "weights ") + low.toPrecision(2) +
          " to " + high.toPrecision(2)
        : "this variant has no single map";
      const list = figure.querySelector(".top");
      list.replaceChildren();
      for (let t = 0; t < v.topn; t++) {
        const share = v.probability[patch * v.topn + t] / 255;
        const item = document.createElement("li"), name = document.createElement("span");
        const value = document.createElement("span"), id = v.top[patch * v.topn + t];
        name.textContent = data.classes[id];
        value.textContent = Math.round(100 * share) + " %";
        item.style.setProperty("--share", 100 * share + "%");
        item.style.borderColor = kind === "labels" ? data.colors[id] : "transparent";
        item.append(name, value);
        list.append(item);
        if (t === 0) spoken.push(v.label + ": " + name.textContent + " " + value.textContent);
      }
    });
    const near = nearest();
    const sampledOnly = kind === "attention" &&
      (element("layer").value !== "own" || element("head").value !== "mean");
    note.textContent = sampledOnly && !near.exact
      ? "Heads and layers are kept for one row and column in " + data.stride + "; this is the nearest: row " +
        (near.row + 1) + ", column " + (near.column + 1) + "."
      : "";
    for (const cell of grid.querySelectorAll("[aria-selected]")) cell.removeAttribute("aria-selected");
    const cell = element("patch-" + row + "-" + column);
    cell.setAttribute("aria-selected", "true");
    grid.setAttribute("aria-activedescendant", cell.id);
    grid.classList.toggle("locked", locked);
    status.textContent = "Row " + (row + 1) + ", column " + (column + 1) +
      (locked ? ", kept" : "") + ". " + spoken.join("; ");
    const state = new URLSearchParams({ patch: row + "," + column });
    if (locked) state.set("kept", "1");
    for (const id of controls) if (element(id).selectedIndex > 0) state.set(id, element(id).value);
    try { history.replaceState(null, "", "#" + state); } catch { /* within a notebook's frame */ }
  }
  let waiting = false;
  function soon() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; show(); });
  }
  function move(r, c) {
    row = Math.max(0, Math.min(rows - 1, r)); column = Math.max(0, Math.min(columns - 1, c));
    soon();
  }
  function at(event) {
    const area = grid.getBoundingClientRect();
    return [Math.floor((event.clientY - area.top) / area.height * rows),
      Math.floor((event.clientX - area.left) / area.width * columns)];
  }

  grid.addEventListener("pointermove", (event) => { if (!locked) move(...at(event)); });
  grid.addEventListener("click", (event) => {
    const [r, c] = at(event), same = r === row && c === column;
    locked = !(locked && same);
    move(r, c);
  });
  grid.addEventListener("keydown", (event) => {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (event.key in steps) move(row + steps[event.key][0], column + steps[event.key][1]);
    else if (event.key === "Home") move(row, 0);
    else if (event.key === "End") move(row, columns - 1);
    else if (event.key === "Enter" || event.key === " ") { locked = !locked; soon(); }
    else if (event.key === "Escape") { locked = false; soon(); }
    else return;
    event.preventDefault();
  });
  for (const kind of ["input", "change"]) element("controls").addEventListener(kind, soon);
  element("controls").addEventListener("submit", (event) => event.preventDefault());

  function fromAddress() {
    const state = new URLSearchParams(location.hash.slice(1));
    const [r, c] = (state.get("patch") || "").split(",").map(Number);
    if (Number.isInteger(r) && Number.isInteger(c)) { row = r; column = c; }
    locked = state.has("kept");
    for (const id of controls) {
      const wanted = state.get(id);
      if (wanted && [...element(id).options].some((o) => o.value === wanted)) element(id).value = wanted;
    }
    move(row, column);
  }
  addEventListener("hashchange", fromAddress);
  draw(element("base"));
  fromAddress();
  document.body.dataset.ready = "1";
})();
