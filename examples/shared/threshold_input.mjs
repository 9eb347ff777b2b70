/**
 * Makes the gate's threshold an ordinary graph input.
 *
 * In a bundle `threshold` is an initializer that may be fed. C, C++, C#, Python and Objective-C feed
 * it; ONNX Runtime's JavaScript packages do not: onnxruntime-node passes over it in silence, and
 * onnxruntime-web says "invalid input". Without its initializer the same graph input has no default
 * and must be fed, which both do.
 */

import { BundleError } from "./bundle.mjs";

export const THRESHOLD = "threshold";

// Field numbers of onnx.proto.
const MODEL_GRAPH = 7;
const GRAPH_INITIALIZER = 5;
const TENSOR_NAME = 8;

const FIXED_BYTES = { 1: 8, 5: 4 };
const VARINT = 0;
const LENGTH_DELIMITED = 2;

/**
 * @param {Uint8Array} model An ONNX file.
 * @returns {Uint8Array} The same without the default of `threshold`.
 */
export function requireThresholdInput(model) {
  const graph = only(fields(model), MODEL_GRAPH);
  const initializer = only(
    fields(graph.value).filter((field) => isThreshold(field)),
    GRAPH_INITIALIZER,
  );
  const kept = concatenate([
    graph.value.subarray(0, initializer.start),
    graph.value.subarray(initializer.end),
  ]);
  const tag = Uint8Array.of((MODEL_GRAPH << 3) | LENGTH_DELIMITED);
  return concatenate([
    model.subarray(0, graph.start),
    tag,
    varint(kept.length),
    kept,
    model.subarray(graph.end),
  ]);
}

/** @param {Field} field */
function isThreshold({ number, value }) {
  if (number !== GRAPH_INITIALIZER) return false;
  const name = fields(value).find((field) => field.number === TENSOR_NAME);
  return name !== undefined && new TextDecoder().decode(name.value) === THRESHOLD;
}

/** @param {Field[]} found @param {number} number */
function only(found, number) {
  const matching = found.filter((field) => field.number === number);
  if (matching.length !== 1) {
    throw new BundleError(
      `expected an ONNX graph with one initializer ${THRESHOLD}, got ${matching.length} of field ` +
        `${number}: export the bundle again`,
    );
  }
  return matching[0];
}

/**
 * @typedef {object} Field A field of a protobuf message.
 * @property {number} number
 * @property {number} start Where its tag begins.
 * @property {number} end Where the next field begins.
 * @property {Uint8Array} value Its bytes; empty unless it is length-delimited.
 */

/** @param {Uint8Array} message @returns {Field[]} */
function fields(message) {
  const found = [];
  for (let start = 0; start < message.length; ) {
    const [tag, afterTag] = readVarint(message, start);
    const kind = tag % 8;
    let [from, end] = [afterTag, afterTag + (FIXED_BYTES[kind] ?? 0)];
    if (kind === VARINT) [, end] = readVarint(message, afterTag);
    if (kind === LENGTH_DELIMITED) {
      const [length, afterLength] = readVarint(message, afterTag);
      [from, end] = [afterLength, afterLength + length];
    }
    if (end === afterTag || end > message.length) {
      throw new BundleError("expected an ONNX graph, got other bytes: export the bundle again");
    }
    const value = message.subarray(from, kind === LENGTH_DELIMITED ? end : from);
    found.push({ number: Math.floor(tag / 8), start, end, value });
    start = end;
  }
  return found;
}

/** @param {Uint8Array} bytes @param {number} at @returns {[number, number]} Value, next position. */
function readVarint(bytes, at) {
  let [value, scale] = [0, 1];
  for (;;) {
    const byte = bytes[at++];
    value += (byte & 127) * scale;
    if (!(byte & 128)) return [value, at];
    scale *= 128;
  }
}

/** @param {number} value */
function varint(value) {
  const bytes = [];
  for (; value > 127; value = Math.floor(value / 128)) bytes.push((value % 128) | 128);
  return Uint8Array.of(...bytes, value);
}

/** @param {Uint8Array[]} parts */
function concatenate(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
