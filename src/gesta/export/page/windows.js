// Frames -> overlapping windows, as gesta.prediction.windows cuts them in Python: the frame that is shown at a position is taken.
// Positions are frame numbers where a model samples densely (frames `stride` apart), else seconds.

const UNIFORM_WINDOW_S = 4;

export class WindowCutter {
  /** @param clip {frames, stride, sampling} of the model; hop: distance of windows, as a fraction of one. */
  constructor(clip, hop) {
    this.byFrame = clip.sampling === "dense";
    const step = this.byFrame ? clip.stride : UNIFORM_WINDOW_S / clip.frames;
    this.hop = this.byFrame ? Math.max(1, roundHalfEven(clip.frames * hop)) * step : hop * step * clip.frames;
    this.step = step;
    this.span = step * clip.frames;
    this.shift = clip.sampling === "uniform" ? 0.5 : 0; // of positions, in steps
    // a microsecond later, so that a frame due exactly then is taken however its time is rounded
    const offset = (_, i) => step * (i + this.shift) + (this.byFrame ? 0 : 1e-6);
    // the positions of a window, and those that follow at its step, which the last window of a video may take
    this.grid = Array.from({ length: clip.frames + Math.ceil(this.hop / step) }, offset);
    this.offsets = this.grid.slice(0, clip.frames);
    this.complete = 0;
    this.held = []; // {position, seconds, image}
    this.newest = null;
    this.first = null;
    this.gap = [this.byFrame ? 1 : 1 / 25, 1 / 25]; // between the last two frames, in positions and in seconds
  }

  /** The position of a frame by its number and its seconds. */
  position(number, seconds) {
    this.first ??= [number, seconds];
    return this.byFrame ? number - this.first[0] : seconds - this.first[1];
  }

  /** Whether some window, also the last one of a video that ends soon, takes a frame that is shown from `begin` until `end`. */
  needs(begin, end) {
    return this.grid.some((offset, i) => {
      const window = Math.floor((end - offset) / this.hop);
      const first = i < this.offsets.length ? this.complete : this.complete - 1;
      return [window - 1, window, window + 1].some((k) => { // the neighbours too: the division is rounded
        const target = k * this.hop + offset;
        return k >= first && begin <= target && target < end;
      });
    });
  }

