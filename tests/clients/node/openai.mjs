import assert from "node:assert/strict";

import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

import { answers, base, check, cites, fails, key, question, same, texts, thinks, upstreams, vectors } from "./check.mjs";

const client = new OpenAI({ baseURL: base, apiKey: key, maxRetries: 0 });
const messages = [{ role: "user", content: question }];
const told = (what, work) => check("openai", what, work);

for (const upstream of upstreams) {
  const embedder = `${upstream}/jina-embeddings-v3`;
  const searcher = `${upstream}/jina-deepsearch-v1`;

  for (const options of [{}, { encoding_format: "float" }, { encoding_format: "base64" }, { dimensions: 256 }]) {
    await told(`${upstream} embeddings ${JSON.stringify(options)}`, async () => {
      const reply = await client.embeddings.create({ model: embedder, input: texts, ...options });
      assert.equal(reply.model, embedder);
      assert.ok(reply.usage.prompt_tokens > 0);
      const found = reply.data.map(({ embedding }) => (typeof embedding === "string" ? unpacked(embedding) : embedding));
      same(found, await vectors(embedder, { dimensions: options.dimensions }));
      assert.equal(found[0].length, options.dimensions ?? 1024);
    });
  }

  await told(`${upstream} chat`, async () => {
    const { choices, usage } = await client.chat.completions.create({ model: searcher, messages });
    const { message, finish_reason: finish } = choices[0];
    answers(message.content);
    thinks(message.reasoning_content);
    cites(message.annotations, message.content);
    assert.equal(finish, "stop");
    assert.ok(usage.total_tokens > 0);
  });

  await told(`${upstream} chat streamed`, async () => {
    const stream = await client.chat.completions.create({
      model: searcher,
      messages,
      stream: true,
      stream_options: { include_usage: true },
    });
    const chunks = [];
    for await (const chunk of stream) chunks.push(chunk);
    const deltas = chunks.flatMap((chunk) => chunk.choices.map((choice) => choice.delta));
    const joined = (name) => deltas.map((delta) => delta[name] ?? "").join("");
    answers(joined("content"));
    thinks(joined("reasoning_content"));
    cites(deltas.find((delta) => delta.annotations).annotations, joined("content"));
    const ends = chunks.flatMap((chunk) => chunk.choices.map((choice) => choice.finish_reason)).filter(Boolean);
    assert.deepEqual(ends, ["stop"]);
    assert.deepEqual(chunks.at(-1).choices, []);
    assert.ok(chunks.at(-1).usage.total_tokens > 0);
    assert.equal(new Set(chunks.map((chunk) => chunk.id)).size, 1);
  });

  await told(`${upstream} stream helper`, async () => {
    const stream = client.chat.completions.stream({ model: searcher, messages });
    answers(await stream.finalContent());
    assert.equal((await stream.finalChatCompletion()).choices[0].finish_reason, "stop");
  });

  await told(`${upstream} structured output`, async () => {
    const form = z.object({ answer: z.string(), sources: z.array(z.string()) });
    const { choices } = await client.chat.completions.parse({
      model: searcher,
      messages,
      response_format: zodResponseFormat(form, "findings"),
    });
    assert.ok(form.parse(choices[0].message.parsed).answer.length > 0);
  });

  await told(`${upstream} picture in the question`, async () => {
    const pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==";
    const content = [
      { type: "text", text: question },
      { type: "image_url", image_url: { url: `data:image/png;base64,${pixel}` } },
    ];
    const { choices } = await client.chat.completions.create({ model: searcher, messages: [{ role: "user", content }] });
    assert.match(choices[0].message.content, /image\/png/);
  });

  await told(`${upstream} errors, typed and with their message`, async () => {
    const embed = (input, model = embedder) => () => client.embeddings.create({ model, input });
    await fails(embed([]), (error) => {
      assert.ok(error instanceof OpenAI.BadRequestError);
      assert.equal(error.param, "input");
      assert.match(error.message, /nothing to embed/);
    });
    await fails(embed("text", `${upstream}/no-such-model`), (error) => {
      assert.ok(error instanceof OpenAI.NotFoundError);
      assert.equal(error.code, "model_not_found");
    });
    await fails(embed("sandbox:429"), (error) => {
      assert.ok(error instanceof OpenAI.RateLimitError);
      assert.ok(error.headers.get("retry-after"));
    });
    await fails(embed("sandbox:401"), (error) => {
      assert.ok(error instanceof OpenAI.InternalServerError);
      assert.equal(error.code, "upstream_auth");
    });
  });

  await told(`${upstream} failure in a stream`, async () => {
    const stream = await client.chat.completions.create({
      model: searcher,
      messages: [{ role: "user", content: `${question} sandbox:deepsearch-error` }],
      stream: true,
    });
    await fails(
      async () => {
        for await (const chunk of stream) assert.ok(chunk.choices);
      },
      (error) => {
        assert.ok(error instanceof OpenAI.APIError);
        assert.match(error.message, new RegExp(upstream));
      },
    );
  });

  await told(`${upstream} stream aborted`, async () => {
    const stream = await client.chat.completions.create({
      model: searcher,
      messages: [{ role: "user", content: `${question} sandbox:hang-mid-stream` }],
      stream: true,
    });
    let count = 0;
    for await (const chunk of stream) {
      assert.ok(chunk.id);
      count += 1;
      if (count === 3) stream.controller.abort();
    }
    assert.ok(count >= 3);
  });
}

await told("jina stream of another model", async () => {
  const stream = await client.chat.completions.create({ model: "jina/jina-vlm", messages, stream: true });
  let text = "";
  for await (const chunk of stream) text += chunk.choices[0]?.delta.content ?? "";
  assert.match(text, /Moon/);
});

await told("aihubmix tool call of another model", async () => {
  const parameters = { type: "object", properties: { place: { type: "string" } }, required: ["place"] };
  const { choices } = await client.chat.completions.create({
    model: "aihubmix/gpt-4o-mini",
    messages,
    tools: [{ type: "function", function: { name: "tide_table", parameters } }],
  });
  assert.equal(choices[0].finish_reason, "tool_calls");
  assert.equal(choices[0].message.tool_calls[0].function.name, "tide_table");
});

await told("models", async () => {
  const { data } = await client.models.list();
  assert.ok(data.some((model) => model.id === "jina-reranker-m0"));
  const model = await client.models.retrieve("jina-embeddings-v3");
  assert.deepEqual([model.object, model.dimensions], ["model", 1024]);
  await fails(
    () => client.models.retrieve("jina/../secret"),
    (error) => assert.ok(error instanceof OpenAI.NotFoundError),
  );
});

await told("responses: the error names the way out", () =>
  fails(
    () => client.responses.create({ model: "jina-deepsearch-v1", input: question }),
    (error) => {
      assert.ok(error instanceof OpenAI.NotFoundError);
      assert.match(error.message, /chat completions/);
    },
  ),
);

function unpacked(base64) {
  const bytes = Uint8Array.from(Buffer.from(base64, "base64"));
  return [...new Float32Array(bytes.buffer)];
}
