import assert from "node:assert/strict";

import { embed, embedMany } from "ai";
import { createJina } from "jina-ai-provider";

import { base, check, fails, key, same, texts, upstreams, vectors } from "./check.mjs";

const jina = createJina({ baseURL: base, apiKey: key });
const told = (what, work) => check("jina-ai-provider", what, work);

for (const upstream of upstreams) {
  const name = `${upstream}/jina-embeddings-v3`;
  const model = jina.textEmbeddingModel(name);

  await told(`${upstream} embeddings`, async () => {
    const { embeddings, usage } = await embedMany({ model, values: texts });
    same(embeddings, await vectors(name));
    assert.ok(usage.tokens > 0);
  });

  await told(`${upstream} embeddings with Jina's options`, async () => {
    const options = { inputType: "retrieval.query", outputDimension: 64, embeddingType: "ubinary" };
    const { embeddings } = await embedMany({ model, values: texts, providerOptions: { jina: options } });
    assert.deepEqual(
      embeddings,
      await vectors(name, { task: "retrieval.query", dimensions: 64, embedding_type: "ubinary" }),
    );
    assert.equal(embeddings[0].length, 8);
  });

  await told(`${upstream} text and picture`, async () => {
    const clip = jina.multiModalEmbeddingModel(`${upstream}/jina-clip-v2`);
    const pixel = "R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7";
    const { embeddings } = await embedMany({ model: clip, values: [{ text: texts[0] }, { image: pixel }] });
    assert.deepEqual(
      embeddings.map((vector) => vector.length),
      [1024, 1024],
    );
  });

  await told(`${upstream} errors, with their message`, async () => {
    await fails(
      () => embed({ model: jina.textEmbeddingModel(`${upstream}/no-such-model`), value: "text", maxRetries: 0 }),
      (error) => {
        assert.equal(error.statusCode, 404);
        assert.doesNotMatch(error.message, /^Not Found$/);
      },
    );
  });
}
