"""Texts and images as vectors: hashed words and character n-grams, no model.

Texts that share words, or parts of words, get similar vectors. The same text always gets the same vector, on every
machine. A shorter vector is a prefix of the longer one, as with the real models, which are trained for that.
"""

from __future__ import annotations

import base64
import itertools
import math
import re
import struct
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Literal

Features = dict[str, float]
Encoding = Literal["float", "base64", "binary", "ubinary"]

_MOST_BANDS = 16
CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_TOKENS = re.compile(rf"[{CJK}]|[^\W_{CJK}]+|[^\w\s]")
_RUNS = re.compile(rf"[{CJK}]+|[^\W_{CJK}]+")
_STOP = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be because by can do does for from has have how i in is it its me no not of on or s t tell "
        "that the their them there this to was what when where which who why will with you your about",
    )
)


def tokens(text: str) -> list[str]:
    """Words, single CJK characters and punctuation marks: the tokens that the stand-ins count."""
    return _TOKENS.findall(text)


def spans(text: str) -> list[int]:
    """The end of each of ``tokens`` in the text."""
    return [match.end() for match in _TOKENS.finditer(text)]


def features(text: str) -> Features:
    """Weighted features of a text; never empty."""
    found: Counter[str] = Counter()
    for run in _RUNS.findall(unicodedata.normalize("NFKC", text).casefold()):
        found.update(_cjk(run) if re.match(f"[{CJK}]", run) else _word(run))
    return {name: _weight(name) * (1 + math.log(count)) for name, count in found.items()} or {f"={text}": 1.0}


def _cjk(run: str) -> list[str]:
    return [f"c:{character}" for character in run] + [f"w:{run[at : at + 2]}" for at in range(len(run) - 1)]


def _word(run: str) -> list[str]:
    if run in _STOP:
        return [f"s:{run}"]
    padded = f"^{run}$"
    return [f"w:{run}"] + [f"g:{padded[at : at + 3]}" for at in range(len(padded) - 2)]


def _weight(name: str) -> float:
    return {"w": 1.0, "c": 0.5, "g": 0.3, "s": 0.1}.get(name[0], 1.0)


def of_bytes(data: bytes) -> Features:
    """The features of an image or a document, made from its digest."""
    digest = blake2b(data, digest_size=8).hexdigest()
    return {f"b:{digest}:{part}": 1.0 for part in range(8)}


def of_url(url: str) -> Features:
    """The features of a URL: its digest, and the words of its path at half weight."""
    words = features(re.sub(r"[\W\d_]+", " ", url.split("://")[-1].partition("/")[2]))
    return {**of_bytes(url.encode()), **{name: weight * 0.5 for name, weight in words.items()}}


def cosine(one: Features, other: Features) -> float:
    return _dot(one, other) / math.sqrt(_dot(one, one) * _dot(other, other))


def coverage(query: Features, text: Features) -> float:
    """The share of the query's weight whose features the text has, 0 to 1."""
    return sum(weight for name, weight in query.items() if name in text) / sum(query.values())


def _dot(one: Features, other: Features) -> float:
    return sum(weight * other[name] for name, weight in one.items() if name in other)


def dense(found: Features, size: int, full: int, *, normalized: bool = True) -> list[float]:
    """The first ``size`` numbers of the vector of length ``full``, scaled to norm 1 if ``normalized``.

    A feature adds to one of the first four numbers, one of the next four, one of the next eight, and so on, with more
    weight in wider bands. Every prefix of a vector is therefore meaningful.
    """
    vector = [0.0] * full
    bands = _bands(full)
    for name, weight in found.items():
        for (start, width), place in zip(bands, _places(name), strict=False):
            vector[start + (place >> 1) % width] += math.copysign(weight * math.sqrt(width), 0.5 - (place & 1))
    head = vector[:size]
    norm = math.sqrt(math.fsum(value * value for value in head)) if normalized else 1.0
    return [round(value / norm, 8) for value in head] if norm else [1.0] + [0.0] * (size - 1)


@lru_cache(maxsize=64)
def _bands(full: int) -> list[tuple[int, int]]:
    """Start and width of every band."""
    edges = [0, *(4 << step for step in range(_MOST_BANDS) if 4 << step < full), full]
    return [(start, end - start) for start, end in itertools.pairwise(edges)]


@lru_cache(maxsize=65536)
def _places(name: str) -> tuple[int, ...]:
    digest = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=2 * _MOST_BANDS).digest()
    return struct.unpack(f"<{_MOST_BANDS}H", digest)


def encoded(vector: Sequence[float], encoding: Encoding) -> Any:
    """The vector as ``float`` list, ``base64`` of little-endian float32, or packed bits as numbers.

    Bits are packed from the highest; a bit is set if the value is above 0. ``binary`` is ``ubinary`` minus 128: an
    offset, not two's complement.
    """
    if encoding == "float":
        return list(vector)
    if encoding == "base64":
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    packed = [_byte(vector[at : at + 8]) for at in range(0, len(vector), 8)]
    return packed if encoding == "ubinary" else [value - 128 for value in packed]


def _byte(values: Iterable[float]) -> int:
    return sum(1 << (7 - place) for place, value in enumerate(values) if value > 0)
