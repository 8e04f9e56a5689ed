"""The answers of POST /v1/chat/completions, whole and streamed, with what DeepSearch adds to OpenAI's form."""

from __future__ import annotations

from typing import Any

from ...core.types import Json
from .chat import QUESTION
from .exchanges import Exchange

STEP: Json = {
    "type": "object",
    "description": "A search or a visit of DeepSearch. `index` counts the steps of a run from 0.",
    "required": ["index", "type"],
    "properties": {
        "index": {"type": "integer", "minimum": 0},
        "type": {"enum": ["search", "visit"]},
        "query": {"type": "string", "description": "Of a search."},
        "url": {"type": "string", "description": "Of a visit."},
    },
}

CITATION: Json = {
    "type": "object",
    "description": "A source of the answer, and where in `content` it is cited.",
    "required": ["type", "url_citation"],
    "additionalProperties": True,
    "properties": {
        "type": {"const": "url_citation"},
        "url_citation": {
            "type": "object",
            "required": ["start_index", "end_index", "title", "url"],
            "additionalProperties": True,
            "properties": {
                "start_index": {
                    "type": "integer",
                    "minimum": 0,
                    "description": "The place of the footnote's mark `[^1]` in code points; 0 and 0 where it has none.",
                },
                "end_index": {"type": "integer", "minimum": 0},
                "title": {"type": "string"},
                "url": {"type": "string"},
                "exactQuote": {"type": "string", "description": "What the page says; from Jina."},
                "dateTime": {"type": "string", "description": "The page's date; from Jina."},
            },
        },
    },
}

SPOKEN: Json = {
    "content": {"type": ["string", "null"]},
    "reasoning_content": {
        "type": ["string", "null"],
        "description": "The thinking; absent in other modes of `x_reasoning`.",
    },
    "reasoning": {"type": ["string", "null"], "description": "The same, with `x_reasoning` reasoning."},
    "annotations": {"type": "array", "items": {"$ref": "#/components/schemas/Citation"}},
    "x_steps": {"type": "array", "items": {"$ref": "#/components/schemas/Step"}},
}

URLS: Json = {"type": "array", "items": {"type": "string"}}

EXTRAS: Json = {
    "visitedURLs": {
        **URLS,
        "description": "Pages that were found, up to `max_returned_urls`. From Jina, as all of these.",
    },
    "readURLs": {**URLS, "description": "Pages that were read."},
    "numURLs": {"type": "integer", "description": "How many pages were found."},
    "relatedImages": {**URLS, "description": "With `with_images`."},
}

USAGE: Json = {
    "type": ["object", "null"],
    "description": "The provider's counts as they are. DeepSearch's need not add up; it charges `total_tokens`.",
    "additionalProperties": True,
    "properties": {name: {"type": "integer"} for name in ("prompt_tokens", "completion_tokens", "total_tokens")},
}


def _answer(kind: str, holder: str, required: list[str]) -> Json:
    choice = {
        "type": "object",
        "required": ["index", holder],
        "additionalProperties": True,
        "properties": {
            "index": {"type": "integer"},
            holder: {
                "type": "object",
                "additionalProperties": True,
                "properties": {"role": {"type": "string"}, **SPOKEN},
            },
            "logprobs": {"type": ["object", "null"]},
            "finish_reason": {"type": ["string", "null"], "examples": ["stop"]},
        },
    }
    return {
        "type": "object",
        "required": ["id", "object", "model", "choices", *required],
        "additionalProperties": True,
        "properties": {
            "id": {"type": "string"},
            "object": {"const": kind},
            "created": {"type": "integer", "description": "Unix time in seconds."},
            "model": {"type": "string", "description": "The name that the caller used."},
            "system_fingerprint": {"type": ["string", "null"]},
            "choices": {"type": "array", "items": choice},
            "usage": {"$ref": "#/components/schemas/ChatUsage"},
            **EXTRAS,
        },
    }


COMPLETION = _answer("chat.completion", "message", ["usage"])
CHUNK: Json = {
    **_answer("chat.completion.chunk", "delta", []),
    "description": (
        "One event of a stream. The first has the role, the last with a choice has the only `finish_reason` and the "
        "fields `visitedURLs`, `readURLs`, `numURLs` and `relatedImages`. With `include_usage` one more comes, with "
        "`usage` and no choices; in all before it `usage` is null. Then comes `[DONE]`. A stream that fails ends with "
        "an event that holds the error envelope, and has no `[DONE]`. Comments (the line `: ping`) keep the "
        "connection open."
    ),
}

SCHEMAS: Json = {
    "ChatCompletion": COMPLETION,
    "ChatCompletionChunk": CHUNK,
    "ChatUsage": USAGE,
    "Citation": CITATION,
    "Step": STEP,
}

POST = "https://jina.ai/news/snippet-selection-and-url-ranking-in-deepsearch-deepresearch"
TITLE = "Snippet Selection and URL Ranking in DeepSearch/DeepResearch"


def _thought(text: str) -> Json:
    return {"content": text, "type": "think"}


# From Jina's DeepSearch page; the thoughts from AIHubMix's.
DELTAS: list[Json] = [
    {"role": "assistant", **_thought("<think>")},
    _thought("I need to find the latest blog post from Jina AI. "),
    {"type": "think", "query": "jina ai latest blog post"},
    {"type": "think", "url": POST},
    _thought("Let me read it."),
    _thought("</think>\n\n"),
    {
        "content": f'The latest blog post from Jina AI is titled "{TITLE}," published on March 12, 2025 [^1].\n\n'
        f"[^1]: Since our DeepSearch release on February 2nd 2025 we ve discovered two implementation details that "
        f"greatly improved quality [jina.ai]({POST})",
        "type": "text",
        "annotations": [
            {
                "type": "url_citation",
                "url_citation": {
                    "title": TITLE,
                    "exactQuote": "Since our DeepSearch release on February 2nd 2025, we've discovered two "
                    "implementation details that greatly improved quality.",
                    "url": POST,
                    "dateTime": "2025-03-13 06:48:01",
                },
            }
        ],
    },
]

LAST: Json = {
    "usage": {"prompt_tokens": 169670, "completion_tokens": 27285, "total_tokens": 196526},
    "visitedURLs": ["https://huggingface.co/jinaai/jina-embeddings-v3", "https://github.com/jina-ai/reader"],
    "readURLs": ["https://jina.ai/news", POST],
    "numURLs": 98,
}


def _asked(name: str, summary: str, **options: Any) -> Exchange:
    request = {"model": "jina-deepsearch-v1", "messages": [QUESTION], **options}
    return Exchange(name, summary, request, DELTAS, LAST)


WHOLE = (
    _asked("deepsearch", "DeepSearch, whole"),
    _asked("dropped", "DeepSearch, without its thinking", x_reasoning="drop"),
)
STREAMED = (
    _asked(
        "streamed",
        "DeepSearch, streamed",
        stream=True,
        stream_options={"include_usage": True},
        reasoning_effort="medium",
    ),
    _asked("think_tags", "DeepSearch, streamed, the thinking in the content", stream=True, x_reasoning="think_tags"),
)
