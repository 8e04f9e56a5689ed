import assert from "node:assert/strict";

import { Agent, OpenAIChatCompletionsModel, run, setTracingDisabled } from "@openai/agents";
import OpenAI from "openai";

import { answers, base, check, key, question, upstreams } from "./check.mjs";

setTracingDisabled(true);
const client = new OpenAI({ baseURL: base, apiKey: key, maxRetries: 0 });
const told = (what, work) => check("@openai/agents", what, work);

for (const upstream of upstreams) {
  const model = new OpenAIChatCompletionsModel(client, `${upstream}/jina-deepsearch-v1`);
  const agent = new Agent({ name: "Researcher", instructions: "Answer in one sentence.", model });

  await told(`${upstream} run`, async () => answers((await run(agent, question)).finalOutput));

  await told(`${upstream} run streamed`, async () => {
    const result = await run(agent, question, { stream: true });
    let text = "";
    for await (const event of result.toTextStream()) text += event;
    await result.completed;
    answers(text);
    assert.equal(result.finalOutput, text);
  });
}
