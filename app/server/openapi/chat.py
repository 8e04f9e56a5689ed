"""POST /v1/chat/completions: what a caller may send. Its answers are in ``completions``."""

from __future__ import annotations

from typing import Any

from ...core.types import Json
from ...endpoints.chat import MODES, Chat
from ...upstreams.deepsearch import EFFORTS, IGNORED, PLACES, deepsearch_body
from .exchanges import Refusal
from .schema import option


def _hostnames(words: str) -> Json:
    return option("array", words, items={"type": "string", "minLength": 1}, examples=[["jina.ai"]])


def _part(kind: str, words: str, **properties: Any) -> Json:
    return {
        "title": kind,
        "type": "object",
        "required": ["type", *(name for name in properties if name != "mimeType")],
        "description": words,
        "additionalProperties": True,
        "properties": {"type": {"const": kind}, **properties},
    }


STRING: Json = {"type": "string"}
IMAGES = "DeepSearch takes png, webp and jpeg"

PART: Json = {
    "description": "A part of a message. At DeepSearch it has at most 10 MB; other types are for other models.",
    "anyOf": [
        _part("text", "A text.", text=STRING),
        _part(
            "image_url",
            f"A picture in OpenAI's form, as a URL or a data URI. {IMAGES}.",
            image_url={
                "type": "object",
                "required": ["url"],
                "additionalProperties": True,
                "properties": {"url": STRING},
            },
        ),
        _part(
            "image",
            f"A picture in the providers' form, as a URL or a data URI. {IMAGES}.",
            image=STRING,
            mimeType=STRING,
        ),
        _part(
            "file",
            "A file in OpenAI's form: `file_data` is a data URI. DeepSearch takes pdf and txt.",
            file={
                "type": "object",
                "additionalProperties": True,
                "properties": {"file_data": STRING, "filename": STRING},
            },
        ),
        _part("file", "A file in the providers' form, as a data URI.", data=STRING, mimeType=STRING),
        {"title": "of other models", "type": "object", "required": ["type"], "additionalProperties": True},
    ],
}

MESSAGE: Json = {
    "type": "object",
    "required": ["role"],
    "additionalProperties": True,
    "properties": {
        "role": {
            "type": "string",
            "description": "DeepSearch takes system, developer, user and assistant; the last message must be of user.",
            "examples": ["user"],
        },
        "content": {
            "anyOf": [
                STRING,
                {"type": "array", "items": {"$ref": "#/components/schemas/ContentPart"}},
                {"type": "null"},
            ]
        },
    },
}

RESPONSE_FORMAT: Json = {
    "type": ["object", "null"],
    "description": (
        "`json_schema` makes DeepSearch answer in JSON: OpenAI's envelope or the schema alone under `json_schema`. "
        "`json_object` without a schema is a 400 there."
    ),
    "required": ["type"],
    "additionalProperties": True,
    "properties": {
        "type": {"type": "string", "examples": ["text", "json_schema", "json_object"]},
        "json_schema": {
            "type": "object",
            "additionalProperties": True,
            "properties": {"name": STRING, "strict": {"type": ["boolean", "null"]}, "schema": {"type": "object"}},
        },
    },
}

GENERAL: Json = {
    "model": {
        "type": "string",
        "description": "A name of `GET /v1/models`, or any other that a provider serves.",
        "examples": ["jina-deepsearch-v1"],
    },
    "messages": {"type": "array", "minItems": 1, "items": {"$ref": "#/components/schemas/ChatMessage"}},
    "stream": option("boolean", "Whether the answer comes as server-sent events, while it is made.", default=False),
    "stream_options": {
        "type": ["object", "null"],
        "additionalProperties": True,
        "properties": {
            "include_usage": option("boolean", "A last chunk with the usage and no choices; without it there is none.")
        },
    },
    "response_format": RESPONSE_FORMAT,
    "x_reasoning": {
        "description": (
            "Where DeepSearch's thinking goes: into the fields `reasoning_content` or `reasoning`, into the content "
            "between `<think>` and `</think>`, or nowhere. The default is the gateway's setting, `reasoning_content` "
            "where nothing else is set. Never sent to a provider."
        ),
        "enum": [*MODES, None],
    },
}

DEEPSEARCH: Json = {
    "reasoning_effort": {
        "description": (
            "How much DeepSearch may do: low is a budget of 100,000 tokens and one attempt, medium 500,000 and two, "
            "high 1,000,000 and four. The default is medium, also called `auto`. `none` and `minimal` mean low, "
            "`xhigh` and `max` mean high, in any letter case. Other models may know other values."
        ),
        "anyOf": [{"type": "string", "enum": list(EFFORTS)}, {"type": ["string", "null"]}],
    },
    "budget_tokens": option(
        "integer",
        "The most tokens of the whole run: searching, reading, thinking. When they are used up, the best answer so far "
        "is given. The default is that of `reasoning_effort`.",
        minimum=1,
    ),
    "max_attempts": option(
        "integer",
        "How often an answer may be made before one that failed DeepSearch's own checks is given. "
        "The default is that of `reasoning_effort`.",
        minimum=1,
    ),
    "team_size": option(
        "integer",
        "How many agents work on parts of the question side by side. They share `budget_tokens`; each has its own "
        "`max_attempts`. The default is 1.",
        minimum=1,
    ),
    "no_direct_answer": option(
        "boolean", "Searches even where the model thinks that it knows the answer. The default is false."
    ),
    "max_returned_urls": {
        "type": ["integer", "string", "null"],
        "minimum": 0,
        "pattern": "^[0-9]{1,18}$",
        "description": "How many of the pages found are in `visitedURLs`. The default is 100.",
    },
    "max_annotations": option("integer", "The most sources that an answer names. The default is 10.", minimum=0),
    "min_annotation_relevance": option(
        "number", "How near a source must be to what it is cited for. The default is 0.8.", minimum=0, maximum=1
    ),
    "with_images": option("boolean", "Looks for pictures too, and gives them in `relatedImages`."),
    "boost_hostnames": _hostnames("Hosts whose pages are read first."),
    "bad_hostnames": _hostnames("Hosts whose pages are never read."),
    "only_hostnames": _hostnames(
        "The only hosts whose pages are read. Where the search finds none of them, nothing is read."
    ),
    "search_provider": option(
        "string",
        f"Where to search: {', '.join(PLACES)}. `arxiv` reads there alone.",
        examples=["arxiv"],
    ),
    "search_language_code": option(
        "string", "The language of the searches. Otherwise DeepSearch chooses.", examples=["en"]
    ),
    "language_code": option("string", "The language of the answer. Otherwise that of the question.", examples=["de"]),
}

