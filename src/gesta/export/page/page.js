// The page: a camera or a file -> frames -> windows -> the model's worker -> ranking, timeline and files.

import { WindowCutter, box, scaled, shortClip } from "./windows.js";
import { FORMATS, Segments, Smoother, TOP, Whole, clock, extent, jointProbabilities, oneLine, ranked } from "./segments.js";

const $ = (id) => document.getElementById(id);
const video = $("video");
const info = await (await fetch("model.json")).json();
const SHOWN_SEGMENTS = 200; // in the table; files have all
const KEPT_NUMBERS = 2 ** 25; // probabilities of a file's windows, 4 bytes each

// --- the model's worker ----------------------------------------------------------------------------------------------

// A worker that starts from a blob has the policy of this page, one from an address its own (none).
const base = new URL(".", document.baseURI).href;
const code = new Blob([`import ${JSON.stringify(new URL("recogniser.js", base).href)};`], { type: "text/javascript" });
const worker = new Worker(URL.createObjectURL(code), { type: "module" });
const waiting = new Map();
let questions = 0;

worker.onmessage = ({ data: { id, answer, error } }) => {
  const { resolve, reject } = waiting.get(id);
  waiting.delete(id);
  error === undefined ? resolve(answer) : reject(new Error(error));
};
worker.onerror = (event) => {
  for (const { reject } of waiting.values()) reject(new Error(event.message || "the worker of the model cannot start"));
  waiting.clear();
};

function ask(question, transfer = []) {
  const id = questions++;
  const answer = new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
  worker.postMessage({ ...question, id }, transfer);
  return answer;
}

/** Scores of a window of images, (T) times H x W x 3, by label space. */
async function scoresOf(images) {
  const clip = new Uint8Array(images.length * images[0].length);
  images.forEach((image, t) => clip.set(image, t * image.length));
  const { scores, ms } = await ask({ clip }, [clip.buffer]);
  counted.model.push(ms);
  return scores;
}

// --- frames ----------------------------------------------------------------------------------------------------------

const BROKEN = "the browser cannot read on in this video; convert it to MP4 (H.264) or WebM";
const LARGEST_SIDE = 720; // of the shorter one: the canvas scales larger pictures first
const canvas = document.createElement("canvas");
const picture = canvas.getContext("2d", { willReadFrequently: true });

/** The video's present frame as the model sees it, H x W x 3. */
function grab() {
  const shrink = Math.min(1, LARGEST_SIDE / Math.min(video.videoWidth, video.videoHeight));
  const [width, height] = [video.videoWidth, video.videoHeight].map((side) => Math.round(side * shrink));
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  picture.drawImage(video, 0, 0, width, height);
  const { data } = picture.getImageData(0, 0, width, height);
  counted.frames.push(performance.now());
  return scaled(data, width, height, box(width, height, info.clip, info.short_side), info.clip.size);
}

/** The next frame that is shown: {mediaTime, presentedFrames}; null after a while without one. */
function nextFrame(ms = 1000) {
  return new Promise((resolve) => {
    const late = setTimeout(() => resolve(null), ms);
    video.requestVideoFrameCallback((_, frame) => {
      clearTimeout(late);
      resolve(frame);
    });
  });
}

const SEEK_TRIES = 20;
const SEEK_TOLERANCE = 1e-3; // seconds: browsers round times

/** Shows a time of a file. Another seek, by a keyboard's keys for media, may end first: then it seeks again. */
async function seek(seconds) {
  if (video.currentTime === seconds && !video.seeking && video.readyState >= 2) return;
  for (let tries = 0; tries < SEEK_TRIES; tries++) {
    const done = new Promise((resolve, reject) => {
      video.onseeked = resolve;
      video.onerror = () => reject(new Error(BROKEN));
    });
    video.currentTime = seconds;
    await done;
    if (!video.seeking && Math.abs(video.currentTime - seconds) < SEEK_TOLERANCE) return;
  }
  throw new Error(`the browser does not show this video at ${clock(seconds)}; convert it to MP4 (H.264) or WebM`);
}

