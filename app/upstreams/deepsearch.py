"""What DeepSearch takes: OpenAI's chat request in, the provider's out, checked before it costs anything.

Sources: jina-ai/node-DeepResearch (the open-source server), the DeepSearch page of jina.ai and
AIHubMix's Jina page. Both providers run the same server, so both are sent the same body.
"""

from __future__ import annotations

import binascii
import mimetypes
from base64 import b64decode
from collections.abc import Callable
from typing import Any

from ..errors import InvalidRequest, TooLarge
from ..names import not_one_of
from ..parameters import with_fate
from ..types import ChatCall, Json

PART_LIMIT = 10 * 1024 * 1024
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
# Where the server searches. It takes any other name for a place where nothing is found, and answers without a source.
PLACES = ("jina", "arxiv", "duck", "brave", "serper")
FILE_TYPES = ("application/pdf", "text/plain")
IMAGE_TYPES = ("image/png", "image/webp", "image/jpeg")

# Read by no version of the server, and some of them would only mislead: it takes
# max_completion_tokens for the budget of the whole research run, and then makes one attempt.
IGNORED = with_fate("chat", "dropped", "refused") | {"stream_options"}


def deepsearch_body(call: ChatCall) -> Json:
    """The provider's body, without the model.

    Raises InvalidRequest naming the field, TooLarge for a part over 10 MB.
    """
    _refuse_impossible(call.body)
    body = {name: value for name, value in call.body.items() if value is not None and name not in IGNORED}
    for name, value in body.items():
        if check := PARAMETERS.get(name):
            body[name] = check(name, value)
    body["messages"] = _messages(body["messages"])
    _response_format(body)
    # Always streamed: a DeepSearch run outlasts the 100 seconds after which proxies give up on a silent answer (524).
    return {**body, "stream": True}


def _refuse_impossible(body: Json) -> None:
    for name in ("tools", "functions"):
        if body.get(name):
            raise InvalidRequest(
                f"DeepSearch cannot call {name}: it searches and reads by itself. Leave {name!r} out, or ask for JSON "
                "with response_format json_schema instead",
                param=name,
            )
    if body.get("n") not in (None, 1):
        raise InvalidRequest("DeepSearch gives one answer: n must be 1", param="n")
    if body.get("modalities") not in (None, [], ["text"]):
        raise InvalidRequest('DeepSearch answers in text: modalities must be ["text"]', param="modalities")
    if body.get("moderation"):
        raise InvalidRequest("DeepSearch has no moderation of a call: leave 'moderation' out", param="moderation")


# The parameters, each with the check that gives the value as the provider wants it.


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
    # The server calls .map on it: anything but a list comes back as an error with status 200.
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
    """Of a caller's body that was checked. The server takes ``max_annotations`` 0 for 1, so none are left out here."""
    return str(body.get("max_annotations")).strip("0") != ""


def _response_format(body: Json) -> None:
    """Unwraps OpenAI's envelope: the server compiles ``json_schema`` itself as the schema."""
    form = body.get("response_format")
    if form is None or (isinstance(form, dict) and form.get("type") == "text"):
        body.pop("response_format", None)
        return
    if not isinstance(form, dict) or form.get("type") not in ("json_schema", "json_object"):
        raise InvalidRequest("response_format.type must be one of text, json_schema", param="response_format")
    schema = form.get("json_schema")
    if isinstance(schema, dict) and isinstance(schema.get("schema"), dict):
        schema = schema["schema"]
    if form["type"] == "json_schema" and not isinstance(schema, dict):
        raise InvalidRequest("response_format.json_schema.schema must be an object", param="response_format")
    if not isinstance(schema, dict):  # the server does nothing with a bare json_object, and answers in prose
        raise InvalidRequest(
            "DeepSearch answers in JSON by a schema only: in place of json_object send response_format "
            '{"type": "json_schema", "json_schema": {"name": ..., "schema": ...}}',
            param="response_format",
        )
    body["response_format"] = {"type": "json_schema", "json_schema": schema}


# Messages and their parts.


def _messages(messages: list[Any]) -> list[Json]:
    if not messages or not isinstance(messages[-1], dict) or messages[-1].get("role") != "user":
        raise InvalidRequest("DeepSearch answers the user: the last message must have role user", param="messages")
    if not messages[-1].get("content"):
        raise InvalidRequest("the last message has no content", param=f"messages[{len(messages) - 1}].content")
    return [_message(message, f"messages[{number}]") for number, message in enumerate(messages)]


