// The model, in a worker of its own: clips of frames in, scores out. WebGPU where there is one and where it computes the scores
// that the model gave when it was exported, else WebAssembly.

let session = null;
let ort = null;
let info = null;

/** How far the scores of the checked clip may be from the model's, as a fraction of its largest score. */
const TOLERANCE = 0.01;

/** Files of onnxruntime-web by backend; the first is the module that a program imports. */
const FILES = {
  webgpu: ["ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify.mjs", "ort-wasm-simd-threaded.asyncify.wasm"],
  wasm: ["ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"],
};

async function open(backend, base) {
  ort = await import(new URL(`ort/${FILES[backend][0]}`, base).href);
  ort.env.wasm.wasmPaths = new URL("ort/", base).href;
  // threads share memory, which browsers allow only where the server sends headers of isolation
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
  ort.env.logLevel = "error";
  const options = { executionProviders: [backend], logSeverityLevel: 3 }; // errors alone
  session = await ort.InferenceSession.create(new URL("model.onnx", base).href, options);
  const scores = (await run(checkedClip())).flat();
  const largest = Math.max(...info.check.map(Math.abs), 1e-6);
  const difference = Math.max(...scores.map((score, i) => Math.abs(score - info.check[i]))) / largest;
  if (!(difference <= TOLERANCE)) {
    throw new Error(`on ${backend} the scores differ from the model's by ${(100 * difference).toFixed(1)} %`);
  }
}

/** The clip whose scores were written down when the model was exported; see checked_clip in gesta.export.web. */
function checkedClip() {
  const { frames, size } = info.clip;
  const clip = new Uint8Array(frames * size * size * 3);
  for (let i = 0, t = 0; t < frames; t++)
    for (let y = 0; y < size; y++)
      for (let x = 0; x < size; x++)
        for (let c = 0; c < 3; c++) clip[i++] = (3 * x + 5 * y + 7 * t + 80 * c) % 256;
  return clip;
}

/** Scores of one clip, an array for each label space. */
async function run(clip) {
  const { frames, size } = info.clip;
  const input = new ort.Tensor("uint8", clip, [1, frames, size, size, 3]);
  const results = await session.run({ [session.inputNames[0]]: input });
  return session.outputNames.map((name) => Array.from(results[name].data));
}

async function start({ base, given }) {
  info = given;
  const backends = navigator.gpu && (await navigator.gpu.requestAdapter()) ? ["webgpu", "wasm"] : ["wasm"];
  let reason = null;
  for (const backend of backends) {
    try {
      await open(backend, base);
      const files = FILES[backend].map((name) => `ort/${name}`);
      return { backend, threads: ort.env.wasm.numThreads, files, remark: reason ? String(reason.message ?? reason) : "" };
    } catch (error) {
      reason = error;
      await session?.release().catch(() => {}); // the graphics card's memory; a device that is lost has none
      session = null;
    }
  }
  throw reason;
}

async function reply(data) {
  try {
    const begin = performance.now();
    const answer = data.clip ? { scores: await run(data.clip) } : await start(data);
    self.postMessage({ id: data.id, answer: { ...answer, ms: performance.now() - begin } });
  } catch (error) {
    self.postMessage({ id: data.id, error: String(error?.message ?? error) });
  }
}

let earlier = Promise.resolve(); // a session on WebGPU refuses a clip while it computes that of a run that was stopped

self.onmessage = ({ data }) => {
  earlier = earlier.then(() => reply(data));
};
