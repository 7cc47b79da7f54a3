// Probabilities of windows -> timed segments -> files, as gesta.prediction.segments and gesta.prediction.writers do in Python.

const argmax = (values) => values.reduce((best, value, i) => (value > values[best] ? i : best), 0);
const total = (a, b) => a.map((value, i) => value + b[i]);

/** Averages each window's probabilities with its neighbours': `width` windows in all, fewer at the ends. */
export class Smoother {
  constructor(width) {
    this.width = width;
    this.near = [];
    this.middle = 0; // position in `near` of the window that is averaged next
  }

  push(window) {
    this.near.push(window);
    const smoothed = this.near.length - this.middle > this.width >> 1 ? [this.#mean()] : [];
    if (this.middle > this.width >> 1) this.#forget();
    return smoothed;
  }

  finish() {
    const smoothed = [];
    while (this.middle < this.near.length) {
      smoothed.push(this.#mean());
      if (this.middle > this.width >> 1) this.#forget();
    }
    return smoothed;
  }

  #mean() {
    const sum = this.near.map((window) => window.probabilities).reduce(total);
    const window = { ...this.near[this.middle], probabilities: sum.map((value) => value / this.near.length) };
    this.middle += 1;
    return window;
  }

  #forget() {
    this.near.shift();
    this.middle -= 1;
  }
}

/** Joins windows into segments with hysteresis, and decides each as early as it can. */
class Segmenter {
  constructor(threshold) {
    this.changeThreshold(threshold);
    this.window = null; // the last one; where its time ends depends on the next
    this.time = 0; // where the time of the last window begins
    this.current = null;
  }

  changeThreshold(threshold) {
    [this.threshold, this.release] = [threshold, threshold / 2];
  }

  push(window) {
    const decided = [];
    if (this.window === null) this.time = window.start;
    else {
      const middle = (this.window.start + this.window.end + window.start + window.end) / 4;
      const until = Math.max(this.time, middle);
      decided.push(...this.#take(this.window, until));
      this.time = until;
    }
    this.window = window;
    return decided;
  }

  finish() {
    const decided = this.window ? this.#take(this.window, this.window.end) : [];
    if (this.current) decided.push(this.current);
    this.window = this.current = null;
    return decided;
  }

  #take({ probabilities }, until) {
    const best = argmax(probabilities);
    const current = this.current;
    if (current && probabilities[current.label] >= Math.max(probabilities[best], this.release)) {
      Object.assign(current, { end: until, total: total(current.total, probabilities), count: current.count + 1 });
      return [];
    }
    const begins = probabilities[best] >= this.threshold;
    this.current = begins ? { label: best, start: this.time, end: until, total: probabilities, count: 1 } : null;
    return current ? [current] : [];
  }
}

/** Segments of one class at a time, or, of a model of several labels per video, of each class by itself. */
export class Segments {
  constructor(names, threshold, multiLabel) {
    this.names = names;
    this.parts = Array.from({ length: multiLabel ? names.length : 1 }, () => new Segmenter(threshold));
    this.multiLabel = multiLabel;
  }

  /** Takes another threshold from the next window on. */
  changeThreshold(threshold) {
    for (const part of this.parts) part.changeThreshold(threshold);
  }

  push(window) {
    return this.#all((part, k) => part.push(this.multiLabel ? { ...window, probabilities: [window.probabilities[k]] } : window));
  }

  finish() {
    return this.#all((part) => part.finish());
  }

  #all(decided) {
    return this.parts.flatMap((part, k) => decided(part, k).map((segment) => this.#named(segment, k)));
  }

  #named(segment, k) {
    const mean = segment.total.map((value) => value / segment.count);
    const { start, end } = segment;
    if (this.multiLabel) return { start, end, labels: [[this.names[k], mean[0]]] };
    const others = ranked(mean, this.names, TOP).filter(([name]) => name !== this.names[segment.label]);
    return { start, end, labels: [[this.names[segment.label], mean[segment.label]], ...others].slice(0, TOP) };
  }
}

/** Where the first of some segments begins and the last ends; those of several classes come as they end. */
export function extent(segments) {
  return [Math.min(...segments.map(({ start }) => start)), Math.max(...segments.map(({ end }) => end))];
}

export const TOP = 5;

/** The `top` most probable classes, best first, each [name, probability]. */
export function ranked(probabilities, names, top) {
  const order = Array.from(probabilities.keys()).sort((a, b) => probabilities[b] - probabilities[a]);
  return order.slice(0, top).map((i) => [names[i], probabilities[i]]);
}

