/** Reads pictures as the graph takes them: PNG files, and raw RGB bytes. */

import { readFile } from "node:fs/promises";
import { PNG } from "pngjs";
import { InputError } from "../shared/classifier.mjs";
import { withoutAlpha } from "../shared/rgb.mjs";

const SIGNATURE = Buffer.from("\x89PNG\r\n\x1a\n", "latin1");
const WIDTH_AT = 16;
const HEIGHT_AT = 20;
const HEADER_BYTES = 24;
const MAX_PIXELS = 64 * 1024 * 1024;

/**
 * Reads a PNG.
 *
 * @param {string} path
 * @returns {Promise<import("../shared/classifier.mjs").Pictures>}
 */
export async function readPng(path) {
  const bytes = await readBytes(path);
  if (bytes.length < HEADER_BYTES || !bytes.subarray(0, SIGNATURE.length).equals(SIGNATURE)) {
    throw new InputError(`expected a PNG picture, ${path} is none: convert it, or use --raw`);
  }
  const [width, height] = [bytes.readUInt32BE(WIDTH_AT), bytes.readUInt32BE(HEIGHT_AT)];
  // Before anything is decoded: a small file can claim to be a huge picture.
  if (width * height > MAX_PIXELS) {
    throw new InputError(
      `expected at most ${MAX_PIXELS} pixels, ${path} has ${width} x ${height}: scale it down`,
    );
  }
  try {
    const { data } = PNG.sync.read(bytes);
    return { rgb: withoutAlpha(data), batch: 1, height, width };
  } catch (error) {
    throw new InputError(`${path} cannot be decoded (${error.message}): save it again`);
  }
}

/**
 * Reads raw pictures of one size, one after the other: bytes [batch, height, width, 3].
 *
 * @param {string} path
 * @param {number} width
 * @param {number} height
 * @returns {Promise<import("../shared/classifier.mjs").Pictures>}
 */
export async function readRaw(path, width, height) {
  const rgb = new Uint8Array(await readBytes(path));
  const batch = rgb.length / (width * height * 3);
  if (!Number.isInteger(batch) || batch === 0) {
    throw new InputError(
      `expected a multiple of ${width} x ${height} x 3 bytes, ${path} has ${rgb.length}: check --raw`,
    );
  }
  return { rgb, batch, height, width };
}

/** @param {string} path */
async function readBytes(path) {
  try {
    return await readFile(path);
  } catch (error) {
    throw new InputError(`expected a picture at ${path}, got ${error.code}: check the path`);
  }
}
