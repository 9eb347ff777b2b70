/** Runs the gated graph of a bundle with either JavaScript package of ONNX Runtime. */

import { BundleError } from "./bundle.mjs";
import { requireThresholdInput, THRESHOLD } from "./threshold_input.mjs";

export const OUTPUTS = ["prediction", "confidence", "defer"];
const ERRORS_ONLY = 3;

/** A picture or a setting that the graph cannot work on; the message says what to do. */
export class InputError extends Error {
  name = "InputError";
}

/**
 * @typedef {object} Answer
 * @property {string} label
 * @property {number} prediction Class index.
 * @property {number} confidence Higher is surer.
 * @property {boolean} defer Whether the large model should answer.
 */

/**
 * @typedef {object} Pictures
 * @property {Uint8Array} rgb Bytes [batch, height, width, 3].
 * @property {number} batch
 * @property {number} height
 * @property {number} width
 */

export class Classifier {
  #ort;
  #session;

  /** Use `openClassifier`. */
  constructor(ort, session, bundle) {
    this.#ort = ort;
    this.#session = session;
    this.bundle = bundle;
  }

  /**
   * @param {Pictures} pictures
   * @param {number} [threshold] Another one than the bundle's.
   * @returns {Promise<Answer[]>} One a picture.
   * @throws {InputError} The graph cannot work on pictures of this size.
   */
  async classify({ rgb, batch, height, width }, threshold = this.bundle.threshold) {
    if (Number.isNaN(threshold)) {
      throw new InputError("expected a number as threshold, got NaN: it would defer everything");
    }
    const { Tensor } = this.#ort;
    const feeds = {
      [this.bundle.input.name]: new Tensor("uint8", rgb, [batch, height, width, 3]),
      [THRESHOLD]: new Tensor("float32", Float32Array.of(threshold), []),
    };
    const { prediction, confidence, defer } = await this.#run(feeds);
    return Array.from(prediction.data, (index, row) => ({
      label: this.bundle.labels[Number(index)],
      prediction: Number(index),
      confidence: confidence.data[row],
      defer: Boolean(defer.data[row]),
    }));
  }

  async #run(feeds) {
    try {
      return await this.#session.run(feeds, OUTPUTS);
    } catch (error) {
      const { name, shape } = this.bundle.input;
      throw new InputError(
        `expected uint8 ${JSON.stringify(shape)} that the graph can work on, it failed on ` +
          `${JSON.stringify(feeds[name].dims)} (${error.message}): try another size`,
      );
    }
  }
}

/**
 * @param {object} ort onnxruntime-node or onnxruntime-web.
 * @param {import("./bundle.mjs").Bundle} bundle
 * @param {object} [options] Session options of that package.
 */
export async function openClassifier(ort, bundle, options = {}) {
  const graph = requireThresholdInput(bundle.graph);
  try {
    const session = await ort.InferenceSession.create(graph, {
      logSeverityLevel: ERRORS_ONLY,
      ...options,
    });
    return new Classifier(ort, session, bundle);
  } catch (error) {
    throw new BundleError(
      `the bundle's graph does not load in ONNX Runtime (${error.message}): export the bundle again, ` +
        "or update onnxruntime",
    );
  }
}
