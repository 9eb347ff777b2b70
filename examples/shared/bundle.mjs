/**
 * Reads a bundle: `bundle.json`, its contract version, and every file it lists by SHA-256.
 *
 * The same module runs in Node and in a browser; where the bytes come from is the caller's business.
 */

export const BUNDLE_FILE = "bundle.json";
export const CONTRACT_VERSION = 1;

const AGAIN = "copy or export the bundle again";

/** Something the user can mend; the message says what was expected, what came, what to do. */
export class BundleError extends Error {
  name = "BundleError";
}

/**
 * @typedef {object} Bundle
 * @property {Uint8Array} graph The classifier graph, as it was hashed.
 * @property {string[]} labels Class names in the order of the predictions.
 * @property {number} threshold The confidence at or above which the small model answers.
 * @property {[number, number]} confidenceRange Least and greatest confidence.
 * @property {{name: string, dtype: string, shape: (number | string)[]}} input
 */

/**
 * @param {(name: string) => Promise<Uint8Array>} read Gives the bytes of a file of the bundle.
 * @returns {Promise<Bundle>}
 */
export async function readBundle(read) {
  const record = parse(await read(BUNDLE_FILE));
  const metadata = record.metadata ?? {};
  // Before anything else: another version may have other keys.
  if (metadata.contract_version !== CONTRACT_VERSION) {
    throw new BundleError(
      `expected gate contract version ${CONTRACT_VERSION}, the bundle says ` +
        `${JSON.stringify(metadata.contract_version)}: update this reader, or export the bundle again`,
    );
  }
  requirePictures(metadata);
  const name = record.graphs?.classifier;
  if (typeof record.files?.[name] !== "string") {
    throw new BundleError(
      `expected a classifier graph and its hash in ${BUNDLE_FILE}, got ${JSON.stringify(name)}: ` +
        "export the bundle again",
    );
  }
  const files = await readFiles(record.files, read);
  return {
    graph: files.get(name),
    labels: metadata.labels,
    threshold: metadata.threshold,
    confidenceRange: metadata.confidence_range,
    input: metadata.input,
  };
}

/** @param {Uint8Array} bytes */
function parse(bytes) {
  try {
    const record = JSON.parse(new TextDecoder().decode(bytes));
    if (record !== null && typeof record === "object") return record;
  } catch {
    // The message below says it.
  }
  throw new BundleError(`expected a JSON object in ${BUNDLE_FILE}, got something else: ${AGAIN}`);
}

/** These examples feed pictures as bytes; a graph that takes anything else is not for them. */
function requirePictures({ labels, threshold, confidence_range: range, input }) {
  const whole =
    isListOf(labels, "string") &&
    typeof threshold === "number" &&
    isListOf(range, "number") &&
    range.length === 2;
  if (!whole) {
    throw new BundleError(
      `expected labels, threshold and confidence_range in ${BUNDLE_FILE}, got other metadata: ${AGAIN}`,
    );
  }
  const shape = input?.shape;
  if (input?.dtype !== "uint8" || shape?.length !== 4 || shape[3] !== 3) {
    throw new BundleError(
      "expected a graph that takes uint8 [batch, height, width, 3], got " +
        `${input?.dtype} ${JSON.stringify(shape)}: export a picture classifier`,
    );
  }
}

/** @param {unknown} values @param {string} type */
function isListOf(values, type) {
  return Array.isArray(values) && values.length > 0 && values.every((v) => typeof v === type);
}

/** @param {Record<string, string>} hashes @param {(name: string) => Promise<Uint8Array>} read */
async function readFiles(hashes, read) {
  const names = Object.keys(hashes);
  names.forEach(requireInside); // all places before the first byte is read
  const files = new Map();
  for (const name of names) {
    const bytes = await read(name);
    if ((await sha256(bytes)) !== hashes[name]) {
      throw new BundleError(
        `bundle file ${name} was altered or truncated (its sha256 differs from ${BUNDLE_FILE}): ${AGAIN}`,
      );
    }
    files.set(name, bytes);
  }
  return files;
}

/** A bundle from elsewhere must not make the reader open files beside it. @param {string} name */
function requireInside(name) {
  if (/^\/|\\|\0|^\w+:/.test(name) || name.split("/").includes("..")) {
    throw new BundleError(
      `bundle file ${JSON.stringify(name)} lies outside its folder: refused, export the bundle again`,
    );
  }
}

/** @param {Uint8Array} bytes */
async function sha256(bytes) {
  if (globalThis.crypto?.subtle === undefined) {
    throw new BundleError(
      "expected a page that may compute hashes, got one over plain HTTP: open it as localhost or by HTTPS",
    );
  }
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
