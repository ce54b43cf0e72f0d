// Vercel's AI SDK edits a picture: node edit.mjs <base URL> <image.png> <mask.png>
import { readFile } from "node:fs/promises";
import { createOpenAI } from "@ai-sdk/openai";
import { generateImage } from "ai";

const [baseURL, image, mask] = process.argv.slice(2);
const openai = createOpenAI({ baseURL, apiKey: "none" });
const { images, warnings } = await generateImage({
  model: openai.image("gpt-image-1"),
  prompt: { text: "a smile", images: [await readFile(image)], mask: await readFile(mask) },
  n: 2,
  maxRetries: 0,
});
console.log(JSON.stringify({ images: images.map((made) => made.base64), warnings }));
