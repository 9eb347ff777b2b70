/** Turns what a canvas can draw into the bytes that the graph takes. */

import { withoutAlpha } from "/shared/rgb.mjs";

const MOST_A_SIDE = 2048; // a phone's photographs are larger than any model's input

/**
 * @param {CanvasImageSource & {width: number, height: number}} source
 * @param {(number | string)[]} shape The graph's input; a number is a fixed size.
 * @returns {import("/shared/classifier.mjs").Pictures}
 */
export function toPictures(source, [, fixedHeight, fixedWidth]) {
  const scale = Math.min(1, MOST_A_SIDE / Math.max(source.width, source.height));
  const height = sizeOf(fixedHeight, source.height * scale);
  const width = sizeOf(fixedWidth, source.width * scale);
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, width, height);
  const rgba = context.getImageData(0, 0, width, height).data;
  return { rgb: withoutAlpha(rgba), batch: 1, height, width };
}

/** @param {number | string} fixed @param {number} own */
function sizeOf(fixed, own) {
  return typeof fixed === "number" ? fixed : Math.max(1, Math.round(own));
}

/**
 * @param {Blob} file
 * @returns {Promise<ImageBitmap>} The pixels as they were saved, turned as EXIF says.
 */
export function decode(file) {
  return createImageBitmap(file, { colorSpaceConversion: "none", imageOrientation: "from-image" });
}
