/** The page: a picture goes in; the answer, its confidence and the decision come out. */

import * as ort from "/onnxruntime/ort.wasm.bundle.min.mjs";
import { BundleError, readBundle } from "/shared/bundle.mjs";
import { InputError, openClassifier } from "/shared/classifier.mjs";
import { Pad } from "./pad.mjs";
import { decode, toPictures } from "./pixels.mjs";

const BUNDLE = "/bundle/";
const DIGITS = 3;

/** @param {string} id */
const element = (id) => document.getElementById(id);
const slider = element("threshold");
const pad = element("pad");

/** @type {import("/shared/classifier.mjs").Classifier} */
let classifier;
/** @type {import("/shared/classifier.mjs").Pictures | undefined} */
let shown;
let asked = 0;
let last = Promise.resolve();

/** @param {string} name @returns {Promise<Uint8Array>} */
async function fetchFile(name) {
  const response = await fetch(BUNDLE + name.split("/").map(encodeURIComponent).join("/"));
  if (!response.ok) {
    throw new BundleError(
      `expected a bundle at ${BUNDLE}, got ${response.status} for ${name}: ` +
        "start `node serve.mjs BUNDLE` with the folder that export wrote",
    );
  }
  return new Uint8Array(await response.arrayBuffer());
}

/** @param {number} value @returns {string} Where it lies on the bar. */
function share(value) {
  const [low, high] = classifier.bundle.confidenceRange;
  const within = Math.min(Math.max((value - low) / (high - low || 1), 0), 1);
  return `${within * 100}%`;
}

/** @param {import("/shared/classifier.mjs").Answer} answer */
function showAnswer({ label, confidence, defer }) {
  const decision = defer ? "defer" : "edge";
  element("label").value = label;
  element("label").textContent = label;
  element("confidence").value = String(confidence);
  element("confidence").textContent = confidence.toFixed(DIGITS);
  element("decision").textContent = defer
    ? "Unsure: the large model would be asked."
    : "Sure enough: answered on this device.";
  element("decision").dataset.decision = decision;
  const bar = element("bar");
  bar.dataset.decision = decision;
  bar.setAttribute("aria-valuenow", String(confidence));
  bar.setAttribute("aria-valuetext", confidence.toFixed(DIGITS));
  bar.style.setProperty("--confidence", share(confidence));
}

function showThreshold() {
  const threshold = slider.valueAsNumber;
  element("threshold-value").textContent = threshold.toFixed(DIGITS);
  element("bar").style.setProperty("--threshold", share(threshold));
}

function clearAnswer() {
  asked += 1; // what is on its way is about a picture that is gone
  shown = undefined;
  for (const id of ["label", "confidence"]) {
    element(id).value = "";
    element(id).textContent = "–";
  }
  element("decision").textContent = "Draw or pick a picture.";
  delete element("decision").dataset.decision;
  const bar = element("bar");
  bar.style.setProperty("--confidence", "0%");
  bar.removeAttribute("aria-valuenow");
  bar.setAttribute("aria-valuetext", "none yet");
  element("main").ariaBusy = "false";
}

/** @param {unknown} error */
function showError(error) {
  element("error").textContent = error.message;
  element("error").hidden = false;
  if (!(error instanceof BundleError || error instanceof InputError)) console.error(error);
}

/** Classify what is shown; a session runs one input at a time, and the latest request wins. */
function ask() {
  if (shown === undefined) return;
  const mine = ++asked;
  element("main").ariaBusy = "true";
  last = last.then(async () => {
    if (mine !== asked) return;
    try {
      const [answer] = await classifier.classify(shown, slider.valueAsNumber);
      if (mine === asked) showAnswer(answer);
    } catch (error) {
      showError(error);
    }
    if (mine === asked) element("main").ariaBusy = "false";
  });
}

/** @param {CanvasImageSource & {width: number, height: number}} source */
function show(source) {
  element("error").hidden = true;
  shown = toPictures(source, classifier.bundle.input.shape);
  ask();
}

/** @param {File} file */
async function showFile(file) {
  element("main").ariaBusy = "true";
  try {
    const bitmap = await decode(file);
    const scale = Math.min(pad.width / bitmap.width, pad.height / bitmap.height);
    const [width, height] = [bitmap.width * scale, bitmap.height * scale];
    drawing.clear();
    pad.getContext("2d").drawImage(bitmap, 0, 0, width, height);
    show(bitmap);
  } catch {
    clearAnswer();
    showError(new InputError(`expected a picture, ${file.name} cannot be decoded: pick another`));
  }
}

const drawing = new Pad(pad, () => classifier && show(pad));

function connect() {
  const { threshold, confidenceRange } = classifier.bundle;
  // A threshold outside the range answers or defers everything: the slider reaches it too.
  slider.min = String(Math.min(confidenceRange[0], threshold));
  slider.max = String(Math.max(confidenceRange[1], threshold));
  element("bar").setAttribute("aria-valuemin", String(confidenceRange[0]));
  element("bar").setAttribute("aria-valuemax", String(confidenceRange[1]));
  const setThreshold = () => {
    showThreshold();
    ask();
  };
  slider.addEventListener("input", setThreshold);
  element("reset").addEventListener("click", () => {
    slider.value = String(threshold);
    setThreshold();
  });
  element("clear").addEventListener("click", () => {
    drawing.clear();
    clearAnswer();
  });
  element("file").addEventListener("change", ({ target }) => {
    if (target.files.length > 0) showFile(target.files[0]);
    target.value = ""; // the same file may be picked again
  });
  for (const control of document.querySelectorAll(":disabled")) control.disabled = false;
  slider.value = String(threshold);
  clearAnswer();
  setThreshold();
}

async function start() {
  ort.env.wasm.wasmPaths = "/onnxruntime/";
  ort.env.wasm.numThreads = 1; // more need cross-origin isolation, and a small model needs no more
  try {
    const bundle = await readBundle(fetchFile);
    classifier = await openClassifier(ort, bundle, { executionProviders: ["wasm"] });
    connect();
    element("status").textContent =
      `Ready: ${bundle.labels.length} classes, on this device. Nothing leaves it.`;
  } catch (error) {
    element("status").textContent = "No model.";
    showError(error);
  }
  element("main").ariaBusy = "false";
}

await start();