REFUSED: Json = {
    "tools": option("array", "For models that call tools. DeepSearch does not: a 400."),
    "functions": option("array", "The same, in OpenAI's older form."),
    "n": option("integer", "For models that give several answers. At DeepSearch only 1: else a 400.", minimum=1),
    "modalities": option("array", "For models that speak. At DeepSearch only `text`: else a 400.", items=STRING),
    "moderation": option("object", "For OpenAI's models. At DeepSearch a 400."),
}

REQUEST: Json = {
    "type": "object",
    "description": (
        "Whatever else OpenAI's API or a model knows goes through to that model. DeepSearch reads none of these, so "
        f"they are not sent to it: {', '.join(f'`{name}`' for name in sorted(IGNORED - REFUSED.keys()))}."
    ),
    "required": ["model", "messages"],
    "additionalProperties": True,
    "properties": {**GENERAL, **DEEPSEARCH, **REFUSED},
}

SCHEMAS: Json = {"ChatRequest": REQUEST, "ChatMessage": MESSAGE, "ContentPart": PART}

QUESTION: Json = {"role": "user", "content": "what's the latest blog post from jina ai?"}
PDF = "data:application/pdf;base64,JVBERi0xLjQKJcOkw7zDtsOfCg=="

REQUESTS: Json = {
    "vision": {
        "summary": "A picture, a file and a question",
        "value": {
            "model": "jina-deepsearch-v1",
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "what's in this file, and who took the picture?"},
                        {"type": "file", "file": {"filename": "report.pdf", "file_data": PDF}},
                        {"type": "image_url", "image_url": {"url": "https://i.ibb.co/nQNGqL0/beach1.jpg"}},
                    ],
                }
            ],
            "stream": True,
        },
    },
    "structured": {
        "summary": "An answer in JSON",
        "value": {
            "model": "jina-deepsearch-v1",
            "messages": [QUESTION],
            "response_format": {
                "type": "json_schema",
                "json_schema": {
                    "name": "post",
                    "strict": True,
                    "schema": {
                        "type": "object",
                        "properties": {"title": {"type": "string"}, "url": {"type": "string"}},
                        "required": ["title", "url"],
                    },
                },
            },
        },
    },
    "sources": {
        "summary": "A thorough search, with its sources chosen",
        "value": {
            "model": "jina-deepsearch-v1",
            "messages": [{"role": "user", "content": "What is new in late interaction retrieval?"}],
            "stream": True,
            "budget_tokens": 300000,
            "max_attempts": 2,
            "team_size": 2,
            "no_direct_answer": True,
            "search_provider": "arxiv",
            "search_language_code": "en",
            "language_code": "de",
            "boost_hostnames": ["arxiv.org"],
            "bad_hostnames": ["x.com"],
            "max_returned_urls": 20,
            "max_annotations": 5,
            "min_annotation_relevance": 0.85,
        },
    },
}

# Not in the way of DeepSearch's checks, which it would not pass.
OTHER_MODEL: Json = {
    "summary": "Another model of a provider, with a tool",
    "value": {
        "model": "aihubmix/gpt-4o-mini",
        "messages": [{"role": "user", "content": "What is the weather in Berlin?"}],
        "temperature": 0.2,
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "weather",
                    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
                },
            }
        ],
    },
}


def searched(body: Json) -> object:
    """The body that DeepSearch is sent. Raises InvalidRequest."""
    return deepsearch_body(Chat().parse(body, "/v1/chat/completions"))


DEEPSEARCH_QUESTION: Json = {"model": "jina-deepsearch-v1", "messages": [QUESTION]}

REFUSALS = (
    Refusal(
        "tools",
        "What DeepSearch cannot do",
        {**DEEPSEARCH_QUESTION, "tools": [{"type": "function", "function": {"name": "weather"}}]},
        searched,
    ),
    Refusal("hostnames", "An option of the wrong type", {**DEEPSEARCH_QUESTION, "only_hostnames": "jina.ai"}, searched),
    Refusal("reasoning", "A place that there is not", {**DEEPSEARCH_QUESTION, "x_reasoning": "content"}, searched),
    Refusal(
        "last_message",
        "Nothing asked",
        {"model": "jina-deepsearch-v1", "messages": [{"role": "assistant", "content": "Hi, how can I help you?"}]},
        searched,
    ),
)
