import assert from "node:assert/strict";

import { JinaEmbeddings } from "@langchain/community/embeddings/jina";

import { base, check, fails, key, same, texts, upstreams, vectors } from "./check.mjs";

const told = (what, work) => check("@langchain/community", what, work);

// The constructor accepts no address, but the field does.
function embeddings(model) {
  const made = new JinaEmbeddings({ apiKey: key, model });
  made.baseUrl = `${base}/embeddings`;
  return made;
}

for (const upstream of upstreams) {
  const model = `${upstream}/jina-embeddings-v3`;

  await told(`${upstream} JinaEmbeddings`, async () => {
    const found = await embeddings(model).embedDocuments(texts);
    same(found, await vectors(model, { task: "retrieval.passage" }));
  });

  await told(`${upstream} JinaEmbeddings of a query`, async () => {
    const [wanted] = await vectors(model, { task: "retrieval.query" });
    same([await embeddings(model).embedQuery(texts[0])], [wanted]);
  });

  await told(`${upstream} JinaEmbeddings errors, with their message`, async () => {
    await fails(
      () => embeddings(model).embedDocuments(["sandbox:balance"]),
      (error) => assert.match(error.message, /no balance left/),
    );
  });
}
