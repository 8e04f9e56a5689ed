"""POST /v1/embeddings, in the request forms of OpenAI, Jina and AIHubMix; answers in the requested encoding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec
from msgspec.structs import replace

from ..core.errors import InvalidRequest, UpstreamFailed
from ..core.names import not_one_of
from ..core.replies import EmbeddingsReply
from ..core.types import EMBEDDINGS, Call, EmbeddingsCall, Encoding, Json
from ..core.vectors import Vector, encoded, field_of
from .endpoint import Endpoint, Options
from .fields import given, model_of, total_usage, unsent, usage_shown, whole_number
from .token_ids import decoder_or_none

# The four names of the encoding option; the first one given wins. OpenAI's encoding_format comes last, because its
# SDKs add it as "base64" unasked. LlamaIndex always sends encoding_type; Jina has embedding_type, AIHubMix's page
# embedding_format.
SPELLINGS = ("embedding_type", "encoding_type", "embedding_format", "encoding_format")
ENCODINGS: dict[str, Encoding] = {
    "float": "float",
    "base64": "base64",
    "binary": "binary",
    "ubinary": "ubinary",
    "binary_int8": "binary",
    "binary_uint8": "ubinary",
    "int8": "binary",
    "uint8": "ubinary",
}

UNSENT = unsent("embeddings").union(SPELLINGS)

Decode = Callable[[list[int]], str]


@dataclass(frozen=True, slots=True)
class Embeddings(Endpoint):
    """The embeddings endpoint. ``decode_tokens`` decodes token ids to text; without it, token ids are a 400."""

    facts: ClassVar = EMBEDDINGS
    paths: ClassVar = ("/v1/embeddings",)

    decode_tokens: Decode | None = None

    @classmethod
    def configured(cls, options: Options) -> Embeddings:
        return cls(decoder_or_none(options.token_encoding))

    def parse(self, body: Json, path: str) -> EmbeddingsCall:
        encoding = _encoding(body)
        body = given(body, UNSENT)
        model = model_of(body)
        body["input"] = self._inputs(body)
        if "dimensions" in body:
            whole_number("dimensions", body["dimensions"])
        return EmbeddingsCall(model=model, body=body, encoding=encoding)

    def split(self, call: EmbeddingsCall, cap: int | None) -> list[Call]:
        inputs = call.body["input"]
        if cap is None or len(inputs) <= cap:
            return [call]
        if call.body.get("late_chunking"):
            raise InvalidRequest(
                f"late_chunking reads all inputs as one text, so the call cannot be split, and {call.model} takes "
                f"at most {cap} inputs; this call has {len(inputs)}",
                param="input",
            )
        parts = (inputs[start : start + cap] for start in range(0, len(inputs), cap))
        return [replace(call, body={**call.body, "input": part}) for part in parts]

    def merge(self, call: EmbeddingsCall, replies: list[EmbeddingsReply]) -> EmbeddingsReply:
        """The parts' replies as one. Raises UpstreamFailed if the vectors do not match the inputs or each other."""
        if len(replies) == 1:
            return replies[0]
        data = [item for reply in replies for item in reply["data"]]
        inputs = call.body["input"]
        if len(data) != len(inputs):
            raise UpstreamFailed(f"{len(data)} vectors were returned for {len(inputs)} inputs")
        _same_shape(data)
        data = [{**item, "index": place} for place, item in enumerate(data)]
        return {**replies[0], "data": data, "usage": total_usage([reply["usage"] for reply in replies])}

    def render(self, call: EmbeddingsCall, reply: EmbeddingsReply) -> bytes:
        data = [_item(item, call.encoding) for item in reply["data"]]
        usage = usage_shown(reply["usage"])
        return msgspec.json.encode({**reply, "object": "list", "model": call.model, "data": data, "usage": usage})

    def _inputs(self, body: Json) -> list[Any]:
        if body.get("input") is None:
            raise InvalidRequest(_missing_input(body), param="input")
        given = body["input"]
        if isinstance(given, str | dict) or _is_tokens(given):
            return [self._input(given, "input")]
        if not isinstance(given, list):
            raise InvalidRequest(f"input must be {FORMS}", param="input")
        if not given:
            raise InvalidRequest("input is an empty list: there is nothing to embed", param="input")
        if set(map(type, given)) == {str} and all(given):
            return given
        return [self._input(item, f"input[{place}]") for place, item in enumerate(given)]

    def _input(self, item: Any, place: str) -> Any:
        if _is_tokens(item):
            return self._text(item, place)
        if isinstance(item, dict):
            if not item or item.get("text") == "":
                raise InvalidRequest(f"{place} is empty: there is nothing to embed", param="input")
            return item
        if not isinstance(item, str):
            raise InvalidRequest(f"{place} must be a string, an object or a list of token ids", param="input")
        if not item:
            raise InvalidRequest(f"{place} is an empty string: there is nothing to embed", param="input")
        return item

    def _text(self, tokens: list[int], place: str) -> str:
        if self.decode_tokens is None:
            raise InvalidRequest(
                f"{place} holds token ids, which Jina's models do not read. Send the text (with LangChain: "
                "OpenAIEmbeddings(check_embedding_ctx_length=False)), or let the gateway decode the token ids: "
                "in the checkout, pip install '.[tokens]'",
                param="input",
            )
        try:
            return self.decode_tokens(tokens)
        except InvalidRequest as error:
            raise InvalidRequest(f"{place}: {error.message}", param="input") from None


FORMS = "a string, an object such as {'text': ...} or {'image': ...}, a list of these, or lists of token ids"


def _same_shape(data: list[Json]) -> None:
    """Raises UpstreamFailed if the vectors differ in size: two upstreams may have answered the parts."""
    shapes = {item[field_of(item)].shape for item in data}
    if len(shapes) > 1:
        sizes = sorted(shapes, key=str)
        raise UpstreamFailed(f"the parts of the call returned vectors of different sizes: {sizes}")


def _is_tokens(item: Any) -> bool:
    return isinstance(item, list) and set(map(type, item)) == {int}


def _missing_input(body: Json) -> str:
    for field, path in (("messages", "/v1/chat/completions"), ("documents", "/v1/rerank"), ("query", "/v1/rerank")):
        if field in body:
            return f"input is missing. This looks like a request for POST {path}"
    return f"input is missing: send {FORMS}"


def _encoding(body: Json) -> Encoding:
    asked = [_one_encoding(field, body[field]) for field in SPELLINGS if body.get(field) is not None]
    return asked[0] if asked else "float"


def _one_encoding(field: str, value: Any) -> Encoding:
    if isinstance(value, list):
        if len(value) != 1:
            raise InvalidRequest(f"{field} must be one encoding, not {len(value)}", param=field)
        value = value[0]
    if not isinstance(value, str) or value not in ENCODINGS:
        raise not_one_of(field, value, ENCODINGS)
    return ENCODINGS[value]


def _item(item: Json, encoding: Encoding) -> Json:
    item = {"object": "embedding", **item}
    vector = item[field := field_of(item)]
    item[field] = vector.encoded(encoding) if type(vector) is Vector else encoded(bytes(vector), encoding)
    return item
