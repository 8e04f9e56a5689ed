import assert from "node:assert/strict";

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, Output, embed, embedMany, generateText, streamText } from "ai";
import { z } from "zod";

import { answers, base, check, fails, key, question, same, texts, thinks, upstreams, vectors } from "./check.mjs";

const torii = createOpenAICompatible({ name: "torii", baseURL: base, apiKey: key, includeUsage: true });
const structured = createOpenAICompatible({
  name: "torii",
  baseURL: base,
  apiKey: key,
  supportsStructuredOutputs: true,
});
const told = (what, work) => check("@ai-sdk/openai-compatible", what, work);

for (const upstream of upstreams) {
  const embedder = `${upstream}/jina-embeddings-v3`;
  const model = torii(`${upstream}/jina-deepsearch-v1`);
  const streamed = (prompt, options = {}) =>
    streamText({ model, prompt, maxRetries: 0, onError: () => {}, ...options });

  await told(`${upstream} embeddings`, async () => {
    const one = torii.embeddingModel(embedder);
    const { embeddings, usage } = await embedMany({ model: one, values: texts });
    same(embeddings, await vectors(embedder));
    assert.ok(usage.tokens > 0);
    same([(await embed({ model: one, value: texts[0] })).embedding], embeddings.slice(0, 1));
    const providerOptions = { torii: { dimensions: 256 } };
    const short = await embedMany({ model: one, values: texts, providerOptions });
    same(short.embeddings, await vectors(embedder, { dimensions: 256 }));
  });

  await told(`${upstream} chat, with its reasoning`, async () => {
    const { text, reasoningText, finishReason, usage } = await generateText({ model, prompt: question });
    answers(text);
    thinks(reasoningText);
    assert.equal(finishReason, "stop");
    assert.ok(usage.inputTokens > 0);
  });

  await told(`${upstream} chat streamed, with its reasoning`, async () => {
    const result = streamed(question);
    let [text, reasoning, finish] = ["", "", ""];
    for await (const part of result.fullStream) {
      if (part.type === "text-delta") text += part.text;
      if (part.type === "reasoning-delta") reasoning += part.text;
      if (part.type === "finish") finish = part.finishReason;
      assert.notEqual(part.type, "error");
    }
    answers(text);
    thinks(reasoning);
    assert.equal(finish, "stop");
    assert.ok((await result.usage).outputTokens > 0);
  });

  await told(`${upstream} structured output`, async () => {
    const { output } = await generateText({
      model: structured(`${upstream}/jina-deepsearch-v1`),
      prompt: question,
      output: Output.object({ schema: z.object({ answer: z.string() }) }),
    });
    assert.ok(output.answer.length > 0);
  });

  await told(`${upstream} errors, with their message`, async () => {
    await fails(
      () => embed({ model: torii.embeddingModel(embedder), value: "sandbox:balance", maxRetries: 0 }),
      (error) => {
        assert.ok(APICallError.isInstance(error));
        assert.equal(error.statusCode, 503);
        assert.match(error.message, /no balance left/);
      },
    );
  });

  await told(`${upstream} failure in a stream`, async () => {
    const parts = [];
    for await (const part of streamed(`${question} sandbox:deepsearch-error`).fullStream) parts.push(part);
    const failure = parts.find((part) => part.type === "error");
    assert.match(failure.error.message ?? String(failure.error), new RegExp(upstream));
  });

  await told(`${upstream} stream aborted`, async () => {
    const controller = new AbortController();
    const types = [];
    const result = streamed(`${question} sandbox:hang-mid-stream`, { abortSignal: controller.signal });
    for await (const part of result.fullStream) {
      types.push(part.type);
      if (part.type === "reasoning-delta") controller.abort();
    }
    assert.equal(types.at(-1), "abort");
  });
}