/** Until the tab of this page is shown. */
function untilShown() {
  return new Promise((resolve) => {
    const look = () => {
      if (document.hidden) return;
      document.removeEventListener("visibilitychange", look);
      resolve();
    };
    document.addEventListener("visibilitychange", look);
    look();
  });
}

/**
 * Seconds of the first frame of a file and between two of its frames, which browsers do not say: a second of it is played.
 * Null of a run that was stopped.
 */
async function frameTimes(run, name) {
  let times = [];
  while (times.length < 30 && !(times.at(-1) - times[0] > 5)) {
    if (document.hidden) {
      video.pause(); // no frames are shown in the background: it is played from its beginning once they are
      say(`${name} waits until this tab is shown.`);
      await untilShown();
      if (run.stopped) return null;
      await seek(0);
      times = [];
    } else if (video.ended) break;
    if (video.paused) await video.play().catch((error) => document.hidden || Promise.reject(error));
    const frame = await nextFrame();
    if (run.stopped) return null;
    if (video.error) throw new Error(BROKEN);
    if (frame) times.push(frame.mediaTime);
    else if (!video.ended) say(`${name}: waiting for its first pictures …`);
  }
  video.pause();
  const steps = times.slice(1).map((time, i) => time - times[i]).filter((step) => step > 1e-4).sort((a, b) => a - b);
  if (!steps.length) return [0, 1 / 25];
  const shortest = steps[steps.length >> 2]; // frames that were left out make steps longer
  const all = times.at(-1) - times[0];
  const step = all / Math.round(all / shortest);
  return [times[0] - Math.round(times[0] / step) * step, step]; // the first that was shown may be a later one
}

// --- a run: from one start to its end ---------------------------------------------------------------------------------

let current = null; // the run at work
let shown = null; // the run whose timeline is shown, at work or not
let done = { path: "", segments: [], error: "" }; // what can be downloaded, and why it is not the whole
const counted = { frames: [], model: [] };

const threshold = () => $("threshold").value / 100;

class Run {
  constructor(path, isFile) {
    this.cutter = new WindowCutter(info.clip, info.hop);
    this.smoother = new Smoother(info.smoothing);
    this.segments = new Segments(info.names, threshold(), info.multi_label);
    this.whole = new Whole(info.average, info.multi_label);
    this.rankings = []; // of a file, which can be watched again: {middle, best}
    this.isFile = isFile;
    this.smoothed = isFile ? [] : null; // windows of a file, which are decided again with another threshold
    this.isFinished = false;
    shown = this;
    counted.frames.length = counted.model.length = 0;
    $("whole").hidden = true;
    clearSegments(path);
  }

  get stopped() {
    return current !== this;
  }

  async take(window) {
    const scores = await scoresOf(window.images);
    if (this.stopped) return;
    const values = jointProbabilities(scores, info.multi_label);
    this.whole.push(scores);
    for (const smoothed of this.smoother.push({ start: window.start, end: window.end, probabilities: values })) {
      this.#decide(smoothed);
    }
    if (this.whole.windows === 1) showRanking(ranked(values, info.names, TOP)); // its smoothed one waits for the next window
  }

  finish() {
    if (this.isFinished) return;
    for (const smoothed of this.smoother.finish()) this.#decide(smoothed);
    this.isFinished = true;
    showSegments(this.segments.finish());
  }

  /** Takes the threshold that is now set: for all of a file, for what comes from now on of a camera or a very long file. */
  changeThreshold() {
    if (!this.smoothed) {
      this.segments.changeThreshold(threshold());
      return;
    }
    this.segments = new Segments(info.names, threshold(), info.multi_label);
    const decided = this.smoothed.flatMap((window) => this.segments.push(window));
    if (this.isFinished) decided.push(...this.segments.finish());
    clearSegments(done.path, done.error);
    showSegments(decided);
    if (video.controls) letWatch();
  }

  #decide(smoothed) {
    const best = ranked(smoothed.probabilities, info.names, TOP);
    showRanking(best);
    if (this.isFile) this.rankings.push({ middle: (smoothed.start + smoothed.end) / 2, best });
    this.smoothed?.push({ ...smoothed, probabilities: Float32Array.from(smoothed.probabilities) });
    if (this.smoothed?.length * info.names.length > KEPT_NUMBERS) this.smoothed = null;
    showSegments(this.segments.push(smoothed));
  }
}

