// Asks the networks, away from the page, so that it stays responsive: ONNX Runtime Web, one thread.
"use strict";
importScripts("turn.js");

let sessions = {}, wanted = null, working = false;
let trace = {picture: null, next: ANGLES};    // the angles of one picture, one after the other, when there is time

onmessage = ({data}) => data.runtime ? start(data) : ask(data);

async function start({runtime, folder, panels}) {
  try {
    importScripts(`${runtime}ort.wasm.min.js`);
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmPaths = runtime;
    const reply = await fetch(`${folder}models.json`, {cache: "no-cache"});    // exported anew: not those of last time
    if (!reply.ok) throw new Error("the networks are not there: make book exports them where torch and onnx are installed");
    const models = await reply.json();
    for (const [name, {file, made_from}] of Object.entries(models)) {
      const address = `${folder}${file}?v=${made_from.slice(0, 8)}`;
      sessions[name] = await ort.InferenceSession.create(address, {executionProviders: ["wasm"]});
      postMessage({kind: "loaded", name, count: Object.keys(sessions).length, of: Object.keys(models).length});
    }
    const there = panels.filter(({model}) => sessions[model]);
    for (const panel of there) await probabilities(panel.model, [new Float32Array(PIXELS)]);    // the first run is slow
    postMessage({kind: "ready", models});
  } catch (reason) {
    postMessage({kind: "failed", reason: String(reason.message || reason)});
  }
}

/** request: picture (a number that changes with the image), image, degrees, panels [{name, model, views}]. */
function ask(request) {
  wanted = request;
  if (request.picture !== trace.picture) trace = {...request, next: 0};
  if (!working) work();
}

async function work() {
  working = true;
  while (wanted || trace.next < ANGLES) {
    if (wanted) {
      const request = wanted;
      wanted = null;
      await answer(request, request.degrees, "answer");
    } else {
      await answer(trace, trace.next * STEP, "trace");
      trace.next++;
    }
    await new Promise((resume) => setTimeout(resume));    // newer requests come in here
  }
  working = false;
  postMessage({kind: "idle", picture: trace.picture});
}

/** What every network says of the picture at one angle. */
async function answer({picture, image, panels}, degrees, kind) {
  const seen = turned(image, degrees), said = {};
  for (const {name, model, views} of panels.filter(({model}) => sessions[model])) {
    const before = performance.now();
    const images = Array.from({length: views}, (_, g) => g ? turned(seen, g * 360 / views) : seen);
    const found = await probabilities(model, images);
    said[name] = {probabilities: found, milliseconds: performance.now() - before};
  }
  postMessage({kind, picture, degrees, said});
}

/** Softmax of the mean of the logits over the images: one image, or all views of one. */
async function probabilities(model, images) {
  const data = new Float32Array(images.length * PIXELS);
  images.forEach((image, number) => data.set(image, number * PIXELS));
  const {logits} = await sessions[model].run({images: new ort.Tensor("float32", data, [images.length, 1, SIDE, SIDE])});
  const classes = logits.dims[1], mean = new Array(classes).fill(0);
  logits.data.forEach((value, place) => { mean[place % classes] += value / images.length; });
  const largest = Math.max(...mean), grown = mean.map((value) => Math.exp(value - largest));
  const total = grown.reduce((sum, value) => sum + value);
  return grown.map((value) => value / total);
}
