import assert from "node:assert/strict";

import { CohereClient, CohereClientV2, CohereError } from "cohere-ai";

import { check, documents, fails, key, question, root, upstreams } from "./check.mjs";

const first = new CohereClient({ environment: root, token: key, maxRetries: 0 });
const second = new CohereClientV2({ environment: root, token: key, maxRetries: 0 });
const told = (what, work) => check("cohere-ai", what, work);

for (const upstream of upstreams) {
  const model = `${upstream}/jina-reranker-v2-base-multilingual`;

  await told(`${upstream} rerank, version 1`, async () => {
    const asked = { model, query: question, documents, topN: 2, returnDocuments: true };
    const { results } = await first.rerank(asked);
    assert.equal(results.length, 2);
    assert.equal(results[0].index, 1);
    assert.equal(results[0].document.text, documents[1]);
  });

  await told(`${upstream} rerank, version 1, fields of objects`, async () => {
    const rows = documents.map((text) => ({ title: "", body: text }));
    const asked = { model, query: question, documents: rows, rankFields: ["body"], returnDocuments: false };
    const { results } = await first.rerank(asked);
    assert.deepEqual([results[0].index, results[0].document], [1, undefined]);
  });

  await told(`${upstream} rerank, version 2`, async () => {
    const { results, meta } = await second.rerank({ model, query: question, documents, maxTokensPerDoc: 512 });
    assert.deepEqual(results.map((result) => result.index).sort(), [0, 1, 2]);
    assert.equal(results[0].index, 1);
    assert.equal(meta.apiVersion.version, "2");
  });

  await told(`${upstream} errors, with their message`, async () => {
    await fails(
      () => second.rerank({ model, query: question, documents: [] }),
      (error) => {
        assert.ok(error instanceof CohereError);
        assert.equal(error.statusCode, 400);
        assert.match(error.message, /at least one document/);
      },
    );
  });
}