async function recogniseCamera(run) {
  const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" }, audio: false }).catch((error) => {
    throw new Error(`the camera cannot be used (${error.message || error.name}); let this page use it, or choose a file`);
  });
  if (run.stopped) return stream.getTracks().forEach((track) => track.stop());
  video.srcObject = stream;
  await video.play();
  say("Recognising what the camera sees.");
  let busy = false;
  let latest = null;
  while (!run.stopped && stream.active) {
    const frame = await nextFrame();
    if (!frame || run.stopped || !video.videoWidth) continue;
    const windows = run.cutter.push(frame.presentedFrames, frame.mediaTime, grab());
    latest = windows.at(-1) ?? latest; // a slow model leaves windows out instead of lagging behind
    if (latest && !busy) {
      busy = true;
      const window = latest;
      latest = null;
      run.take(window).catch((error) => run.stopped || fail(error)).finally(() => (busy = false));
    }
    showSpeed("seen");
  }
  stream.getTracks().forEach((track) => track.stop());
  if (!run.stopped) throw new Error("the camera has stopped sending pictures; connect it again");
}

async function recogniseFile(run, file) {
  const ready = new Promise((resolve, reject) => {
    video.onloadeddata = resolve;
    video.onerror = () => reject(new Error(`${file.name}: this browser cannot play it; convert it to MP4 (H.264) or WebM`));
  });
  video.src = URL.createObjectURL(file);
  say(`Opening ${file.name} …`);
  await ready;
  if (run.stopped) return;
  if (!Number.isFinite(video.duration)) throw new Error(`${file.name}: does not say how long it is; convert it to MP4`);
  const times = await frameTimes(run, file.name);
  if (!times) return;
  const [first, step] = times;
  const n = Math.max(1, Math.round((video.duration - first) / step));
  const { cutter } = run;
  const imageOf = async (i) => {
    await seek(Math.min(first + (i + 0.5) * step, video.duration));
    return grab();
  };
  for (let i = 0; i < n; i++) {
    const [here, next] = [i, i + 1].map((number) => cutter.position(number, first + number * step));
    const image = i === n - 1 || cutter.needs(here, next) ? await imageOf(i) : null;
    for (const window of cutter.push(i, first + i * step, image)) await run.take(window);
    if (run.stopped) return;
    say(`${file.name}: ${Math.round((100 * i) / n)} % recognised.`);
    showSpeed("read");
  }
  for (const window of cutter.finish()) await run.take(window);
  if (!cutter.complete) await run.take({ start: first, end: first + n * step, images: await imagesOf(n, imageOf) });
  if (run.stopped) return;
  run.finish();
  showWhole(run);
  video.ontimeupdate = () => showRanking(nearest(run.rankings, video.currentTime).best);
  video.currentTime = 0;
  letWatch();
  $("stop").disabled = true;
  say(`${file.name} is recognised.`);
}

/** Images of the only window of a short video. */
async function imagesOf(n, imageOf) {
  const images = new Map();
  const numbers = shortClip(n, info.clip, info.short_videos);
  for (const i of numbers) if (!images.has(i)) images.set(i, await imageOf(i));
  return numbers.map((i) => images.get(i));
}

/** The ranking of the window whose middle is nearest to a time. */
function nearest(rankings, seconds) {
  const distance = ({ middle }) => Math.abs(middle - seconds);
  return rankings.reduce((best, one) => (distance(one) < distance(best) ? one : best));
}

// --- what is shown ---------------------------------------------------------------------------------------------------

let state = "";

/** What the page is doing. Its percentages change often: they are not announced to readers of the screen. */
function say(text) {
  const words = oneLine(text);
  const isCount = /\d+ %/.test(words);
  if (isCount) $("state").removeAttribute("role");
  else $("state").setAttribute("role", "status");
  if (words !== state) $("state").textContent = state = words;
}