def _message(message: Any, where: str) -> Json:
    role = message.get("role") if isinstance(message, dict) else None
    if role == "developer":
        role = "system"
    if role not in ("system", "user", "assistant"):
        raise InvalidRequest(
            f"{where}.role must be one of system, developer, user, assistant: DeepSearch has no tools",
            param=f"{where}.role",
        )
    content = message.get("content")
    if isinstance(content, list):
        content = [_part(part, f"{where}.content[{number}]") for number, part in enumerate(content)]
        if role == "system":
            content = " ".join(part["text"] for part in content if part.get("type") == "text")
    elif not isinstance(content, str | None):
        raise InvalidRequest(f"{where}.content must be a string or a list of parts", param=f"{where}.content")
    # Reasoning of earlier turns is not sent back, nor tool calls and the like, which the server does not know.
    return {"role": role, "content": content}


def _part(part: Any, where: str) -> Json:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind == "image_url":
        url = part.get("image_url")
        return _image(url.get("url") if isinstance(url, dict) else url, None, f"{where}.image_url")
    if kind == "image":
        return _image(part.get("image"), part.get("mimeType"), f"{where}.image")
    if kind == "file":
        return _file(part, where)
    raise InvalidRequest(
        f"{where}.type must be text, image_url or file (or the providers' image and file with data)",
        param=f"{where}.type",
    )


def _image(image: Any, mime: Any, where: str) -> Json:
    if not isinstance(image, str) or not image:
        raise InvalidRequest(f"{where} must be a URL or a data URI", param=where)
    if image.startswith(("http://", "https://")):
        return {"type": "image", "image": image, **({"mimeType": mime} if mime else {})}
    declared, data = _data_uri(image, where)
    mime = declared or mime or _sniff(data)
    if mime not in IMAGE_TYPES:
        raise InvalidRequest(
            f"{where} is {mime or 'of no known type'}; DeepSearch takes png, webp and jpeg", param=where
        )
    return {"type": "image", "image": f"data:{mime};base64,{data}", "mimeType": mime}


def _file(part: Json, where: str) -> Json:
    inner = part.get("file")
    if isinstance(inner, dict):
        if "file_data" not in inner:
            raise InvalidRequest(f"{where}.file needs file_data: the gateway keeps no uploads", param=f"{where}.file")
        given, mime, where = inner["file_data"], mimetypes.guess_type(str(inner.get("filename")))[0], f"{where}.file"
    else:
        given, mime, where = part.get("data"), part.get("mimeType"), f"{where}.data"
    if not isinstance(given, str) or not given:
        raise InvalidRequest(f"{where} must be a data URI", param=where)
    declared, data = _data_uri(given, where)
    mime = declared or mime
    if mime not in FILE_TYPES + IMAGE_TYPES:
        raise InvalidRequest(
            f"{where} is {mime or 'of no known type'}; DeepSearch takes pdf, txt, png, webp and jpeg",
            param=where,
        )
    return {"type": "file", "data": f"data:{mime};base64,{data}", "mimeType": mime}


def _data_uri(text: str, where: str) -> tuple[str | None, str]:
    """The declared type, if any, and the base64 text, whose content is checked and measured."""
    declared = None
    if text.startswith("data:"):
        head, comma, text = text[5:].partition(",")
        if not comma or not head.endswith(";base64"):
            raise InvalidRequest(f"{where} must be a data URI in base64: data:<type>;base64,<data>", param=where)
        declared = head.partition(";")[0].lower() or None
    if len(text) > PART_LIMIT * 4 // 3 + 4:
        raise TooLarge(f"{where} is larger than the 10 MB that DeepSearch takes in one part", param=where)
    try:
        size = len(b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        raise InvalidRequest(f"{where} is not base64", param=where) from None
    if size > PART_LIMIT:
        raise TooLarge(f"{where} is larger than the 10 MB that DeepSearch takes in one part", param=where)
    return declared, text


def _sniff(data: str) -> str | None:
    for start, mime in (("iVBOR", "image/png"), ("/9j/", "image/jpeg"), ("UklGR", "image/webp")):
        if data.startswith(start):
            return mime
    return None
