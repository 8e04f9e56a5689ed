import assert from "node:assert/strict";

import { createCohere } from "@ai-sdk/cohere";
import { APICallError, rerank } from "ai";

import { check, documents, fails, key, question, root, upstreams } from "./check.mjs";

const cohere = createCohere({ baseURL: `${root}/v2`, apiKey: key });
const told = (what, work) => check("@ai-sdk/cohere", what, work);

for (const upstream of upstreams) {
  const model = cohere.reranking(`${upstream}/jina-reranker-m0`);

  await told(`${upstream} rerank`, async () => {
    const { ranking, rerankedDocuments } = await rerank({ model, query: question, documents, topN: 2 });
    assert.equal(ranking.length, 2);
    assert.equal(ranking[0].originalIndex, 1);
    assert.equal(rerankedDocuments[0], documents[1]);
    assert.ok(ranking[0].score > ranking[1].score);
  });

  await told(`${upstream} rerank of objects`, async () => {
    const rows = documents.map((text, number) => ({ number, text }));
    const { rerankedDocuments } = await rerank({ model, query: question, documents: rows });
    assert.deepEqual(rerankedDocuments[0], rows[1]);
  });

  await told(`${upstream} errors`, async () => {
    await fails(
      () => rerank({ model, query: "sandbox:400", documents, maxRetries: 0 }),
      (error) => {
        assert.ok(APICallError.isInstance(error));
        assert.equal(error.statusCode, 400);
      },
    );
  });
}
