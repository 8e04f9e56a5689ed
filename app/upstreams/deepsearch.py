"""Requests to DeepSearch: translates OpenAI's chat request to the provider's, and checks it before it costs anything.

Sources: jina-ai/node-DeepResearch (the open-source server), the DeepSearch page of jina.ai, AIHubMix's Jina page. Both
providers run the same server, so both get the same body.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..core.errors import InvalidRequest
from ..core.names import not_one_of
from ..core.parameters import with_fate
from ..core.types import ChatCall, Json, OnMismatch, SystemMessages
from . import schemas
from .deepsearch_messages import messages_of

EFFORTS = {
    "none": "low",
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "auto": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
}
# The server's search providers. Any other name finds nothing: the server then answers without sources.
PLACES = ("jina", "arxiv", "duck", "brave", "serper")

JSON_FORMS = ("json_schema", "json_object")  # both must have a schema
ENVELOPE = {"name", "description", "strict", "schema"}  # the fields of OpenAI's envelope around a schema

# Fields that the server does not read, or misreads: it takes max_completion_tokens for the budget of the whole research
# run, and then makes one attempt.
IGNORED = with_fate("chat", "dropped", "refused") | {"stream_options"}


@dataclass(frozen=True, slots=True)
class DeepSearchRules:
    """``system_messages``: how system messages are handled (see ``messages_of``). ``schema_mismatch``: whether an
    answer that does not fit the requested JSON schema is an error, or is passed through."""

    system_messages: SystemMessages = "fold"
    schema_mismatch: OnMismatch = "error"


def deepsearch_body(call: ChatCall, system: SystemMessages = "fold") -> Json:
    """The provider's body, without the model. ``system``: how system messages are handled (see ``messages_of``).

    Raises InvalidRequest, which names the field, and TooLarge for a part over 10 MB.
    """
    _refuse_impossible(call.body)
    body = {name: value for name, value in call.body.items() if value is not None and name not in IGNORED}
    for name, value in body.items():
        if check := PARAMETERS.get(name):
            body[name] = check(name, value)
    body["messages"] = messages_of(body["messages"], system)
    _response_format(body)
    # Always streamed: proxies give up after 100 seconds without data (524), and a DeepSearch run takes longer.
    return {**body, "stream": True}


def _refuse_impossible(body: Json) -> None:
    for name in ("tools", "functions"):
        if body.get(name):
            raise InvalidRequest(
                f"DeepSearch takes no {name}: it searches and reads by itself. Leave {name!r} out, or ask for JSON "
                "with response_format json_schema instead",
                param=name,
            )
    if body.get("n") not in (None, 1):
        raise InvalidRequest("DeepSearch gives one answer: n must be 1", param="n")
    if body.get("modalities") not in (None, [], ["text"]):
        raise InvalidRequest('DeepSearch answers in text: modalities must be ["text"]', param="modalities")
    if body.get("moderation"):
        raise InvalidRequest("DeepSearch does not support moderation: leave 'moderation' out", param="moderation")


# Each check returns a parameter's value in the provider's form, or raises InvalidRequest.


def _integer(least: int) -> Callable[[str, Any], int]:
    def check(name: str, value: Any) -> int:
        # Jina's own example sends max_returned_urls as the string "1".
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 18:
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InvalidRequest(f"{name} must be an integer of {least} or more", param=name)
        return value

    return check


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidRequest(f"{name} must be true or false", param=name)
    return value


def _string(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"{name} must be a string", param=name)
    return value


def _share(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InvalidRequest(f"{name} must be a number from 0 to 1", param=name)
    return value


def _hostnames(name: str, value: Any) -> list[str]:
    # The server calls .map on the value: for anything but a list, it answers an error with status 200.
    if not isinstance(value, list) or not all(isinstance(host, str) and host for host in value):
        raise InvalidRequest(f'{name} must be a list of host names, such as ["jina.ai"]', param=name)
    return value


def _effort(name: str, value: Any) -> str:
    effort = EFFORTS.get(value.strip().lower()) if isinstance(value, str) else None
    if effort is None:
        raise not_one_of(name, value, EFFORTS)
    return effort


def _place(name: str, value: Any) -> str:
    if value not in PLACES:
        raise not_one_of(name, value, PLACES)
    return str(value)


PARAMETERS: dict[str, Callable[[str, Any], Any]] = {
    "reasoning_effort": _effort,
    "budget_tokens": _integer(1),
    "max_attempts": _integer(1),
    "team_size": _integer(1),
    "max_returned_urls": _integer(0),
    "max_annotations": _integer(0),
    "min_annotation_relevance": _share,
    "no_direct_answer": _boolean,
    "with_images": _boolean,
    "boost_hostnames": _hostnames,
    "bad_hostnames": _hostnames,
    "only_hostnames": _hostnames,
    "search_provider": _place,
    "search_language_code": _string,
    "language_code": _string,
}


def wants_citations(body: Json) -> bool:
    """False if a checked body has ``max_annotations`` 0: the server reads 0 as 1, so the gateway drops citations."""
    return str(body.get("max_annotations")).strip("0") != ""


def schema_of(body: Json) -> Json | None:
    """The JSON schema in a caller's body, bare or in OpenAI's envelope; None if there is none."""
    form = body.get("response_format")
    schema = form.get("json_schema") if isinstance(form, dict) and form.get("type") in JSON_FORMS else None
    if isinstance(schema, dict) and (isinstance(schema.get("schema"), dict) or _is_envelope(schema)):
        schema = schema.get("schema")
    return schema if isinstance(schema, dict) else None


def _is_envelope(schema: Json) -> bool:
    """True for OpenAI's envelope, even one without a schema: read as a schema, it would allow anything."""
    return schema.keys() <= ENVELOPE and schema.keys() != {"description"}


def _response_format(body: Json) -> None:
    """Replaces OpenAI's envelope by the schema in it: the server compiles the value of ``json_schema`` as a schema."""
    form = body.get("response_format")
    if form is None or (isinstance(form, dict) and form.get("type") == "text"):
        body.pop("response_format", None)
        return
    if not isinstance(form, dict) or form.get("type") not in JSON_FORMS:
        raise InvalidRequest("response_format.type must be one of text, json_schema", param="response_format")
    schema = schema_of(body)
    if schema is None and (form["type"] == "json_schema" or form.get("json_schema") is not None):
        raise InvalidRequest("response_format.json_schema.schema must be an object", param="response_format")
    if schema is None:  # the server ignores json_object without a schema, and answers in prose
        raise InvalidRequest(
            "DeepSearch supports JSON by schema only: instead of json_object, send response_format "
            '{"type": "json_schema", "json_schema": {"name": ..., "schema": ...}}',
            param="response_format",
        )
    schemas.check(schema, "response_format.json_schema")
    body["response_format"] = {"type": "json_schema", "json_schema": schema}
