"""OpenAI's message parts as inputs to embed or to rank."""

from __future__ import annotations

from typing import Any

from ..core.types import Json


def thing(part: Json) -> Json:
    """``{"text": ...}`` or ``{"image": ...}`` for a part of type text or image_url; any other part unchanged."""
    kind = part.get("type")
    if kind == "text" and isinstance(part.get("text"), str):
        return {"text": part["text"]}
    if kind == "image_url":
        image = part.get("image_url")
        url = image.get("url") if isinstance(image, dict) else image
        return {"image": url} if isinstance(url, str) else part
    return part


def text_of(item: Any) -> Any:
    """The text of an object that holds only a text, since all servers accept strings; any other input unchanged."""
    plain = thing(item) if isinstance(item, dict) else {}
    return plain["text"] if plain.keys() == {"text"} and isinstance(plain["text"], str) else item