  /** Takes the next frame; gives the windows that it completes. */
  push(number, seconds, image) {
    let position = this.position(number, seconds);
    if (this.newest) {
      const last = this.newest;
      position = Math.max(position, last.position); // time never runs backwards
      seconds = Math.max(seconds, last.seconds);
      if (seconds > last.seconds) this.gap = [this.byFrame ? 1 : position - last.position, seconds - last.seconds];
      if (this.needs(last.position, position)) this.held.push(last);
    }
    this.newest = { position, seconds, image };
    const windows = [];
    while (position >= this.complete * this.hop + this.span) windows.push(this.#next(seconds));
    return windows;
  }

  /** The windows left at the end of a video; the last ends with it. None of a video shorter than a window. */
  finish() {
    if (!this.newest) return [];
    this.held.push(this.newest);
    const [end, endS] = [this.newest.position + this.gap[0], this.newest.seconds + this.gap[1]];
    const windows = [];
    while (end >= this.complete * this.hop + this.span - 1e-6) windows.push(this.#next(endS));
    let begin = (this.complete - 1) * this.hop;
    const rest = end - (begin + this.span);
    if (this.complete && rest > 1e-6) { // as many steps later as leave the last position in the video
      begin += this.step * Math.ceil((rest - 1e-6) / this.step - this.shift);
      windows.push({ start: this.#start(begin), end: endS, images: this.#images(begin) });
    }
    return windows;
  }

  #next(seconds) {
    const begin = this.complete * this.hop;
    const start = this.#start(begin);
    const window = { start, end: this.byFrame ? seconds : start + this.span, images: this.#images(begin) };
    const first = begin + this.offsets[0];
    while (this.held.length > 1 && this.held[1].position <= first) this.held.shift(); // no later window needs it
    this.complete += 1;
    return window;
  }

  #start(begin) {
    return this.byFrame ? this.#at(begin).seconds : this.first[1] + begin;
  }

  #at(target) {
    let index = 0;
    while (index + 1 < this.held.length && this.held[index + 1].position <= target) index += 1;
    return this.held[index];
  }

  #images(begin) {
    return this.offsets.map((offset) => this.#at(begin + offset).image);
  }
}

/** Rounds as Python does. */
function roundHalfEven(value) {
  return value % 1 === 0.5 ? 2 * Math.round(value / 2) : Math.round(value);
}

/** Frames of the single clip of a video of n frames that is shorter than a window; `shortVideos` as in the protocol. */
export function shortClip(n, clip, shortVideos) {
  const numbers = Array.from({ length: clip.frames }, (_, i) => i);
  if (clip.sampling === "uniform") return numbers.map((i) => Math.min(n - 1, Math.floor(((i + 0.5) * n) / clip.frames)));
  const stride = clip.shrink ? Math.max(1, Math.min(clip.stride, Math.floor(n / clip.frames))) : clip.stride;
  const start = Math.floor(Math.max(n - clip.frames * stride, 0) / 2);
  const indices = numbers.map((i) => start + i * stride);
  return indices.map((i) => (shortVideos === "loop" ? i % n : Math.min(i, n - 1)));
}

/** The box of a video's frame, in its own pixels, that the model sees: short side scaled, centre cropped. */
export function box(width, height, clip, shortSide) {
  const short = Math.min(width, height);
  const scaled = (side) => (clip.squash ? shortSide : Math.max(1, Math.floor((2 * side * shortSide + short) / (2 * short))));
  const [across, down] = [scaled(width), scaled(height)];
  const [left, top] = [Math.floor((across - clip.size) / 2), Math.floor((down - clip.size) / 2)];
  return [(left * width) / across, (top * height) / down, (clip.size * width) / across, (clip.size * height) / down];
}

/** Pixels and their weights of each of `size` samples that are `step` apart from `from` on: a triangle, as libswscale has. */
function taps(from, step, size, length) {
  const radius = Math.max(step, 1);
  return Array.from({ length: size }, (_, i) => {
    const centre = from + (i + 0.5) * step;
    const first = Math.ceil(centre - radius - 0.5);
    const weights = [];
    for (let x = first; x + 0.5 < centre + radius; x++) weights.push(1 - Math.abs(x + 0.5 - centre) / radius);
    const sum = weights.reduce((a, b) => a + b);
    return weights.map((weight, k) => [Math.min(Math.max(first + k, 0), length - 1), weight / sum]);
  });
}

/** A box of a picture (RGBA, `width` x `height`) scaled to `size` x `size` x 3. */
export function scaled(pixels, width, height, [left, top, across, down], size) {
  const columns = taps(left, across / size, size, width);
  const lines = taps(top, down / size, size, height);
  const narrow = new Map(); // lines of the picture, scaled in width
  const line = (y) => {
    const sums = new Float32Array(3 * size);
    for (let i = 0; i < size; i++) {
      for (const [x, weight] of columns[i]) {
        const at = 4 * (y * width + x);
        for (let c = 0; c < 3; c++) sums[3 * i + c] += weight * pixels[at + c];
      }
    }
    narrow.set(y, sums);
    return sums;
  };
  const result = new Uint8ClampedArray(3 * size * size); // which rounds
  const sums = new Float32Array(3 * size);
  lines.forEach((parts, j) => {
    sums.fill(0);
    for (const [y, weight] of parts) {
      const row = narrow.get(y) ?? line(y);
      for (let i = 0; i < sums.length; i++) sums[i] += weight * row[i];
    }
    result.set(sums, 3 * size * j);
  });
  return new Uint8Array(result.buffer);
}
