/** The hole that a person paints: its canvas and undo stack, and the pointer and the keys that draw on it. */

const SIDE = 1024; // pixels of the mask's longer side while it is painted, whatever the picture has
const MOST_UNDO = 40;
const GRAIN = 7; // side of a grain of the noise that a hole is shown as

/** The hole of one picture. */
export class Mask {
  #past = [];
  #future = [];

  constructor(width, height) {
    const scale = SIDE / Math.max(width, height);
    this.canvas = document.createElement("canvas");
    this.canvas.width = Math.max(1, Math.round(width * scale));
    this.canvas.height = Math.max(1, Math.round(height * scale));
    this.context = this.canvas.getContext("2d", { willReadFrequently: true });
    this.#now = this.#read();
  }

  #now;

  #read() {
    const { data } = this.context.getImageData(0, 0, this.canvas.width, this.canvas.height);
    const alpha = new Uint8Array(data.length / 4);
    for (let i = 0; i < alpha.length; i++) alpha[i] = data[4 * i + 3];
    return alpha;
  }

  #write(alpha) {
    const image = this.context.createImageData(this.canvas.width, this.canvas.height);
    for (let i = 0; i < alpha.length; i++) image.data[4 * i + 3] = alpha[i];
    this.context.putImageData(image, 0, 0);
    this.#now = alpha;
  }

  get undoable() {
    return this.#past.length > 0;
  }

  get redoable() {
    return this.#future.length > 0;
  }

  /** Which part of the picture is hole, 0 to 1. */
  get area() {
    let count = 0;
    for (const alpha of this.#now) if (alpha > 127) count++;
    return count / this.#now.length;
  }

  /** The middle of the hole as parts of width and height, or null if there is none. */
  get middle() {
    const { width, height } = this.canvas;
    let [count, x, y] = [0, 0, 0];
    for (const [i, alpha] of this.#now.entries()) {
      if (alpha <= 127) continue;
      count++;
      x += i % width;
      y += Math.floor(i / width);
    }
    return count ? { x: x / count / width, y: y / count / height } : null;
  }

  /** A round line from one place to another. */
  line(from, to, size, erase) {
    const c = this.context;
    c.globalCompositeOperation = erase ? "destination-out" : "source-over";
    c.lineCap = "round";
    c.lineWidth = size;
    c.beginPath();
    c.moveTo(from.x, from.y);
    c.lineTo(to.x + 0.01, to.y); // a line of no length is not drawn
    c.stroke();
    c.globalCompositeOperation = "source-over";
  }

  rectangle(from, to) {
    this.context.fillRect(from.x, from.y, to.x - from.x, to.y - from.y);
  }

  /** Ends a change: what was drawn since the last one is one step of undo. */
  commit() {
    const next = this.#read();
    if (next.every((alpha, i) => alpha === this.#now[i])) return false;
    this.#past.push(this.#now);
    if (this.#past.length > MOST_UNDO) this.#past.shift();
    this.#future = [];
    this.#now = next;
    return true;
  }

  /** Forgets what was drawn since the last commit. */
  revert() {
    this.#write(this.#now);
  }

  undo() {
    if (!this.undoable) return;
    this.#future.push(this.#now);
    this.#write(this.#past.pop());
  }

  redo() {
    if (!this.redoable) return;
    this.#past.push(this.#now);
    this.#write(this.#future.pop());
  }

  clear() {
    this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    this.commit();
  }

  invert() {
    this.context.globalCompositeOperation = "xor";
    this.context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    this.context.globalCompositeOperation = "source-over";
    this.commit();
  }

  /** Takes a picture of a mask: white is the hole. */
  load(picture) {
    const { width, height } = this.canvas;
    this.context.imageSmoothingEnabled = false;
    this.context.clearRect(0, 0, width, height);
    this.context.fillRect(0, 0, width, height); // transparent parts count as black
    this.context.drawImage(picture, 0, 0, width, height);
    const image = this.context.getImageData(0, 0, width, height);
    for (let i = 0; i < image.data.length; i += 4) {
      const [r, g, b] = image.data.subarray(i, i + 3);
      image.data.set([0, 0, 0, 0.299 * r + 0.587 * g + 0.114 * b > 127 ? 255 : 0], i);
    }
    this.context.putImageData(image, 0, 0);
    return this.commit();
  }

  /** The mask in the picture's own size: PNG, white is the hole. */
  blob(width, height) {
    const out = new ImageData(width, height);
    const { width: w, height: h } = this.canvas;
    const alpha = this.#now;
    for (let y = 0; y < height; y++) {
      const v = Math.min(h - 1, Math.floor(((y + 0.5) * h) / height));
      for (let x = 0; x < width; x++) {
        const u = Math.min(w - 1, Math.floor(((x + 0.5) * w) / width));
        const i = 4 * (y * width + x);
        out.data.fill(alpha[v * w + u] > 127 ? 255 : 0, i, i + 3);
        out.data[i + 3] = 255;
      }
    }
    const canvas = document.createElement("canvas");
    canvas.width = width;
    canvas.height = height;
    canvas.getContext("2d").putImageData(out, 0, 0);
    return new Promise((done) => canvas.toBlob(done, "image/png"));
  }
}

/** A tile of noise around a colour: a hole is shown as what the model starts from. */
export function noise(colour) {
  const [r, g, b] = colour.match(/\d+/g).map(Number);
  const tile = document.createElement("canvas");
  tile.width = tile.height = 48 * GRAIN;
  const context = tile.getContext("2d");
  for (let y = 0; y < 48; y++) {
    for (let x = 0; x < 48; x++) {
      const shift = (Math.random() + Math.random() - 1) * 110;
      context.fillStyle = `rgb(${r + shift} ${g + shift} ${b + shift})`;
      context.fillRect(x * GRAIN, y * GRAIN, GRAIN, GRAIN);
    }
  }
  return tile;
}

/**
 * Draws on a mask by pointer and keys; sends "change" when the mask is another one, "size" when a key changed the
 * brush, "tool" when a key changed the tool.
 */
export class Editor extends EventTarget {
  tool = "brush";
  size = 120;
  #mask = null;
  #from = null; // where the stroke stands, null while the brush is up
  #to = null; // the other corner of a rectangle
  #pointer = null;
  #cursor = null; // where the keys have moved the brush
  #drawing = false;
  #tile = null;

  constructor(canvas, ring) {
    super();
    this.canvas = canvas;
    this.ring = ring;
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#up(event));
    canvas.addEventListener("pointercancel", () => this.cancel());
    canvas.addEventListener("pointerleave", () => this.#pointer === null && (ring.hidden = true));
    canvas.addEventListener("focus", () => canvas.matches(":focus-visible") && this.#showCursor());
    canvas.addEventListener("blur", () => this.#leave());
  }

  get mask() {
    return this.#mask;
  }

  open(mask) {
    this.#mask = mask;
    this.#from = this.#to = this.#pointer = this.#cursor = null;
    this.canvas.width = mask.canvas.width;
    this.canvas.height = mask.canvas.height;
    this.refresh();
  }

  /** Changes the mask by a function and tells so. */
  change(action) {
    this.cancel();
    action(this.#mask);
    this.#changed();
  }

  #changed() {
    this.refresh();
    this.dispatchEvent(new Event("change"));
  }

  /** Draws the hole at the next frame; `anew` with other noise. */
  refresh(anew = false) {
    if (anew || this.#tile === null) this.#tile = noise(getComputedStyle(this.canvas).color);
    if (this.#drawing) return;
    this.#drawing = true;
    requestAnimationFrame(() => {
      this.#drawing = false;
      const c = this.canvas.getContext("2d");
      c.globalCompositeOperation = "copy";
      c.drawImage(this.#mask.canvas, 0, 0);
      c.globalCompositeOperation = "source-over";
      if (this.#to !== null) {
        c.fillRect(this.#from.x, this.#from.y, this.#to.x - this.#from.x, this.#to.y - this.#from.y);
      }
      c.globalCompositeOperation = "source-in";
      c.fillStyle = c.createPattern(this.#tile, "repeat");
      c.fillRect(0, 0, this.canvas.width, this.canvas.height);
    });
  }

  #place(event) {
    const box = this.canvas.getBoundingClientRect();
    return {
      x: ((event.clientX - box.left) / box.width) * this.canvas.width,
      y: ((event.clientY - box.top) / box.height) * this.canvas.height,
    };
  }

  #start(point) {
    this.#from = point;
    if (this.tool === "rectangle") this.#to = point;
    else this.#mask.line(point, point, this.size, this.tool === "eraser");
    this.refresh();
  }

  #go(point) {
    if (this.#from === null) return;
    if (this.tool === "rectangle") this.#to = point;
    else {
      this.#mask.line(this.#from, point, this.size, this.tool === "eraser");
      this.#from = point;
    }
    this.refresh();
  }

  #lift() {
    this.#from = this.#to = this.#pointer = null;
    this.ring.classList.remove("down");
  }

  #finish() {
    if (this.#from === null) return;
    if (this.#to !== null) this.#mask.rectangle(this.#from, this.#to);
    this.#lift();
    if (this.#mask.commit()) this.#changed();
    else this.refresh();
  }

  /** Gives up the stroke that is being drawn. */
  cancel() {
    if (this.#from === null) return false;
    this.#lift();
    this.#mask.revert();
    this.refresh();
    return true;
  }

  #down(event) {
    if (this.#pointer !== null) {
      this.cancel(); // a second finger: the person wants to zoom
      return;
    }
    if (event.button !== 0) return;
    this.#finish(); // of a stroke by keys
    this.canvas.setPointerCapture(event.pointerId);
    this.#pointer = event.pointerId;
    this.#start(this.#place(event));
    this.#showRing(this.#place(event));
  }

  #move(event) {
    if (event.pointerType !== "touch" || this.#pointer !== null) this.#showRing(this.#place(event));
    if (event.pointerId !== this.#pointer) return;
    const parts = event.getCoalescedEvents?.() ?? [];
    for (const part of parts.length ? parts : [event]) this.#go(this.#place(part));
  }

  #up(event) {
    if (event.pointerId !== this.#pointer) return;
    this.#finish();
    if (event.pointerType === "touch") this.ring.hidden = true;
  }

  #showRing({ x, y }) {
    const scale = this.canvas.clientWidth / this.canvas.width;
    const side = this.tool === "rectangle" ? 18 : this.size * scale;
    this.ring.hidden = false;
    this.ring.classList.toggle("cross", this.tool === "rectangle");
    this.ring.classList.toggle("down", this.#from !== null);
    this.ring.style.width = this.ring.style.height = `${side}px`;
    this.ring.style.transform = `translate(${x * scale - side / 2}px, ${y * scale - side / 2}px)`;
  }

  #showCursor() {
    this.#cursor ??= { x: this.canvas.width / 2, y: this.canvas.height / 2 };
    this.#showRing(this.#cursor);
  }

  #leave() {
    if (this.#pointer === null) this.#finish();
    this.ring.hidden = true;
  }

  #resize(size) {
    this.size = Math.min(320, Math.max(24, size));
    if (this.#cursor) this.#showRing(this.#cursor);
    this.dispatchEvent(new Event("size"));
  }

  #take(tool) {
    this.cancel();
    this.tool = tool;
    if (this.#cursor) this.#showRing(this.#cursor);
    this.dispatchEvent(new Event("tool"));
  }

  /** Handles a key that was pressed on the canvas; true if it was one of its own. */
  press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return false;
    const step = event.shiftKey ? 64 : 12;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    const tools = { b: "brush", e: "eraser", r: "rectangle" };
    const pressed = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (moves[pressed]) {
      this.#cursor ??= { x: this.canvas.width / 2, y: this.canvas.height / 2 };
      const [dx, dy] = moves[pressed];
      this.#cursor = {
        x: Math.min(this.canvas.width, Math.max(0, this.#cursor.x + dx)),
        y: Math.min(this.canvas.height, Math.max(0, this.#cursor.y + dy)),
      };
      this.#go(this.#cursor);
      this.#showCursor();
    } else if (pressed === " ") {
      this.#cursor ??= { x: this.canvas.width / 2, y: this.canvas.height / 2 };
      if (this.#from === null) this.#start(this.#cursor);
      else this.#finish();
      this.#showCursor();
    } else if (tools[pressed]) this.#take(tools[pressed]);
    else if (pressed === "[") this.#resize(this.size - 16);
    else if (pressed === "]") this.#resize(this.size + 16);
    else if (pressed === "i") this.change((mask) => mask.invert());
    else if (pressed === "Delete" || pressed === "Backspace") this.change((mask) => mask.clear());
    else if (pressed === "Escape") return this.cancel();
    else return false;
    return true;
  }
}
