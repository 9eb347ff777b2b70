/**
 * Uses pages in one headless Chromium: a JSON spec per line of standard input, and for each a line
 * of JSON with what was seen, or with the error.
 */

import { createInterface } from "node:readline";
import chromium from "@sparticuz/chromium";
import puppeteer from "puppeteer-core";

const browser = await puppeteer.launch({
  executablePath: await chromium.executablePath(),
  headless: "shell",
  // Chromium's sandbox does not start as root, which CI is; it opens nothing but our own page.
  args: ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"],
});

/** Returns what a user, or a screen reader, gets from a page once it is idle. */
const read = (page) =>
  page.evaluate(async () => {
    while (document.getElementById("main").ariaBusy === "true") {
      await new Promise((resolve) => setTimeout(resolve));
    }
    const find = (id) => document.getElementById(id);
    const visible = (id) => (find(id).checkVisibility() ? find(id).textContent : "");
    const bar = find("bar").getBoundingClientRect();
    return {
      status: visible("status"),
      error: visible("error"),
      label: find("label").value,
      confidence: Number(find("confidence").value),
      decision: find("decision").dataset.decision ?? "",
      said: find("decision").textContent,
      meter: find("bar").getAttribute("aria-valuenow"),
      fill: find("fill").getBoundingClientRect().width / bar.width,
      mark: (find("mark").getBoundingClientRect().x + 1.5 - bar.x) / bar.width,
      threshold: find("threshold").valueAsNumber,
      disabled: document.querySelectorAll(":disabled").length,
      focus: document.activeElement.id,
      overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
      colors: [getComputedStyle(document.body)].map((s) => [s.color, s.backgroundColor])[0],
    };
  });

const ACTIONS = {
  pick: async (page, path) => (await page.$("#file")).uploadFile(path),
  threshold: (page, value) =>
    page.$eval(
      "#threshold",
      (slider, wanted) => {
        slider.value = String(wanted);
        slider.dispatchEvent(new Event("input"));
      },
      value,
    ),
  press: (page, key) => page.keyboard.press(key),
  tap: (page, selector) => page.click(selector),
  draw: async (page, points) => {
    const box = await (await page.$("#pad")).boundingBox();
    const at = ([x, y]) => [box.x + x * box.width, box.y + y * box.height];
    await page.mouse.move(...at(points[0]));
    await page.mouse.down();
    for (const point of points.slice(1)) await page.mouse.move(...at(point), { steps: 5 });
    await page.mouse.up();
  },
};

/** Opens a page of its own, takes the steps, and returns what was seen after each. */
async function use({ url, steps, viewport, scheme }) {
  const context = await browser.createBrowserContext();
  const page = await context.newPage();
  const requests = [];
  const problems = [];
  page.on("request", (request) => requests.push(request.url()));
  page.on("pageerror", (error) => problems.push(error.message));
  page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
  try {
    if (viewport) await page.setViewport(viewport);
    if (scheme) await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
    await page.goto(url);
    const seen = [await read(page)];
    for (const [action, value] of steps) {
      await ACTIONS[action](page, value);
      seen.push(await read(page));
    }
    return { seen, requests, problems };
  } finally {
    await context.close();
  }
}

try {
  for await (const line of createInterface({ input: process.stdin })) {
    const result = await use(JSON.parse(line)).catch((error) => ({ failed: error.stack }));
    console.log(JSON.stringify(result));
  }
} finally {
  await browser.close();
}
