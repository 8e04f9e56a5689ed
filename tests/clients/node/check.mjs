// Shared by all scripts here: the gateway's address, the requests, and the report of a finding to check.py.

import assert from "node:assert/strict";

export const root = process.env.TORII_ROOT; // without /v1
export const base = `${root}/v1`;
export const key = "any-key-will-do";
export const upstreams = ["jina", "aihubmix"];
export const question = "Why do tides happen?";
export const texts = ["The tide rises twice a day.", "Torii gates mark a shrine.", "Bread wants a long rise."];
export const documents = ["Bread wants a long rise.", "The Moon pulls on the sea, and tides rise.", "A gate of red wood."];

const SECONDS = 60;

// One finding, as a line for check.py. A check that never ends counts as failed.
export async function check(library, what, work) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not done after ${SECONDS} seconds`)), SECONDS * 1000);
  });
  let fault = null;
  try {
    await Promise.race([work(), late]);
  } catch (error) {
    fault = error instanceof Error ? error.stack : JSON.stringify(error);
  }
  clearTimeout(timer);
  console.log(JSON.stringify({ library, what, fault }));
}

// The vectors of `texts`, without a client library.
export async function vectors(model, options = {}) {
  const response = await fetch(`${base}/embeddings`, {
    method: "POST",
    body: JSON.stringify({ model, input: texts, ...options }),
  });
  return (await response.json()).data.map((item) => item.embedding);
}

// float32 in base64 and JSON's decimals differ in the last digits.
export function same(found, wanted) {
  assert.equal(found.length, wanted.length);
  for (const [row, vector] of wanted.entries()) {
    assert.equal(found[row].length, vector.length);
    assert.ok(vector.some((value) => value !== 0));
    for (const [column, value] of vector.entries()) assert.ok(Math.abs(found[row][column] - value) < 1e-6);
  }
}

// A DeepSearch answer: the text with its footnote, without any thinking.
export function answers(text) {
  assert.match(text, /Tides rise and fall because the Moon/);
  assert.match(text, /\[\^1\]/);
  assert.doesNotMatch(text, /<\/?think>/);
}

export function thinks(text) {
  assert.match(text, /search for why do tides happen/);
  assert.doesNotMatch(text, /<\/?think>/);
}

// An OpenAI citation, whose indexes are those of the marker in the answer.
export function cites(annotations, text) {
  const { type, url_citation: source } = annotations[0];
  assert.equal(type, "url_citation");
  assert.equal(source.url, "https://almanac.example.org/tides");
  assert.equal([...text].slice(source.start_index, source.end_index).join(""), "[^1]");
}

// The work must fail with an error that `wanted` accepts.
export async function fails(work, wanted) {
  let outcome;
  try {
    outcome = await work();
  } catch (error) {
    wanted(error);
    return;
  }
  assert.fail(`no error, but ${JSON.stringify(outcome)?.slice(0, 200)}`);
}
