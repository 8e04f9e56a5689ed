import assert from "node:assert/strict";

import { ChatOpenAI, OpenAIEmbeddings } from "@langchain/openai";
import { z } from "zod";

import { answers, base, check, fails, key, question, same, texts, upstreams, vectors } from "./check.mjs";

const configuration = { baseURL: base };
const told = (what, work) => check("@langchain/openai", what, work);

for (const upstream of upstreams) {
  const embedder = `${upstream}/jina-embeddings-v3`;
  const options = { apiKey: key, configuration, maxRetries: 0 };
  const chat = new ChatOpenAI({ ...options, model: `${upstream}/jina-deepsearch-v1` });

  await told(`${upstream} embeddings`, async () => {
    const embeddings = new OpenAIEmbeddings({ ...options, model: embedder });
    same(await embeddings.embedDocuments(texts), await vectors(embedder));
    same([await embeddings.embedQuery(texts[0])], (await vectors(embedder)).slice(0, 1));
    const short = new OpenAIEmbeddings({ ...options, model: embedder, dimensions: 128 });
    assert.equal((await short.embedQuery(texts[0])).length, 128);
  });

  await told(`${upstream} chat`, async () => {
    const message = await chat.invoke(question);
    answers(message.content);
    assert.ok(message.usage_metadata.total_tokens > 0);
  });

  await told(`${upstream} chat streamed`, async () => {
    let whole;
    for await (const chunk of await chat.stream(question)) whole = whole ? whole.concat(chunk) : chunk;
    answers(whole.content);
    assert.equal(whole.response_metadata.finish_reason, "stop");
    assert.ok(whole.usage_metadata.total_tokens > 0);
  });

  await told(`${upstream} structured output`, async () => {
    const asked = chat.withStructuredOutput(z.object({ answer: z.string() }), { method: "jsonSchema" });
    assert.ok((await asked.invoke(question)).answer.length > 0);
  });

  await told(`${upstream} errors, with their message`, async () => {
    await fails(
      () => chat.invoke("sandbox:balance"),
      (error) => assert.match(error.message, /no balance left/),
    );
  });

  await told(`${upstream} stream aborted`, async () => {
    const controller = new AbortController();
    const stream = await chat.stream(`${question} sandbox:hang-mid-stream`, { signal: controller.signal });
    await fails(
      async () => {
        for await (const chunk of stream) {
          assert.ok(chunk);
          controller.abort();
        }
      },
      (error) => assert.match(`${error.name} ${error.message}`, /abort/i),
    );
  });
}
