"""The question of a conversation: the text of its last user message, and its attachments."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from . import embedding

_TRIGGER = re.compile(r"sandbox:[a-z0-9-]+(?:@\w+)?")


@dataclass(frozen=True, slots=True)
class Attachment:
    """``size`` in bytes; None for a URL, which is never fetched."""

    kind: str
    mime_type: str
    size: int | None

    def __str__(self) -> str:
        size = "by URL" if self.size is None else f"{self.size} bytes"
        return f"{self.kind} ({self.mime_type or 'type unknown'}, {size})"


@dataclass(frozen=True, slots=True)
class Question:
    text: str
    attachments: tuple[Attachment, ...] = ()

    @property
    def topic(self) -> str:
        """The text without its triggers."""
        return _TRIGGER.sub("", self.text).strip()


def text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return " ".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))


def question(message: Any, *, openai_files: bool) -> Question:
    """The question in a message. Raises ValueError for a content part that no provider documents, and for data that
    is not base64."""
    content = message.get("content") if isinstance(message, dict) else None
    return Question(text_of(content), tuple(_attachment(part, openai_files) for part in attached(message)))


def overlooking(message: Any) -> Question:
    """A message as DeepSearch reads it: unsupported parts are ignored."""
    found = []
    for part in attached(message):
        with suppress(ValueError):
            found.append(_attachment(part, openai_files=False))
    return Question(text_of(message.get("content")), tuple(found))


def attached(message: Any) -> list[dict[str, Any]]:
    """The content parts that are not text."""
    content = message.get("content") if isinstance(message, dict) else None
    parts = content if isinstance(content, list) else []
    return [part for part in parts if isinstance(part, dict) and part.get("type") != "text"]


def _attachment(part: dict[str, Any], openai_files: bool) -> Attachment:
    kind, mime = part.get("type"), part.get("mimeType", "")
    if kind == "image_url" and isinstance(part.get("image_url"), dict):
        return _sized("image", part["image_url"].get("url"), mime)
    if kind == "image":
        return _sized("image", part.get("image"), mime)
    if openai_files and kind == "file" and isinstance(part.get("file"), dict):
        return _sized("file", part["file"].get("file_data"), mime)
    if kind == "file":
        return _sized("file", part.get("data"), mime)
    raise ValueError(f"Unsupported content part: {kind}")


def _sized(kind: str, value: Any, mime: str) -> Attachment:
    if not isinstance(value, str) or not value:
        raise ValueError(f"The {kind} part has no data")
    if value.startswith(("http://", "https://")):
        return Attachment(kind, mime, None)
    return Attachment(kind, mime or embedding.mime_type(value), len(embedding.decode(value)))
