/** Turns and crops a photo so that the eyes are where the model knows them. */

// CelebA's aligned pictures have the eyes at x 69.5 and 109.5, y 112; the models see the square of 148 from (15, 35).
const SIDE = 148;
const LEFT = { x: 69.5 - 15, y: 112 - 35 };
const RIGHT = { x: 109.5 - 15, y: 112 - 35 };
const MOST = 1024;

/** The part of the source that a square of `side` pixels shows, as a matrix: place in the square -> in the source. */
export function mapping(left, right, side) {
  const scale = side / SIDE;
  const wanted = (RIGHT.x - LEFT.x) * scale;
  const [dx, dy] = [(right.x - left.x) / wanted, (right.y - left.y) / wanted];
  const [ox, oy] = [LEFT.x * scale, LEFT.y * scale];
  return new DOMMatrix([dx, dy, -dy, dx, left.x - ox * dx + oy * dy, left.y - ox * dy - oy * dx]);
}

/**
 * The aligned face, about as fine as the photo shows it; beyond the photo its edge is repeated.
 *
 * @param {HTMLCanvasElement} source
 * @param {{x: number, y: number}} left the eye on the left, in pixels of the source
 * @param {{x: number, y: number}} right the other one
 * @param {number} least side of the result
 */
export function aligned(source, left, right, least) {
  const distance = Math.hypot(right.x - left.x, right.y - left.y);
  const side = Math.round(Math.min(MOST, Math.max(least, (distance * SIDE) / (RIGHT.x - LEFT.x))));
  // Of a finer photo a smaller copy is taken first, since four neighbours are not enough to shrink by.
  const shrink = Math.min(1, (side * (RIGHT.x - LEFT.x)) / SIDE / distance);
  const small = document.createElement("canvas");
  small.width = Math.max(1, Math.round(source.width * shrink));
  small.height = Math.max(1, Math.round(source.height * shrink));
  const context = small.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, small.width, small.height);
  const { data, width, height } = context.getImageData(0, 0, small.width, small.height);

  const [sx, sy] = [small.width / source.width, small.height / source.height];
  const { a: p, b: q, c: r, d: s, e, f } = mapping(
    { x: left.x * sx, y: left.y * sy },
    { x: right.x * sx, y: right.y * sy },
    side,
  );
  const out = new ImageData(side, side);
  for (let y = 0; y < side; y++) {
    for (let x = 0; x < side; x++) {
      const u = Math.min(width - 1, Math.max(0, p * (x + 0.5) + r * (y + 0.5) + e - 0.5));
      const v = Math.min(height - 1, Math.max(0, q * (x + 0.5) + s * (y + 0.5) + f - 0.5));
      const [x0, y0] = [Math.floor(u), Math.floor(v)];
      const [x1, y1] = [Math.min(width - 1, x0 + 1), Math.min(height - 1, y0 + 1)];
      const [a, b] = [u - x0, v - y0];
      const i = 4 * (y * side + x);
      for (let c = 0; c < 3; c++) {
        const top = data[4 * (y0 * width + x0) + c] * (1 - a) + data[4 * (y0 * width + x1) + c] * a;
        const bottom = data[4 * (y1 * width + x0) + c] * (1 - a) + data[4 * (y1 * width + x1) + c] * a;
        out.data[i + c] = top * (1 - b) + bottom * b;
      }
      out.data[i + 3] = 255;
    }
  }
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = side;
  canvas.getContext("2d").putImageData(out, 0, 0);
  return canvas;
}

/**
 * The source with the filled hole of its aligned face put back where it came from; the rest keeps its values.
 *
 * @param {HTMLCanvasElement} source is drawn on
 * @param {HTMLImageElement} filled the aligned face
 * @param {HTMLCanvasElement} hole what of it is new; transparent elsewhere
 * @param {{x: number, y: number}} left the eye on the left, in pixels of the source
 * @param {{x: number, y: number}} right the other one
 */
export function pastedBack(source, filled, hole, left, right) {
  const side = filled.naturalWidth;
  const patch = document.createElement("canvas");
  patch.width = patch.height = side;
  const cut = patch.getContext("2d");
  cut.drawImage(hole, 0, 0, side, side);
  cut.globalCompositeOperation = "source-in";
  cut.drawImage(filled, 0, 0);
  const context = source.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.setTransform(mapping(left, right, side));
  context.drawImage(patch, 0, 0);
  return source;
}

/** Asks for the two eyes by clicks or keys on an element that lies over the picture. */
export class EyePicker {
  #points = [];
  #cursor = { x: 0.5, y: 0.5 };

  /** `onEyes` gets both eyes as parts of the width and height, from left to right; `onFirst` is told of the first. */
  constructor(element, onFirst, onEyes, onCancel) {
    this.element = element;
    this.onFirst = onFirst;
    this.onEyes = onEyes;
    this.onCancel = onCancel;
    this.cross = this.#dot("cross");
    element.addEventListener("click", (event) => {
      if (event.detail === 0) return; // of a key
      const box = element.getBoundingClientRect();
      this.#mark({ x: (event.clientX - box.left) / box.width, y: (event.clientY - box.top) / box.height });
    });
    element.addEventListener("keydown", (event) => this.#press(event));
  }

  #dot(kind) {
    const dot = document.createElement("span");
    dot.className = kind;
    return dot;
  }

  #put(dot, { x, y }) {
    dot.style.left = `${100 * x}%`;
    dot.style.top = `${100 * y}%`;
    this.element.append(dot);
  }

  start() {
    this.#points = [];
    this.#cursor = { x: 0.37, y: 0.5 };
    this.element.replaceChildren();
    this.#put(this.cross, this.#cursor);
  }

  #mark(point) {
    this.#put(this.#dot("eye"), point);
    this.#points.push(point);
    if (this.#points.length === 1) {
      this.#cursor = { x: Math.min(1, point.x + 0.26), y: point.y };
      this.#put(this.cross, this.#cursor);
      this.onFirst();
      return;
    }
    const eyes = [...this.#points].sort((a, b) => a.x - b.x);
    this.start();
    this.onEyes(...eyes);
  }

  #press(event) {
    const step = event.shiftKey ? 0.05 : 0.01;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (moves[event.key]) {
      const [dx, dy] = moves[event.key];
      this.#cursor = {
        x: Math.min(1, Math.max(0, this.#cursor.x + dx)),
        y: Math.min(1, Math.max(0, this.#cursor.y + dy)),
      };
      this.#put(this.cross, this.#cursor);
    } else if (event.key === " " || event.key === "Enter") this.#mark(this.#cursor);
    else if (event.key === "Escape") this.onCancel();
    else return;
    event.preventDefault();
  }
}
