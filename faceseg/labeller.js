// The canvas of `faceseg.labeller`: a photograph, its label map, and the tools that change it. The kernel keeps the
// files; this side keeps what is on screen. All changes of pixels are edits: runs [first pixel, count, label, origin].
const UNLABELLED = 255, UNTOUCHED = 0, PREDICTED = 1, CORRECTED = 2;
const KEYS = "0123456789h";  // of the classes, in the order of their ids
const TOOLS = [["brush", "b", "Paint the chosen class"], ["erase", "e", "Take labels away"],
  ["fill", "f", "Give a connected region of one class the chosen class"],
  ["move", "m", "Drag the picture; also with the middle button, the space bar or two fingers"],
  ["landmarks", "l", "Drag the points of the face; points within the brush follow"]];
const HELP = "Keys: 0 to 9 and h choose a class; b e f m l a tool; [ ] the size of the brush; a accepts, p predicts, " +
  "t trains, n opens the next photograph; s u o show suggestion, uncertainty, only one class; Ctrl+Z, Ctrl+Y. " +
  "Wheel: zoom. Double click: whole picture.";

// ---- edits -----------------------------------------------------------------------------------------------------

// Add a pixel behind those that some runs have.
function append(runs, i, label, origin) {
  const last = runs.at(-1);
  if (last && last[0] + last[1] === i && last[2] === label && last[3] === origin) last[1]++;
  else runs.push([i, 1, label, origin]);
}

// The smallest rectangle that holds the pixels of some runs: left, top, right, bottom.
function boxOf(runs, width) {
  let left = Infinity, top = Infinity, right = 0, bottom = 0;
  for (const [start, count] of runs) {
    const x = start % width, within = x + count <= width;
    left = Math.min(left, within ? x : 0);
    right = Math.max(right, within ? x + count : width);
    top = Math.min(top, Math.floor(start / width));
    bottom = Math.max(bottom, Math.floor((start + count - 1) / width) + 1);
  }
  return [left, top, right, bottom];
}

// Edits that the kernel has not confirmed, in the order in which they were made. Each has an entry of its own in the
// browser's storage, so a kernel or a page that ends takes none of them along: the next page sends them again.
class Journal {
  constructor(store, storage) {
    this.prefix = `faceseg-edit-${store}-`;
    this.storage = storage;
    this.unstored = [];  // where the storage is full or forbidden
    this.count = 0;
  }
  get edits() {
    const keys = Object.keys(this.storage).filter(key => key.startsWith(this.prefix)).sort();
    return [...keys.map(key => JSON.parse(this.storage.getItem(key))), ...this.unstored];
  }
  add(name, runs) {  // the edit, and whether it is stored
    const id = `${Date.now()}-${String(this.count++).padStart(6, "0")}`, edit = { id, name, runs };
    try { this.storage.setItem(this.prefix + id, JSON.stringify(edit)); return [edit, true]; } catch {
      this.unstored.push(edit);
      return [edit, false];
    }
  }
  confirm(id) {
    this.storage.removeItem(this.prefix + id);
    this.unstored = this.unstored.filter(edit => edit.id !== id);
  }
}

// Pixels of a brush that moved from one place to another: those nearer to the line than the radius.
function* brushed(x0, y0, x1, y1, radius, width, height) {
  const dx = x1 - x0, dy = y1 - y0, length = dx * dx + dy * dy, limit = radius * radius;
  const top = Math.max(0, Math.ceil(Math.min(y0, y1) - radius));
  const bottom = Math.min(height - 1, Math.floor(Math.max(y0, y1) + radius));
  const left = Math.max(0, Math.ceil(Math.min(x0, x1) - radius));
  const right = Math.min(width - 1, Math.floor(Math.max(x0, x1) + radius));
  for (let y = top; y <= bottom; y++) {
    for (let x = left; x <= right; x++) {
      const t = length ? Math.min(1, Math.max(0, ((x - x0) * dx + (y - y0) * dy) / length)) : 0;
      const ex = x - x0 - t * dx, ey = y - y0 - t * dy;
      if (ex * ex + ey * ey <= limit) yield y * width + x;
    }
  }
}

