/** Serves the page, ONNX Runtime and one bundle to this machine: `node serve.mjs BUNDLE [PORT]`. */

import { createReadStream } from "node:fs";
import { realpath, stat } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join, sep } from "node:path";
import { fileURLToPath } from "node:url";

const LOOPBACK = "127.0.0.1";
const DEFAULT_PORT = 8080;
const TYPES = {
  ".css": "text/css",
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript",
  ".json": "application/json",
  ".mjs": "text/javascript",
  ".wasm": "application/wasm",
};
const HEADERS = {
  "Cache-Control": "no-store", // another bundle may be served at this address a minute later
  "Content-Security-Policy":
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; img-src 'self' data:",
  "X-Content-Type-Options": "nosniff",
};

const [bundle, port = DEFAULT_PORT] = process.argv.slice(2);
if (bundle === undefined || !(Number(port) >= 0 && Number(port) <= 65535)) {
  console.error("serve.mjs: expected BUNDLE and perhaps a port: node serve.mjs BUNDLE [PORT]");
  process.exit(2);
}

const here = fileURLToPath(new URL(".", import.meta.url));
const FOLDERS = {
  "/bundle/": bundle,
  "/shared/": join(here, "..", "shared"),
  "/onnxruntime/": join(here, "node_modules", "onnxruntime-web", "dist"),
  "/": join(here, "page"),
};

/** @param {string} path @returns {Promise<string | undefined>} The file, where there is one inside. */
async function find(path) {
  const prefix = Object.keys(FOLDERS).find((start) => path.startsWith(start));
  const name = path.slice(prefix.length) || "index.html";
  const folder = await realpath(FOLDERS[prefix]);
  const file = await realpath(join(folder, name));
  return file.startsWith(folder + sep) && (await stat(file)).isFile() ? file : undefined;
}

const server = createServer(async (request, response) => {
  let file;
  try {
    file = await find(decodeURIComponent(new URL(request.url, "http://page").pathname));
  } catch {
    // Nothing is there, or the address is malformed: 404 says it.
  }
  if (file === undefined) return response.writeHead(404, HEADERS).end();
  const type = TYPES[extname(file)] ?? "application/octet-stream";
  response.writeHead(200, { ...HEADERS, "Content-Type": type });
  createReadStream(file).pipe(response);
});
server.on("error", (error) => {
  console.error(`serve.mjs: expected a free port, got ${error.code} at ${port}: name another`);
  process.exit(1);
});
server.listen(Number(port), LOOPBACK, () => {
  console.log(`http://${LOOPBACK}:${server.address().port}/`);
});
