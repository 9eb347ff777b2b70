/** Classifies pictures with a bundle: `node classify.mjs BUNDLE digit.png` prints a line of JSON each. */

import "./quiet.mjs";
import { readFile, realpath } from "node:fs/promises";
import { join, sep } from "node:path";
import { parseArgs } from "node:util";
import * as ort from "onnxruntime-node";
import { BundleError, readBundle } from "../shared/bundle.mjs";
import { InputError, openClassifier } from "../shared/classifier.mjs";
import { readPng, readRaw } from "./pictures.mjs";

const USAGE = `usage: node classify.mjs BUNDLE PICTURE... [--threshold T] [--raw WIDTHxHEIGHT]

  PICTURE      PNG files; with --raw, files of RGB bytes, one picture after the other
  --threshold  another one than the bundle's
  --raw        size of the raw pictures, e.g. 8x8

example: node classify.mjs ../../runs/demo/bundle-tuned digit.png`;

const [FAILED, BAD_USAGE] = [1, 2];

/** The command line was not understood. */
class UsageError extends Error {}

/** @param {string[]} words */
function parse(words) {
  const options = {
    threshold: { type: "string" },
    raw: { type: "string" },
    help: { type: "boolean" },
  };
  try {
    const { values, positionals } = parseArgs({ args: words, options, allowPositionals: true });
    const [bundle, ...pictures] = positionals;
    if (!values.help && pictures.length === 0) throw new Error("expected BUNDLE and PICTURE");
    return {
      help: values.help,
      bundle,
      pictures,
      threshold: number(values.threshold),
      size: size(values.raw),
    };
  } catch (error) {
    throw new UsageError(`${error.message}: see --help`);
  }
}

/** @param {string | undefined} text */
function number(text) {
  if (text === undefined) return undefined;
  const value = text.trim() === "" ? Number.NaN : Number(text);
  if (Number.isNaN(value)) throw new Error(`expected a number as --threshold, got '${text}'`);
  return value;
}

/** @param {string | undefined} text @returns {[number, number] | undefined} */
function size(text) {
  if (text === undefined) return undefined;
  const [, width, height] = /^([1-9]\d*)x([1-9]\d*)$/.exec(text) ?? [];
  if (!height) throw new Error(`expected --raw as WIDTHxHEIGHT, got '${text}'`);
  return [Number(width), Number(height)];
}

/** @param {string} folder @param {string} name */
async function readFileOf(folder, name) {
  try {
    const file = await realpath(join(folder, name));
    if (file.startsWith((await realpath(folder)) + sep)) return await readFile(file);
  } catch (error) {
    throw new BundleError(
      `expected a bundle folder at ${folder}, got ${error.code} for ${name}: ` +
        "make one with `python -m export --checkpoint DIR --out BUNDLE`",
    );
  }
  throw new BundleError(`bundle file ${name} leads outside ${folder}: refused, copy the file there`);
}

/** @param {ReturnType<typeof parse>} line @returns {Promise<number>} The exit status. */
async function run({ bundle: folder, pictures, threshold, size }) {
  const bundle = await readBundle((name) => readFileOf(folder, name));
  const classifier = await openClassifier(ort, bundle);
  let status = 0;
  for (const path of pictures) {
    try {
      const read = size ? await readRaw(path, ...size) : await readPng(path);
      for (const answer of await classifier.classify(read, threshold)) {
        console.log(JSON.stringify({ input: path, ...answer }));
      }
    } catch (error) {
      if (!(error instanceof InputError)) throw error;
      console.error(`classify.mjs: ${error.message}`); // costs the other pictures nothing
      status = FAILED;
    }
  }
  return status;
}

try {
  const line = parse(process.argv.slice(2));
  if (line.help) console.log(USAGE);
  else process.exitCode = await run(line);
} catch (error) {
  const known = [UsageError, BundleError].some((kind) => error instanceof kind);
  if (!known) throw error;
  console.error(`classify.mjs: ${error.message}`);
  process.exitCode = error instanceof UsageError ? BAD_USAGE : FAILED;
}