function fail(error) {
  const words = oneLine(String(error?.message ?? error));
  if (current) done.error ||= words.startsWith(`${done.path}: `) ? words : `${done.path}: ${words}`;
  $("problem").textContent = words;
  $("problem").hidden = false;
}

function element(name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text; // names of classes come from others: text, never HTML
  if (className) made.className = className;
  return made;
}

const percent = (p) => `${(100 * p).toFixed(p < 0.0995 ? 1 : 0)} %`;
let announced = ["", 0]; // name and when; an empty one lets the same action be announced again

/** Has an action read aloud by readers of the screen. */
function announce(name, time) {
  announced = [name, time];
  $("announced").textContent = oneLine(name);
}

function showRanking(best) {
  const rows = $("ranking").children;
  while (rows.length < best.length) {
    const row = element("li");
    row.append(element("span", "", "name"), element("span", "", "value"), element("span", "", "bar"));
    $("ranking").append(row);
  }
  best.forEach(([name, p], i) => {
    const [label, value, bar] = rows[i].children;
    label.textContent = oneLine(name);
    value.textContent = percent(p);
    bar.style.inlineSize = `${100 * p}%`;
  });
  const [[name, p]] = best;
  const sure = p >= threshold();
  $("caption").hidden = !sure;
  $("caption").textContent = `${oneLine(name)} ${percent(p)}`;
  const [last, time] = announced;
  if (!sure && last) announce("", time);
  if (sure && name !== last && performance.now() - time > 2000) {
    announce(name, performance.now());
  }
}

function showWhole({ whole }) {
  const [[name, p]] = ranked(whole.probabilities(), info.names, 1);
  $("whole").replaceChildren("Whole video: ", element("strong", oneLine(name)), ` ${percent(p)}`);
  $("whole").dataset.label = name;
  $("whole").hidden = false;
}

function clearSegments(path, error = "") {
  done = { path, segments: [], error };
  $("segments").replaceChildren();
  $("strip").replaceChildren();
  showSegments([]);
}

function showSegments(segments) {
  done.segments.push(...segments);
  for (const segment of segments) {
    const [name, p] = segment.labels[0];
    const row = element("tr");
    const cells = [shownTime(segment.start), clock(segment.end).slice(0, -2), named(name), percent(p)].map((content) => {
      const cell = element("td");
      cell.append(content);
      return cell;
    });
    row.append(...cells);
    $("segments").append(row);
    if ($("segments").children.length > SHOWN_SEGMENTS) $("segments").firstChild.remove();
  }
  $("no-segments").hidden = done.segments.length > 0;
  for (const format of Object.keys(FORMATS)) $(format).disabled = !done.segments.length;
  if (segments.length) drawStrip();
}

const colour = (name) => `hsl(${(137.5 * info.names.indexOf(name)) % 360} 55% 50%)`;

/** The name of a class behind its colour in the strip. */
function named(name) {
  const whole = element("span", "", "name");
  const patch = element("span", "", "patch");
  patch.style.background = colour(name);
  whole.append(patch, oneLine(name));
  return whole;
}

/** When a segment begins: of a file, a button that shows it, once nothing else seeks in it. */
function shownTime(seconds) {
  const text = clock(seconds).slice(0, -2);
  if (!shown.isFile) return text;
  const button = element("button", text, "time");
  button.title = "Show this part of the video";
  button.disabled = true;
  button.onclick = () => (video.currentTime = seconds);
  return button;
}

/** Lets a file be watched that is recognised. */
function letWatch() {
  video.controls = true;
  for (const button of $("segments").querySelectorAll("button")) button.disabled = false;
}

function drawStrip() {
  const last = done.segments.slice(-SHOWN_SEGMENTS);
  const [begin, end] = extent(last);
  const parts = last.map(({ start, end: until, labels: [[name]] }) => {
    const part = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const attributes = { x: (1000 * (start - begin)) / (end - begin), width: (1000 * (until - start)) / (end - begin), height: 30 };
    for (const [key, value] of Object.entries(attributes)) part.setAttribute(key, value);
    part.style.fill = colour(name);
    return part;
  });
  $("strip").replaceChildren(...parts);
}

let shownAt = 0;