// Which pixels hang together with one, through their four neighbours, and have the same label: 1, others 0.
function connected(labelAt, start, width, height) {
  const label = labelAt(start), seen = new Uint8Array(width * height), stack = [start];
  seen[start] = 1;
  while (stack.length) {
    const i = stack.pop(), x = i % width;
    for (const j of [x ? i - 1 : -1, x < width - 1 ? i + 1 : -1, i - width, i + width]) {
      if (j >= 0 && j < seen.length && !seen[j] && labelAt(j) === label) { seen[j] = 1; stack.push(j); }
    }
  }
  return seen;
}

// The pixels of a rectangle, row by row, for which something holds.
function* pixelsWhere(holds, width, left, top, right, bottom) {
  for (let y = top; y < bottom; y++) {
    for (let i = y * width + left; i < y * width + right; i++) if (holds(i)) yield i;
  }
}

// ---- elements --------------------------------------------------------------------------------------------------

function element(tag, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children);
  return made;
}

const bytes = view => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);

// ---- the labeller ----------------------------------------------------------------------------------------------

class Labeller {
  constructor(model, root) {
    this.model = model;
    this.root = root;
    this.classes = model.get("classes");
    this.journal = new Journal(model.get("store"), window.localStorage);
    this.sheet = null;  // the photograph on screen
    this.histories = {};  // by photograph: what can be undone and redone
    this.tool = "brush"; this.chosen = 1; this.size = 8; this.opacity = 0.55;
    this.unit = 1;  // pixels of the photograph to one of the brush's size: 512 of these are its longer side
    this.shows = { suggestion: true, uncertainty: false, only: false };
    this.zoom = 1; this.x = 0; this.y = 0;  // screen = zoom * pixel + (x, y)
    this.pointers = new Map();
    this.build();
    this.listen();
    this.send({ do: "hello" });
    for (const edit of this.journal.edits) this.send({ do: "edit", ...edit });
  }

  send(content) {
    try { this.model.send(content); }
    catch { this.say("The kernel does not answer. What you paint is kept in this browser."); }
  }
  say(text) { this.status.textContent = text; }

  // -- building

  build() {
    const button = (name, title, act) => {
      const made = element("button", { textContent: name, title, onclick: () => { act(); this.canvas.focus(); } });
      made.dataset.name = name;
      return made;
    };
    const slider = (title, min, max, value, act) => element("label", { title }, `${title} `,
      element("input", { type: "range", min, max, value, oninput: event => act(+event.target.value) }));
    const box = (name, text) => {
      const input = element("input", { type: "checkbox", checked: this.shows[name] });
      input.onchange = () => this.toggle(name, input.checked);
      input.dataset.name = name;
      return element("label", { title: `${text} (${name[0]})` }, input, ` ${text}`);
    };
    this.canvas = element("canvas", { tabIndex: 0 });
    this.canvas.setAttribute("aria-label", "Photograph and label map");
    this.status = element("div", { className: "faceseg-status" });
    this.status.setAttribute("role", "status");
    this.select = element("select", { title: "Photograph" });
    this.select.onchange = () => this.act("open", { name: this.select.value });
    this.palette = element("div", { className: "faceseg-palette" });
    this.classes.forEach(([name, color], id) => {
      const swatch = element("span", { className: "faceseg-swatch" });
      swatch.style.background = `rgb(${color})`;
      const chip = element("button", { title: `${name} (${KEYS[id]})`, onclick: () => this.choose(id) },
        swatch, ` ${name} `, element("kbd", { textContent: KEYS[id] }), element("i"));
      this.palette.append(chip);
    });
    const tools = TOOLS.map(([name, key, title]) => button(name, `${title} (${key})`, () => this.use(name)));
    this.tools = Object.fromEntries(tools.map(made => [made.dataset.name, made]));
    this.sizer = slider("brush", 1, 60, this.size, value => { this.size = value; this.draw(); });
    this.root.classList.add("faceseg-labeller");
    this.root.dataset.lmSuppressShortcuts = "true";  // JupyterLab's own keys stay away
    const actions = [["predict", "Suggest labels by the current model (p)"],
      ["accept", "Take the suggestion over wherever nothing is labelled (a)"],
      ["train", "Learn from all that is labelled so far (t)"],
      ["next", "Open the photograph that the model is least certain about (n)"]];
    this.root.append(
      element("div", { className: "faceseg-bar" }, this.select,
        ...actions.map(([name, title]) => button(name, title, () => this[name]())),
        button("undo", "Ctrl+Z", () => this.undo()), button("redo", "Ctrl+Y", () => this.redo())),
      element("div", { className: "faceseg-bar" }, ...tools, this.sizer,
        slider("opacity", 0, 100, 100 * this.opacity, value => { this.opacity = value / 100; this.draw(); }),
        box("suggestion", "suggestion"), box("uncertainty", "uncertainty"), box("only", "only this class")),
      element("div", { className: "faceseg-middle" }, this.canvas, this.palette), this.status,
      element("details", {}, element("summary", { textContent: "Help" }), HELP));
    this.use(this.tool);
    this.choose(this.chosen);
  }

