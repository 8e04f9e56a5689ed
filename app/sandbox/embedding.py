"""Embeddings of inputs, the same at both providers."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, replace
from typing import Any

from . import vectors
from .models import Embedder
from .vectors import Encoding, Features
from .wire import Json

IMAGE_TOKENS = 256
_PATCHES = 4
_DATA_URI = re.compile(r"data:([^;,]*)(?:;[^,]*)?,")
_IMAGES = ("image", "url", "bytes")
_KEYS = ("text", *_IMAGES, "pdf", "audio", "video", "content")


@dataclass(frozen=True, slots=True)
class Piece:
    """One input. ``words`` are its tokens, or names for the patches of an input that is not text."""

    features: Features
    words: list[str]
    kind: str = "text"

    @property
    def tokens(self) -> int:
        return len(self.words) if self.kind == "text" else IMAGE_TOKENS


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    size: int
    encoding: Encoding = "float"
    normalized: bool = True
    multivector: bool = False
    tokenized: bool = False


def read(value: Any) -> Piece:
    """An input of any kind. Raises ValueError if it is neither text, token ids nor an object with a known key, or
    not base64."""
    if isinstance(value, str):
        return Piece(vectors.features(value), vectors.tokens(value))
    if isinstance(value, list) and value and all(isinstance(token, int) for token in value):
        return Piece({f"w:#{token}": 1.0 for token in value}, [str(token) for token in value])
    if not isinstance(value, dict) or not value:
        raise ValueError("Input should be a valid string or object")
    key = next((key for key in _KEYS if key in value), next(iter(value)))
    inner = value[key]
    if key == "content" and isinstance(inner, list) and inner:
        return _fused([read(part) for part in inner])
    if not isinstance(inner, str):
        raise ValueError(f"{key} should be a valid string")
    return read(inner) if key == "text" else _media(key, inner)


def _media(key: str, value: str) -> Piece:
    kind = "image" if key in _IMAGES else key
    patches = [f"{kind} {number}" for number in range(_PATCHES)]
    if value.startswith(("http://", "https://")):
        return Piece(vectors.of_url(value), patches, kind)
    return Piece(vectors.of_bytes(decode(value)), patches, kind)


def decode(value: str) -> bytes:
    """Decode base64, bare or in a data URI. Raises ValueError."""
    try:
        data = base64.b64decode(_DATA_URI.sub("", value, count=1), validate=True)
    except binascii.Error as error:
        raise ValueError("Input is neither a URL nor valid base64") from error
    if not data:
        raise ValueError("Input is empty")
    return data


def mime_type(value: str) -> str:
    """The MIME type of a data URI, or ""."""
    found = _DATA_URI.match(value)
    return found.group(1) if found else ""


def _fused(parts: list[Piece]) -> Piece:
    fused: Features = {}
    for part in parts:
        for name, weight in part.features.items():
            fused[name] = fused.get(name, 0.0) + weight
    kinds = {part.kind for part in parts}
    return Piece(fused, [word for part in parts for word in part.words], kinds.pop() if len(kinds) == 1 else "image")


def items(model: Embedder, pieces: list[Piece], options: Options) -> list[Json]:
    """The ``data`` of the reply."""
    return [_item(model, piece, options, index) for index, piece in enumerate(pieces)]


def _item(model: Embedder, piece: Piece, options: Options, index: int) -> Json:
    if model.kind == "sparse":
        return {"object": "embedding", "index": index, "embedding": _sparse(piece)}
    if model.kind == "multivector" or options.multivector:
        item: Json = {
            "object": "embeddings",
            "index": index,
            "embeddings": [_vector(model, vectors.features(word), options) for word in piece.words],
        }
        return {**item, "tokenized_input": piece.words} if options.tokenized else item
    return {"object": "embedding", "index": index, "embedding": _vector(model, piece.features, options)}


def _vector(model: Embedder, features: Features, options: Options) -> Any:
    size = options.size
    full = model.size if not options.multivector else size
    return vectors.encoded(vectors.dense(features, size, full, normalized=options.normalized), options.encoding)


def _sparse(piece: Piece) -> dict[str, float]:
    return {name[2:]: round(weight, 6) for name, weight in piece.features.items() if name[0] in "wcs="}


def cut(piece: Piece, tokens: int) -> Piece:
    """The piece, cut to ``tokens`` tokens if it is text."""
    words = piece.words[:tokens]
    return replace(piece, words=words, features=vectors.features(" ".join(words))) if piece.kind == "text" else piece
