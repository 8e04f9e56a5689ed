import assert from "node:assert/strict";

import { JinaEmbeddingFunction } from "@chroma-core/jina";

import { base, check, fails, key, same, texts, upstreams, vectors } from "./check.mjs";

const told = (what, work) => check("@chroma-core/jina", what, work);

// The constructor accepts no address, but the field does.
function embedder(options) {
  const made = new JinaEmbeddingFunction({ apiKey: key, ...options });
  made.url = `${base}/embeddings`;
  return made;
}

for (const upstream of upstreams) {
  const modelName = `${upstream}/jina-embeddings-v3`;

  await told(`${upstream} embeddings`, async () => {
    same(await embedder({ modelName }).generate(texts), await vectors(modelName));
  });

  await told(`${upstream} embeddings with Jina's options`, async () => {
    const options = { task: "text-matching", dimensions: 64, embeddingType: "binary" };
    const found = await embedder({ modelName, ...options }).generate(texts);
    assert.equal(found[0].length, 8);
    assert.ok(found[0].every((value) => Number.isInteger(value) && value >= -128 && value <= 127));
  });

  await told(`${upstream} a failure is one`, async () => {
    await fails(
      () => embedder({ modelName }).generate(["sandbox:500"]),
      (error) => assert.match(error.message, /Error calling Jina/),
    );
  });
}