/** Scores of each label space -> probabilities of all combinations of their classes; fails where they are no numbers. */
export function jointProbabilities(spaces, multiLabel) {
  if (!spaces.flat().every(Number.isFinite)) {
    throw new Error("the model's scores are not finite numbers; use another browser, or weights of a training that went well");
  }
  return joint(spaces.map((scores) => asProbabilities(scores, multiLabel)));
}

function asProbabilities(scores, multiLabel) {
  if (multiLabel) return scores.map((score) => 1 / (1 + Math.exp(-score)));
  const largest = Math.max(...scores);
  const exponents = scores.map((score) => Math.exp(score - largest));
  const sum = exponents.reduce((a, b) => a + b);
  return exponents.map((value) => value / sum);
}

const joint = (spaces) => spaces.reduce((all, space) => all.flatMap((p) => space.map((q) => p * q)));

/** The mean over the windows of a whole video: of `logits` before the softmax, of `probabilities` after it. */
export class Whole {
  constructor(average, multiLabel) {
    this.ofLogits = average === "logits";
    this.multiLabel = multiLabel;
    this.windows = 0;
    this.sums = null; // by label space
  }

  /** Takes the scores of a window. */
  push(spaces) {
    const values = this.ofLogits ? spaces : spaces.map((scores) => asProbabilities(scores, this.multiLabel));
    this.sums = this.sums ? this.sums.map((sum, k) => total(sum, values[k])) : values;
    this.windows += 1;
  }

  /** Of all combinations of the classes of the label spaces. */
  probabilities() {
    const means = this.sums.map((sum) => sum.map((value) => value / this.windows));
    return joint(this.ofLogits ? means.map((scores) => asProbabilities(scores, this.multiLabel)) : means);
  }
}

// --- text of others, made harmless -----------------------------------------------------------------------------------

const CONTROL = /[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]/gu;
const SHORT = { "\t": "\\t", "\n": "\\n", "\r": "\\r" };
const code = (char, digits) => char.charCodeAt(0).toString(16).padStart(digits, "0");

/** Text on one line, its control characters and changes of direction written out. */
export function oneLine(text) {
  return text.replace(CONTROL, (c) => SHORT[c] ?? (c <= "\xff" ? `\\x${code(c, 2)}` : `\\u${code(c, 4)}`));
}

function csvCell(text) {
  const line = oneLine(text); // what a spreadsheet would take for a formula gets an apostrophe
  const cell = /^[=+\-@]/.test(line.trimStart()) ? `'${line}` : line;
  return /[",\n\r]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell;
}

const subtitle = (text) => oneLine(text).replace(/[<>{}]/g, (c) => ({ "<": "‹", ">": "›", "{": "(", "}": ")" })[c]);

/** Seconds as 00:01:02.345. */
export function clock(seconds, comma = ".") {
  const ms = Math.max(0, Math.round(seconds * 1000));
  const two = (value) => String(value).padStart(2, "0");
  const parts = [Math.floor(ms / 3600000), Math.floor(ms / 60000) % 60, Math.floor(ms / 1000) % 60].map(two);
  return `${parts.join(":")}${comma}${String(ms % 1000).padStart(3, "0")}`;
}

// --- files -----------------------------------------------------------------------------------------------------------

export const FORMATS = {
  srt(segments) {
    const cue = ({ start, end, labels: [[name, p]] }, i) =>
      `${i + 1}\n${clock(start, ",")} --> ${clock(end, ",")}\n${subtitle(name)} (${Math.round(100 * p)}%)\n\n`;
    const inOrder = segments.toSorted((a, b) => a.start - b.start); // those of several classes overlap
    return ["application/x-subrip", inOrder.map(cue).join("")];
  },
  csv(segments, path, error = "") {
    const rows = segments.flatMap(({ start, end, labels }) =>
      labels.map(([name, p], i) =>
        [csvCell(path), start.toFixed(3), end.toFixed(3), i + 1, csvCell(name), p.toFixed(6), ""].join(",")));
    if (error) rows.push([csvCell(path), "", "", "", "", "", csvCell(error)].join(",")); // what follows is missing
    return ["text/csv", ["path,start,end,rank,class,probability,error", ...rows, ""].join("\n")];
  },
  json(segments, path, error = "") {
    const rounded = (value, digits) => Number(value.toFixed(digits));
    const parts = segments.map(({ start, end, labels }) => ({
      path,
      start: rounded(start, 3),
      end: rounded(end, 3),
      labels: labels.map(([name, p]) => ({ class: name, probability: rounded(p, 6) })),
      error: null,
    }));
    if (error) parts.push({ path, start: null, end: null, labels: [], error });
    const rows = parts.map((part) => JSON.stringify(part).replace(CONTROL, (c) => `\\u${code(c, 4)}`));
    return ["application/json", rows.length ? `[\n${rows.join(",\n")}\n]\n` : "[]\n"];
  },
};
