"""A tiny application beside Torii: every minute it finds which of three notes is nearest to a question.

It needs nothing but Python. It reads the two environment variables of the OpenAI SDKs, so `OpenAI()` would find the
gateway as well.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
import urllib.error
import urllib.request

MODEL = "jina-embeddings-v3"
QUESTION = "How do I bake bread with sourdough?"
NOTES = [
    "Sourdough bread wants a long rise before you bake it.",
    "The ferry to the island leaves at nine.",
    "Change the oil of the engine once a year.",
]


def embed(texts: list[str]) -> list[list[float]]:
    """One vector for each text."""
    request = urllib.request.Request(
        os.environ["OPENAI_BASE_URL"] + "/embeddings",
        data=json.dumps({"model": MODEL, "input": texts}).encode(),
        headers={
            "Authorization": "Bearer " + os.environ["OPENAI_API_KEY"],
            "Content-Type": "application/json",
        },
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return [item["embedding"] for item in json.load(response)["data"]]


def cosine(a: list[float], b: list[float]) -> float:
    return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def ask() -> str:
    question, *notes = embed([QUESTION, *NOTES])
    near, note = max((cosine(question, vector), note) for vector, note in zip(notes, NOTES, strict=True))
    return f"{QUESTION} -> {note} ({near:.2f})"


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        try:
            print(ask())
        except urllib.error.HTTPError as error:
            print(f"the gateway says {error.code}: {json.load(error)['error']['message']}")
        except urllib.error.URLError as error:
            print(f"the gateway is not there: {error.reason}")
        time.sleep(60)


if __name__ == "__main__":
    main()
