/** A drawing pad: white strokes on black, by pointer or keyboard. */

const PEN_WIDTH = 24;
const STEP = 8;
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Pad {
  #canvas;
  #context;
  #changed;
  #pen = { x: 0, y: 0, isDown: false };

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {() => void} changed Called after every stroke.
   */
  constructor(canvas, changed) {
    this.#canvas = canvas;
    this.#changed = changed;
    this.#context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
    this.clear();
    canvas.addEventListener("pointerdown", (event) => this.#begin(event));
    canvas.addEventListener("pointermove", (event) => this.#drag(event));
    canvas.addEventListener("pointerup", () => this.#lift());
    canvas.addEventListener("pointercancel", () => this.#lift());
    canvas.addEventListener("keydown", (event) => this.#press(event));
    canvas.addEventListener("blur", () => this.#lift());
  }

  clear() {
    const { width, height } = this.#canvas;
    this.#context.fillStyle = "#000";
    this.#context.fillRect(0, 0, width, height);
    this.#pen = { x: width / 2, y: height / 2, isDown: false };
  }

  #begin(event) {
    this.#canvas.setPointerCapture(event.pointerId);
    this.#pen = { ...this.#place(event), isDown: true };
    this.#lineTo(this.#pen); // a dot
  }

  #drag(event) {
    if (this.#pen.isDown && event.buttons) this.#lineTo(this.#place(event));
  }

  #lift() {
    if (this.#pen.isDown) this.#changed();
    this.#pen.isDown = false;
  }

  #press(event) {
    const move = MOVES[event.key];
    if (move) this.#step(...move);
    else if (event.key === " ") this.#toggle();
    else return;
    event.preventDefault(); // else the page scrolls
  }

  #step(right, down) {
    const { width, height } = this.#canvas;
    const x = Math.min(Math.max(this.#pen.x + right * STEP, 0), width);
    const y = Math.min(Math.max(this.#pen.y + down * STEP, 0), height);
    if (this.#pen.isDown) {
      this.#lineTo({ x, y });
      this.#changed();
    }
    Object.assign(this.#pen, { x, y });
  }

  #toggle() {
    this.#pen.isDown = !this.#pen.isDown;
    this.#step(0, 0);
  }

  /** @param {PointerEvent} event */
  #place({ clientX, clientY }) {
    const box = this.#canvas.getBoundingClientRect();
    const scale = this.#canvas.width / box.width;
    return { x: (clientX - box.left) * scale, y: (clientY - box.top) * scale };
  }

  #lineTo({ x, y }) {
    const context = this.#context;
    context.strokeStyle = "#fff";
    context.lineWidth = PEN_WIDTH;
    context.lineCap = "round";
    context.beginPath();
    context.moveTo(this.#pen.x, this.#pen.y);
    context.lineTo(x, y);
    context.stroke();
    Object.assign(this.#pen, { x, y });
  }
}
