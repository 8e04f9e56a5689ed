import assert from "node:assert/strict";

import { createOpenAI } from "@ai-sdk/openai";
import { APICallError, Output, embedMany, generateText, streamText } from "ai";
import { z } from "zod";

import { answers, base, check, fails, key, question, same, texts, upstreams, vectors } from "./check.mjs";

const openai = createOpenAI({ baseURL: base, apiKey: key });
const told = (what, work) => check("@ai-sdk/openai", what, work);

for (const upstream of upstreams) {
  const embedder = `${upstream}/jina-embeddings-v3`;
  const model = openai.chat(`${upstream}/jina-deepsearch-v1`);

  await told(`${upstream} embeddings`, async () => {
    const { embeddings } = await embedMany({ model: openai.embeddingModel(embedder), values: texts });
    same(embeddings, await vectors(embedder));
  });

  await told(`${upstream} chat, its citations as sources`, async () => {
    const { text, sources, finishReason } = await generateText({ model, prompt: question });
    answers(text);
    assert.equal(sources[0].url, "https://almanac.example.org/tides");
    assert.equal(finishReason, "stop");
  });

  await told(`${upstream} chat streamed, its citations as sources`, async () => {
    let text = "";
    const sources = [];
    const result = streamText({ model, prompt: question, maxRetries: 0 });
    for await (const part of result.fullStream) {
      if (part.type === "text-delta") text += part.text;
      if (part.type === "source") sources.push(part.url);
      assert.notEqual(part.type, "error");
    }
    answers(text);
    assert.deepEqual(sources, ["https://almanac.example.org/tides"]);
    assert.equal(await result.finishReason, "stop");
    assert.ok((await result.usage).outputTokens > 0);
  });

  await told(`${upstream} structured output`, async () => {
    const { output } = await generateText({
      model,
      prompt: question,
      output: Output.object({ schema: z.object({ answer: z.string() }) }),
    });
    assert.ok(output.answer.length > 0);
  });

  await told(`${upstream} errors, with their message`, async () => {
    await fails(
      () => generateText({ model: openai.chat(`${upstream}/jina-embeddings-v3`), prompt: question, maxRetries: 0 }),
      (error) => {
        assert.ok(APICallError.isInstance(error));
        assert.equal(error.statusCode, 400);
        assert.match(error.message, /v1\/embeddings/);
      },
    );
  });

  await told(`${upstream} stream cut short`, async () => {
    const types = [];
    const prompt = `${question} sandbox:truncate`;
    for await (const part of streamText({ model, prompt, maxRetries: 0, onError: () => {} }).fullStream) {
      types.push(part.type);
    }
    assert.ok(types.includes("error"));
  });
}

await told("responses: the error names the way out", () =>
  fails(
    () => generateText({ model: openai("jina-deepsearch-v1"), prompt: question, maxRetries: 0 }),
    (error) => assert.match(error.message, /openai\.chat\("model"\)/),
  ),
);
