"""The messages of a DeepSearch call: translates OpenAI's messages to those that the server reads.

Source: jina-ai/node-DeepResearch. The server drops system messages. If a message has a part that the server does not
support in that role, it loses the question, and answers 200 to an empty one.
"""

from __future__ import annotations

import binascii
import mimetypes
import unicodedata
from base64 import b64decode
from collections.abc import Callable
from typing import Any

from ..core.errors import InvalidRequest, TooLarge
from ..core.types import Json, SystemMessages

PART_LIMIT = 10 * 1024 * 1024
FILE_TYPES = ("application/pdf", "text/plain")
IMAGE_TYPES = ("image/png", "image/webp", "image/jpeg")

INVISIBLE = ("Zs", "Zl", "Zp", "Cc", "Cf")  # Unicode categories: white space, control and format characters (U+200B)


def messages_of(messages: list[Any], system: SystemMessages = "fold") -> list[Json]:
    """The conversation in the server's form. The last message must be the user's question.

    ``system`` applies to system and developer messages: ``fold`` puts their text before the first user message,
    separated by an empty line; ``drop`` leaves it out, as the server would; ``refuse`` raises InvalidRequest for the
    first one that is not blank. Raises InvalidRequest, which names the message and its part, and TooLarge for a part
    over 10 MB.
    """
    if not messages or not isinstance(messages[-1], dict) or messages[-1].get("role") != "user":
        raise InvalidRequest("DeepSearch answers the user: the last message must have role user", param="messages")
    turns = [_message(message, f"messages[{number}]") for number, message in enumerate(messages)]
    if _is_blank(turns[-1]["content"]):
        where = f"messages[{len(messages) - 1}].content"
        raise InvalidRequest(f"{where} is blank: the last message is the question for DeepSearch", param=where)
    if system == "refuse":
        _refuse_system(turns)
    said = [turn["content"] for turn in turns if turn["role"] == "system" and not _is_blank(turn["content"])]
    turns = [turn for turn in turns if turn["role"] != "system"]
    if said and system == "fold":
        first = next(turn for turn in turns if turn["role"] == "user")
        first["content"] = _after("\n\n".join(said), first["content"])
    return turns


def _refuse_system(turns: list[Json]) -> None:
    for number, turn in enumerate(turns):
        if turn["role"] == "system" and not _is_blank(turn["content"]):
            raise InvalidRequest(
                f"messages[{number}] is a system message, which DeepSearch does not read; put its text into the user's "
                "(this gateway is set to deepsearch.system_messages: refuse)",
                param=f"messages[{number}].role",
            )


def _after(text: str, content: Any) -> Any:
    """The content of a user message with ``text`` before it."""
    if isinstance(content, list):
        return [{"type": "text", "text": text}, *content]
    return f"{text}\n\n{content}" if content else text


def _is_blank(content: Any) -> bool:
    if isinstance(content, list):
        return all(part["type"] == "text" and _is_blank(part["text"]) for part in content)
    return all(unicodedata.category(sign) in INVISIBLE for sign in content or "")


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
        content = [_part(part, f"{where}.content[{number}]", role) for number, part in enumerate(content)]
        if role == "system":
            content = " ".join(part["text"] for part in content)
    elif not isinstance(content, str | None):
        raise InvalidRequest(f"{where}.content must be a string or a list of parts", param=f"{where}.content")
    # The server reads no other fields: reasoning of earlier messages and tool calls are left out.
    return {"role": role, "content": content}


def _part(part: Any, where: str, role: str) -> Json:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind == "refusal" and role == "assistant" and isinstance(part.get("refusal"), str):
        return {"type": "text", "text": part["refusal"]}
    if kind not in MEDIA:
        raise InvalidRequest(
            f"{where}.type must be text, image_url or file (or the providers' image and file with data)",
            param=f"{where}.type",
        )
    if role != "user":
        # The server would lose the question, and answer 200 to an empty one.
        raise InvalidRequest(
            f"{where} is of type {kind}, which DeepSearch takes in a user's message only; this message has role {role}",
            param=where,
        )
    return MEDIA[kind](part, where)


def _image_url(part: Json, where: str) -> Json:
    url = part.get("image_url")
    return _image(url.get("url") if isinstance(url, dict) else url, None, f"{where}.image_url")


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
            f"{where} is {mime or 'of no known type'}; DeepSearch takes pdf, txt, png, webp and jpeg", param=where
        )
    return {"type": "file", "data": f"data:{mime};base64,{data}", "mimeType": mime}


def _data_uri(text: str, where: str) -> tuple[str | None, str]:
    """``(type, base64)`` of a data URI or of bare base64; the type is None if none is declared.

    Raises InvalidRequest for content that is empty or not base64, TooLarge for more than PART_LIMIT bytes.
    """
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
    if not size:
        raise InvalidRequest(f"{where} is empty: it has no data", param=where)
    if size > PART_LIMIT:
        raise TooLarge(f"{where} is larger than the 10 MB that DeepSearch takes in one part", param=where)
    return declared, text


def _sniff(data: str) -> str | None:
    for start, mime in (("iVBOR", "image/png"), ("/9j/", "image/jpeg"), ("UklGR", "image/webp")):
        if data.startswith(start):
            return mime
    return None


MEDIA: dict[str, Callable[[Json, str], Json]] = {
    "image_url": _image_url,
    "image": lambda part, where: _image(part.get("image"), part.get("mimeType"), f"{where}.image"),
    "file": _file,
}