function showSpeed(verb) {
  const now = performance.now();
  if (now - shownAt < 500) return;
  shownAt = now;
  const { frames, model } = counted;
  while (frames.length && now - frames[0] > 3000) frames.shift();
  while (model.length > 20) model.shift();
  const rate = frames.length > 1 ? (frames.length - 1) / ((now - frames[0]) / 1000) : 0;
  const ms = model.length ? model.reduce((a, b) => a + b) / model.length : NaN;
  const ofModel = Number.isNaN(ms) ? "" : `, ${ms.toFixed(0)} ms per clip`;
  $("speed").textContent = `${rate.toFixed(0)} frames/s ${verb}${ofModel}, on ${backend}`;
}

function showCard() {
  document.title = oneLine(`${info.title}: action recognition`);
  $("title").textContent = oneLine(info.title);
  for (const [name, text] of info.card) $("card").append(element("dt", oneLine(name)), element("dd", oneLine(text)));
  $("classes-title").textContent = `Its ${info.names.length} classes`;
  $("classes").append(...info.names.map((name) => element("li", oneLine(name))));
}

// --- controls --------------------------------------------------------------------------------------------------------

let backend = "";

async function work(path, job, isFile) {
  stop();
  $("problem").hidden = $("hint").hidden = true;
  $("stop").disabled = false;
  const run = (current = new Run(path, isFile));
  try {
    await job(run);
  } catch (error) {
    if (run.stopped) return;
    fail(error);
    stop();
    say("Ready.");
  }
}

/** Ends the run at work: what it has seen is decided, and the camera is released. */
function stop() {
  current?.finish();
  current = null;
  video.onerror = video.ontimeupdate = video.onseeked = video.onloadeddata = null;
  video.controls = false;
  video.srcObject?.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
  if (video.src) URL.revokeObjectURL(video.src);
  video.removeAttribute("src");
  video.load();
  $("stop").disabled = true;
  $("caption").hidden = true;
  announce("", 0);
}

$("camera").onclick = () => work("camera", recogniseCamera, false);
$("file").onchange = ({ target }) => {
  const [file] = target.files;
  target.value = ""; // the same file can be chosen again
  if (file) work(file.name, (run) => recogniseFile(run, file), true);
};
$("stop").onclick = () => {
  stop();
  say("Stopped.");
};
$("threshold").oninput = () => {
  $("threshold-value").textContent = `${$("threshold").value} %`;
  shown?.changeThreshold();
};
for (const [format, write] of Object.entries(FORMATS)) {
  $(format).onclick = () => {
    const [type, text] = write(done.segments, done.path, done.error);
    const link = element("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = `${done.path.replace(/\.[^.]*$/, "")}.${format}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
}

// --- start -----------------------------------------------------------------------------------------------------------

const PAGE_FILES = ["./", "style.css", "icon.svg", "page.js", "windows.js", "segments.js", "recogniser.js", "model.json", "model.onnx"];

async function keepForOffline(files) {
  if (!navigator.serviceWorker) return;
  await navigator.serviceWorker.register("offline.js");
  await (await caches.open(`gesta ${base}`)).addAll([...PAGE_FILES, ...files]);
  $("offline").hidden = false; // not before: a page from http, and a browser without room, keep nothing
}

try {
  showCard();
  if (!video.requestVideoFrameCallback) throw new Error("this browser does not say when a frame is shown; use a newer one");
  const opened = await ask({ base, given: info });
  backend = { webgpu: "WebGPU", wasm: `WebAssembly (${opened.threads} thread${opened.threads > 1 ? "s" : ""})` }[opened.backend];
  $("speed").textContent = `The model runs on ${backend}.${opened.remark ? ` Not on WebGPU: ${oneLine(opened.remark)}.` : ""}`;
  $("camera").disabled = !navigator.mediaDevices;
  $("file").disabled = false;
  $("choose").classList.add("ready");
  say(navigator.mediaDevices ? "Ready." : "Ready. Browsers give a camera only to pages from https or localhost: choose a file.");
  keepForOffline(opened.files).catch(() => {}); // a browser without room for it
} catch (error) {
  say("The model cannot run here.");
  fail(error);
}
