"""The thinking of DeepSearch: without the tags around it, and each thought once. No I/O.

Source: jina-ai/node-DeepResearch, ``streamTextNaturally`` and ``completeCurrentStreaming`` of its app.ts.
"""

from __future__ import annotations

import re

OPEN, CLOSE = "<think>", "</think>"
WINDOW = 65_536  # characters: more of a thought is not known again; the agent's thoughts have some hundreds
PIECES = 1024
HELD = 100  # characters, tag and white space together, that are held back


class Thoughts:
    """The text of the thinking without its tags.

    The opening tag is taken off the start and the closing one off the end, also when a relay
    cut them in pieces, so at most a tag's length is held back. A tag in the middle is text.
    """

    _TAIL = re.compile(r"<(?:/(?:t(?:h(?:i(?:n(?:k(?:>\s*)?)?)?)?)?)?)?\Z")

    def __init__(self) -> None:
        self._held = ""
        self._opened = False
        self._typed = Typed()
        self.inline = False
        self.was_inline = False

    def feed(self, text: str) -> str:
        # A closing tag that ends the thinking has line ends behind it; one that was typed out before it has none.
        if text != CLOSE and text.rstrip("\n") == CLOSE:
            text, self._held = self._held, ""
            return text
        if not self._opened:
            text = self._open(text)
        return self._shut(self._typed.unrepeated(text)) if text else ""

    def feed_inline(self, text: str) -> tuple[str, str]:
        """Thinking inside the content: the thought, and the answer's start once the tag has closed."""
        if not self._opened:
            text = self._open(text)
        thought, closing, rest = (self._held + text).partition(CLOSE)
        self._held = ""
        if not closing:
            return self._shut(thought), ""
        self.inline, self.was_inline = False, True
        return thought, rest

    def close(self) -> str:
        """The text that was held back and is no closing tag after all."""
        held, self._held = self._held, ""
        return "" if held.strip() == CLOSE else held

    def _open(self, text: str) -> str:
        """``text`` without the opening tag, and nothing while it may still be one."""
        text, self._held = self._held + text, ""
        start = text.lstrip()
        if len(start) < len(OPEN) and OPEN.startswith(start) and len(text) <= HELD:
            self._held = text
            return ""
        self._opened = True
        return start.removeprefix(OPEN).lstrip("\n") if start.startswith(OPEN) else text

    def _shut(self, text: str) -> str:
        """``text`` up to where the closing tag may have begun."""
        text, self._held = self._held + text, ""
        if "<" in text and (tail := self._TAIL.search(text)) and len(tail[0]) <= HELD:
            text, self._held = text[: tail.start()], text[tail.start() :]
        return text


class Typed:
    """The text typed out of the thoughts, so that one which comes again is known.

    A thought is typed out in pieces: one character, or text without white space, such as a URL with
    its comma. If the answer comes before its last piece, the thought is sent once more, whole, with the
    space that ends every thought. A thought begins at the start or behind the space of the one before.
    Equal thoughts that were both typed out are two.
    """

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._clear()

    def unrepeated(self, text: str) -> str:
        """``text`` without what was typed out of it already. Time and memory do not grow with what came before."""
        if len(text) < 2 or text[-1] != " ":
            self._add(text)
            return text
        known = self._known(text)
        if " " in text[:-1]:
            self._clear()
            return text[known:]
        # One word and a space may also be a piece of a relay that puts both together.
        if 0 < known < len(text):
            self._clear()
            return text[known:]
        self._add(text)
        return text

    def _clear(self) -> None:
        self._pieces[:], self._length = [" "], 1  # a space, as if a thought had come before

    def _add(self, piece: str) -> None:
        self._pieces.append(piece)
        self._length += len(piece)
        if self._length > 2 * WINDOW or len(self._pieces) > PIECES:
            self._pieces[:] = ["".join(self._pieces)[-WINDOW:]]
            self._length = len(self._pieces[0])

    def _known(self, whole: str) -> int:
        """The number of characters of its start that were the last to come."""
        return _overlap(self._last(len(whole) + 1), whole)

    def _last(self, length: int) -> str:
        pieces = []
        for piece in reversed(self._pieces):
            pieces.append(piece[-length:])
            length -= len(pieces[-1])
            if not length:
                break
        return "".join(reversed(pieces))


def _overlap(sent: str, whole: str) -> int:
    """The length of the longest start of ``whole`` that ends ``sent`` and has white space before it.

    By the borders of Knuth, Morris and Pratt: in linear time, whatever the texts.

    >>> _overlap(" I look. Check it", "Check it again. ")
    8
    """
    text: list[str | None] = [*whole[: len(sent) - 1], None, *sent]
    borders = [0] * len(text)
    length = 0
    for place in range(1, len(text)):
        while length and text[place] != text[length]:
            length = borders[length - 1]
        length += text[place] == text[length]
        borders[place] = length
    while length and not sent[-length - 1].isspace():
        length = borders[length - 1]
    return length
