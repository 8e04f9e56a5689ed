"""Steps of a DeepSearch run before its answer: searches, visits and thoughts, repeated as the real server does.

A query is sent when it is decided, when it is done, and again with the thought that follows. A page is sent first as
its index, then as its URL when it is announced, and once more after it was read. Thoughts are typed out in pieces. The
last thought is cut off when the answer comes, so it is sent once more, whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .wire import Pause

SEARCHING = Pause(0.7)
READING = Pause(0.5)
LAST = "But wait, let me evaluate the answer first. The answer is definitive, so let me finalize it. "

# A URL with the text directly behind it, one CJK character, one white space, or a word up to a punctuation mark.
_CJK = "\u4e00-\u9fff\u3040-\u30ff\uac00-\ud7af"
_PIECES = re.compile(rf"https?://[^\s\])}}\"']*|[{_CJK}]|\s|[^\s{_CJK}](?:(?!https?://)[^\s{_CJK}.!?,;:])*")


@dataclass(frozen=True, slots=True)
class Search:
    query: str


@dataclass(frozen=True, slots=True)
class Visit:
    """``url``: the page's index before the page is announced, then its URL."""

    url: str | int


@dataclass(frozen=True, slots=True)
class Word:
    text: str


Step = Search | Visit | Word | Pause


def steps(topic: str, queries: list[str], urls: list[str], notes: str, quirk: str) -> list[Step]:
    """``notes``: the findings from the pages. Quirks: see ``_ending``."""
    searches: list[Step] = [Search(query) for query in queries]
    indexes: list[Step] = [Visit(index) for index in range(len(urls))]
    announced: list[Step] = [Visit(url) for url in urls]
    reading: list[Step] = [step for url in urls for step in (READING, Visit(url))]
    first = words(
        f"I need to find out: {topic} Let me search for {', '.join(queries) or 'it'} to gather more information. "
    )
    then = f"Let me read {', '.join(urls)} to gather more information. " if urls else "I may read none of the pages. "
    return [
        *searches,
        SEARCHING,
        *searches,
        *searches,
        *first[:10],
        *indexes,
        *announced,
        *reading,
        *first[10:],
        *words(then),
        *words(notes),
        *_ending(quirk),
    ]


def words(text: str) -> list[Step]:
    """A typed-out thought: each piece follows a pause of its typing time."""
    return [step for word in typed(text) for step in (Pause(_typing(word)), Word(word))]


def typed(text: str) -> Iterator[str]:
    """The pieces of a thought, split as the server types them.

    >>> list(typed("见 https://a.example/b, c. "))
    ['见', ' ', 'https://a.example/b,', ' ', 'c', '.', ' ']
    """
    return (piece[0] for piece in _PIECES.finditer(text))


def _typing(word: str) -> float:
    return 0.01 if word.isspace() else 0.02 + 0.004 * min(len(word), 20)


def _ending(quirk: str) -> list[Step]:
    """The last thought: typed up to its middle, then sent whole. ``repeated-thought``: typed nearly to its end
    before it is sent whole. ``dropped-thought``: ends there, and is not sent whole."""
    last = words(LAST)
    if quirk == "dropped-thought":
        return last[:-24]
    return [*(last[:-24] if quirk == "repeated-thought" else last[: len(last) // 2]), Word(LAST)]