  listen() {
    const canvas = this.canvas;
    canvas.onpointerdown = event => this.down(event);
    canvas.onpointermove = event => this.moved(event);
    canvas.onpointerup = canvas.onpointercancel = event => this.up(event);
    canvas.onpointerleave = () => { this.cursor = null; this.draw(); };
    canvas.ondblclick = () => { if (this.sheet) this.fit(); };
    canvas.oncontextmenu = event => event.preventDefault();
    canvas.addEventListener("wheel", event => {
      event.preventDefault();
      const [x, y] = this.place(event);
      this.zoomAt(x, y, Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)));
    }, { passive: false });
    this.root.onkeydown = event => this.key(event);
    this.root.onkeyup = event => { if (event.key === " ") this.space = false; };
    this.resized = new ResizeObserver(() => this.resize());
    this.resized.observe(canvas);
    this.heard = (message, buffers) => this.hear(message, buffers);
    this.model.on("msg:custom", this.heard);
  }

  close() {
    this.resized.disconnect();
    this.model.off("msg:custom", this.heard);
  }

  // -- messages

  act(what, more = {}) {
    this.finish();
    this.say({ train: "Training...", next: "Looking for the next photograph...", open: "Opening...",
      predict: "Predicting...", landmarks: "Predicting..." }[what] || "");
    this.send({ do: what, ...more });
  }

  hear(message, buffers) {
    if (message.kind === "written" || message.kind === "refused") this.journal.confirm(message.id);
    if (message.kind === "failed") this.behind = true;  // the next edit sends those before it again, in their order
    if (message.kind === "photographs") this.list(message.names);
    if (message.kind === "sheet") this.open(message, buffers);
    if (message.text !== undefined) this.say(message.text);
  }

  list(names) {
    this.names = names;
    this.select.replaceChildren(...names.map(([name, labelled]) =>
      element("option", { value: name, textContent: labelled ? `${name} (labelled)` : name })));
    if (this.sheet) this.select.value = this.sheet.name;
  }

  // A photograph, its labels as the kernel has them, and what the model says.
  open(message, buffers) {
    this.finish();
    const { name, width, height } = message, before = this.sheet;
    const [picture, labels, origins, suggestion, proba] = buffers.map(bytes);
    const same = before && before.name === name && before.width === width && before.height === height;
    this.sheet = { name, width, height, labels: labels.slice(), origins: origins.slice(), suggestion, proba,
      affine: message.affine, grid: message.grid, outside: message.outside, landmarks: message.landmarks,
      bitmap: same ? before.bitmap : null };
    for (const edit of this.journal.edits) if (edit.name === name) this.write(edit.runs);
    this.history = this.histories[name] ||= { undo: [], redo: [] };
    this.unit = Math.max(1, Math.max(width, height) / 512);
    this.map = new OffscreenCanvas(width, height);
    this.uncertain = null;
    this.select.value = name;
    this.paint();
    if (!same) {
      this.fit();
      const sheet = this.sheet;
      createImageBitmap(new Blob([picture])).then(bitmap => { sheet.bitmap = bitmap; this.draw(); });
    }
  }

  // -- what is on screen

  shown(i) {  // the label of a pixel as it is displayed
    const { labels, suggestion } = this.sheet, label = labels[i];
    return label === UNLABELLED && this.shows.suggestion && suggestion.length ? suggestion[i] : label;
  }

  // Colours of the label map in a rectangle. Suggestions are paler than labels; suggested background is clear.
  paint(left = 0, top = 0, right = this.sheet.width, bottom = this.sheet.height) {
    const { width, labels } = this.sheet;
    if (right <= left || bottom <= top) return;
    const image = new ImageData(right - left, bottom - top);
    for (let y = top, k = 0; y < bottom; y++) {
      for (let x = left; x < right; x++, k += 4) {
        const i = y * width + x, label = this.shown(i);
        if (label === UNLABELLED || this.shows.only && label !== this.chosen) continue;
        const color = this.classes[label][1];
        image.data[k] = color[0]; image.data[k + 1] = color[1]; image.data[k + 2] = color[2];
        image.data[k + 3] = labels[i] !== UNLABELLED ? 255 : label ? 150 : 0;
      }
    }
    this.map.getContext("2d").putImageData(image, left, top);
    this.draw();
  }

  draw() {
    if (!this.frame) this.frame = requestAnimationFrame(() => { this.frame = null; this.render(); });
  }

  render() {
    const { canvas, sheet } = this, context = canvas.getContext("2d"), ratio = window.devicePixelRatio || 1;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!sheet) return;
    context.setTransform(ratio * this.zoom, 0, 0, ratio * this.zoom, ratio * this.x, ratio * this.y);
    context.imageSmoothingEnabled = this.zoom < 2;
    if (sheet.bitmap) context.drawImage(sheet.bitmap, 0, 0);
    context.globalAlpha = this.opacity;
    if (this.shows.uncertainty) this.drawUncertainty(context);
    else context.drawImage(this.map, 0, 0);
    context.globalAlpha = 1;
    if (this.tool === "landmarks") this.drawLandmarks(context);
    if (!this.cursor || this.tool === "fill" || this.tool === "move") return;
    context.lineWidth = 1.5 / this.zoom;
    for (const [color, dash] of [["white", []], ["black", [4 / this.zoom, 4 / this.zoom]]]) {
      context.strokeStyle = color; context.setLineDash(dash);
      context.beginPath(); context.arc(...this.cursor, this.size * this.unit, 0, 7); context.stroke();
    }
    context.setLineDash([]);
  }

  drawLandmarks(context) {
    context.fillStyle = "#fff"; context.strokeStyle = "#000"; context.lineWidth = 0.75 / this.zoom;
    for (const [x, y] of this.sheet.landmarks) {
      context.beginPath(); context.arc(x + 0.5, y + 0.5, 2.5 / this.zoom, 0, 7); context.fill(); context.stroke();
    }
  }

  // Probabilities of the classes at a pixel, from the working image of the model; null where there are none.
  probabilities(x, y) {
    const { affine, grid: [rows, columns, classes], proba, outside } = this.sheet;
    if (!proba.length) return null;
    const [a, b, c] = affine[0], [d, e, f] = affine[1];
    const u = Math.round(a * x + b * y + c), v = Math.round(d * x + e * y + f);
    const there = u >= 0 && v >= 0 && u < columns && v < rows;
    if (!there && outside !== null) return Array.from({ length: classes }, (_, k) => +(k === outside));
    const at = classes * (Math.min(rows - 1, Math.max(0, v)) * columns + Math.min(columns - 1, Math.max(0, u)));
    return Array.from(proba.subarray(at, at + classes), value => value / 255);
  }

  // One minus the largest probability: clear where the model is certain, red at one half and beyond.
  drawUncertainty(context) {
    const { affine: [[a, b, c], [d, e, f]], grid: [rows, columns, classes], proba } = this.sheet;
    if (!proba.length) return;
    if (!this.uncertain) {
      const image = new ImageData(columns, rows);
      for (let i = 0; i < rows * columns; i++) {
        const doubt = 1 - Math.max(...proba.subarray(classes * i, classes * (i + 1))) / 255;
        image.data.set([255, Math.round(200 * (1 - doubt)), 0, Math.min(255, Math.round(510 * doubt))], 4 * i);
      }
      this.uncertain = new OffscreenCanvas(columns, rows);
      this.uncertain.getContext("2d").putImageData(image, 0, 0);
    }
    const area = a * e - b * d;  // the inverse of the affine map, whose pixels have their middle at whole numbers
    context.save();
    context.beginPath(); context.rect(0, 0, this.sheet.width, this.sheet.height); context.clip();
    context.translate(0.5, 0.5);
    context.transform(e / area, -d / area, -b / area, a / area, (b * f - e * c) / area, (d * c - a * f) / area);
    context.imageSmoothingEnabled = true;
    context.drawImage(this.uncertain, -0.5, -0.5);
    context.restore();
  }

  hover(x, y) {
    const { width, height } = this.sheet, inside = x >= 0 && y >= 0 && x < width && y < height;
    const all = inside ? this.probabilities(x, y) : null;
    [...this.palette.children].forEach((chip, id) => {
      chip.lastChild.textContent = all ? `${Math.round(100 * all[id])} %` : "";
      chip.style.setProperty("--share", all ? all[id] : 0);
    });
  }

  resize() {
    const ratio = window.devicePixelRatio || 1, { clientWidth, clientHeight } = this.canvas;
    this.canvas.width = Math.round(ratio * clientWidth);
    this.canvas.height = Math.round(ratio * clientHeight);
    if (this.sheet && this.whole) this.fit();
    this.render();
  }

  fit() {
    const { clientWidth, clientHeight } = this.canvas, { width, height } = this.sheet;
    this.whole = true;  // until it is moved or enlarged
    this.zoom = Math.min(clientWidth / width, clientHeight / height) || 1;
    this.x = (clientWidth - this.zoom * width) / 2;
    this.y = (clientHeight - this.zoom * height) / 2;
    this.draw();
  }

  zoomAt(x, y, factor) {  // around a point of the screen
    const zoom = Math.min(40, Math.max(0.05, this.zoom * factor)), by = zoom / this.zoom;
    this.x = x - by * (x - this.x); this.y = y - by * (y - this.y); this.zoom = zoom; this.whole = false;
    this.draw();
  }

  // -- choosing

  use(name) {
    this.tool = name;
    for (const [other, made] of Object.entries(this.tools)) made.classList.toggle("faceseg-on", other === name);
    this.canvas.style.cursor = { move: "grab", fill: "crosshair" }[name] || "none";
    this.draw();
  }

  choose(id) {
    this.chosen = id;
    [...this.palette.children].forEach((chip, k) => chip.classList.toggle("faceseg-on", k === id));
    if (this.sheet && this.shows.only) this.paint();
  }

  toggle(name, on = !this.shows[name]) {
    this.shows[name] = on;
    this.root.querySelector(`input[data-name=${name}]`).checked = on;
    if (this.sheet) this.paint();
  }

  resizeBrush(factor) {
    this.size = Math.min(60, Math.max(1, factor > 1 ? Math.ceil(factor * this.size) : Math.floor(factor * this.size)));
    this.sizer.lastChild.value = this.size;
    this.draw();
  }

  key(event) {
    const { tagName } = event.target, pressed = event.key === " " && ["BUTTON", "INPUT", "SUMMARY"].includes(tagName);
    if (tagName === "SELECT" || event.altKey || pressed) return;
    const key = event.key.toLowerCase(), id = KEYS.indexOf(key), tool = TOOLS.find(([, one]) => one === key);
    const acts = { a: () => this.accept(), p: () => this.predict(), t: () => this.train(), n: () => this.next(),
      s: () => this.toggle("suggestion"), u: () => this.toggle("uncertainty"), o: () => this.toggle("only"),
      "[": () => this.resizeBrush(0.8), "]": () => this.resizeBrush(1.25), " ": () => { this.space = true; } };
    let act = acts[key] || (tool && (() => this.use(tool[0])));
    if (event.ctrlKey || event.metaKey) {
      act = { z: () => event.shiftKey ? this.redo() : this.undo(), y: () => this.redo() }[key];
    } else if (key.length === 1 && id >= 0 && id < this.classes.length) act = () => this.choose(id);
    if (!act) return;
    event.preventDefault(); event.stopPropagation();
    act();
  }

  // -- pointers

  place(event) {  // of the canvas, in CSS pixels
    const { left, top } = this.canvas.getBoundingClientRect();
    return [event.clientX - left, event.clientY - top];
  }

  pixel(x, y) { return [(x - this.x) / this.zoom, (y - this.y) / this.zoom]; }

  down(event) {
    if (!this.sheet) return;
    event.preventDefault();
    this.canvas.focus({ preventScroll: true });
    try { this.canvas.setPointerCapture(event.pointerId); } catch { /* the pointer is gone already */ }
    this.pointers.set(event.pointerId, this.place(event));
    if (this.pointers.size > 1) { this.cancel(); return; }  // a second finger moves the picture
    const [x, y] = this.pixel(...this.place(event));
    if (event.button === 1 || event.button === 2 || this.space || this.tool === "move") this.panning = true;
    else if (this.tool === "fill") this.fill(Math.floor(x), Math.floor(y));
    else if (this.tool === "landmarks") this.drag = { x, y, before: this.sheet.landmarks };
    else {
      const { labels, origins } = this.sheet;
      this.stroke = { before: [labels.slice(), origins.slice()], erase: this.tool === "erase", label: this.chosen,
        at: [x, y], box: [Infinity, Infinity, 0, 0] };
      this.brush(x, y);
    }
  }

  moved(event) {
    if (!this.sheet) return;
    const here = this.place(event), [x, y] = this.pixel(...here), before = this.pointers.get(event.pointerId);
    this.cursor = event.pointerType === "touch" ? null : [x, y];
    if (before && this.pointers.size === 2) this.pinch(event.pointerId, here);
    else if (before && this.panning) {
      this.x += here[0] - before[0]; this.y += here[1] - before[1];
      this.whole = false;
    }
    else if (this.stroke) {
      for (const one of event.getCoalescedEvents?.() || []) this.brush(...this.pixel(...this.place(one)));
      this.brush(x, y);
    } else if (this.drag) this.dragTo(x, y);
    if (before) this.pointers.set(event.pointerId, here);
    else this.hover(Math.floor(x), Math.floor(y));
    this.draw();
  }

  up(event) {
    this.pointers.delete(event.pointerId);
    this.finish();
  }

  pinch(id, here) {
    const before = this.pointers.get(id), [, other] = [...this.pointers].find(([one]) => one !== id);
    const apart = ([x, y]) => Math.hypot(x - other[0], y - other[1]);
    this.x += (here[0] - before[0]) / 2; this.y += (here[1] - before[1]) / 2;
    this.zoomAt((here[0] + other[0]) / 2, (here[1] + other[1]) / 2, apart(here) / Math.max(1, apart(before)));
  }

  // -- changing labels

  write(runs) {  // values of an edit, on screen only
    const { labels, origins } = this.sheet;
    for (const [start, count, label, origin] of runs) {
      labels.fill(label, start, start + count); origins.fill(origin, start, start + count);
    }
  }

  brush(x, y) {
    const { width, height, labels, origins } = this.sheet, { erase, label, at, box } = this.stroke;
    const radius = this.size * this.unit;
    // the middle of pixel (0, 0) lies at (0.5, 0.5) of the canvas
    for (const i of brushed(at[0] - 0.5, at[1] - 0.5, x - 0.5, y - 0.5, radius, width, height)) {
      labels[i] = erase ? UNLABELLED : label; origins[i] = erase ? UNTOUCHED : CORRECTED;
    }
    const edge = (one, far, side) => Math.min(far, Math.max(0, Math.floor(one) + side * (Math.ceil(radius) + 1)));
    const changed = [edge(Math.min(x, at[0]), width, -1), edge(Math.min(y, at[1]), height, -1),
      edge(Math.max(x, at[0]), width, 1), edge(Math.max(y, at[1]), height, 1)];
    this.paint(...changed);
    this.stroke.at = [x, y];
    this.stroke.box = changed.map((one, k) => (k < 2 ? Math.min : Math.max)(one, box[k]));
  }

  fill(x, y) {
    const { width, height } = this.sheet;
    if (x < 0 || y < 0 || x >= width || y >= height) return;
    const region = connected(i => this.shown(i), y * width + x, width, height);
    this.edit(pixelsWhere(i => region[i], width, 0, 0, width, height), () => this.chosen, () => CORRECTED);
  }

  accept() {
    if (!this.sheet) return;
    const { width, height, labels, suggestion } = this.sheet, some = suggestion.length && labels.includes(UNLABELLED);
    const open = pixelsWhere(i => labels[i] === UNLABELLED, width, 0, 0, width, height);
    if (some) this.edit(open, i => suggestion[i], () => PREDICTED);
    this.say(some ? "Accepted." : "There is nothing to accept.");
  }

  // Change pixels (ascending), remember how to undo it, and send it.
  edit(pixels, label, origin, [labels, origins] = [this.sheet.labels, this.sheet.origins]) {
    const undo = [], redo = [];
    for (const i of pixels) {
      append(undo, i, labels[i], origins[i]);
      append(redo, i, label(i), origin(i));
    }
    if (!redo.length) return;
    this.write(redo);
    this.paint(...boxOf(redo, this.sheet.width));
    this.history.undo.push({ undo: { runs: undo }, redo: { runs: redo } });
    this.history.redo = [];
    this.post(redo);
  }

  post(runs) {
    const [edit, stored] = this.journal.add(this.sheet.name, runs);
    if (!stored) this.say("This browser's storage is full; strokes wait for the kernel in memory.");
    const unwritten = this.behind ? this.journal.edits : [edit];
    this.behind = false;
    for (const one of unwritten) this.send({ do: "edit", ...one });
  }

  // The end of a stroke, or of what a pointer dragged.
  finish() {
    const { stroke, drag } = this;
    this.stroke = this.drag = this.panning = null;
    if (stroke) {
      const { width, labels, origins } = this.sheet, [oldLabels, oldOrigins] = stroke.before;
      const changed = i => labels[i] !== oldLabels[i] || origins[i] !== oldOrigins[i];
      this.edit(pixelsWhere(changed, width, ...stroke.box), i => labels[i], i => origins[i], stroke.before);
    }
    if (drag && this.sheet.landmarks !== drag.before) {
      this.history.undo.push({ undo: { landmarks: drag.before }, redo: { landmarks: this.sheet.landmarks } });
      this.history.redo = [];
      this.act("landmarks", { name: this.sheet.name, landmarks: this.sheet.landmarks });
    }
  }

  cancel() {  // a stroke that became a movement of two fingers
    const { stroke, drag } = this;
    this.stroke = this.drag = null;
    if (drag) this.sheet.landmarks = drag.before;
    if (!stroke) return;
    this.sheet.labels.set(stroke.before[0]);
    this.sheet.origins.set(stroke.before[1]);
    this.paint(...stroke.box);
  }

  dragTo(x, y) {
    const { drag } = this, reach = this.size * this.unit;
    const weight = ([px, py]) => Math.exp(-((px - drag.x) ** 2 + (py - drag.y) ** 2) / (2 * reach * reach));
    this.sheet.landmarks = drag.before.map(point => {
      const w = weight(point);
      return w < 0.01 ? point : [point[0] + w * (x - drag.x), point[1] + w * (y - drag.y)];
    });
  }

  undo() { this.turn("undo", "redo"); }
  redo() { this.turn("redo", "undo"); }

  turn(from, to) {
    this.finish();
    const step = this.history?.[from].pop();
    if (!step) return;
    this.history[to].push(step);
    const { runs, landmarks } = step[from];
    if (landmarks) {
      this.sheet.landmarks = landmarks;
      this.draw();
      this.act("landmarks", { name: this.sheet.name, landmarks });
    } else { this.write(runs); this.paint(...boxOf(runs, this.sheet.width)); this.post(runs); }
  }

  predict() { if (this.sheet) this.act("predict", { name: this.sheet.name }); }
  train() { this.act("train"); }
  next() { this.act("next"); }
}

function render({ model, el }) {
  const labeller = new Labeller(model, el);
  return () => labeller.close();
}

export default { render };
