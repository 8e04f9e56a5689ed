"""DeepSearch's reasoning, without its tags and without repeated thoughts. No I/O.

Source: jina-ai/node-DeepResearch, ``streamTextNaturally`` and ``completeCurrentStreaming`` of its app.ts.
"""

from __future__ import annotations

import re

OPEN, CLOSE = "<think>", "</think>"
WINDOW = 65_536  # characters remembered to detect a repeated thought; the agent's thoughts have some hundreds
PIECES = 1024
HELD = 100  # maximum characters held back, tag and white space together


class Thoughts:
    """Removes the tags around the reasoning, and repeated thoughts.

    The opening tag is removed from the start and the closing tag from the end, even if a relay has split them, so up to
    a tag's length of text is held back. A tag in the middle is text.
    """

    _TAIL = re.compile(r"<(?:/(?:t(?:h(?:i(?:n(?:k(?:>\s*)?)?)?)?)?)?)?\Z")

    def __init__(self) -> None:
        self._held = ""
        self._opened = False
        self._typed = Typed()
        self.inline = False
        self.was_inline = False

    def feed(self, text: str) -> str:
        # The closing tag that ends the reasoning is followed by line ends; a closing tag within it is not.
        if text != CLOSE and text.rstrip("\n") == CLOSE:
            text, self._held = self._held, ""
            return text
        if not self._opened:
            text = self._open(text)
        return self._shut(self._typed.unrepeated(text)) if text else ""

    def feed_inline(self, text: str) -> tuple[str, str]:
        """``(reasoning, answer)`` for reasoning inside the content; the answer is empty until the closing tag."""
        if not self._opened:
            text = self._open(text)
        thought, closing, rest = (self._held + text).partition(CLOSE)
        self._held = ""
        if not closing:
            return self._shut(thought), ""
        self.inline, self.was_inline = False, True
        return thought, rest

    def close(self) -> str:
        """The text held back, unless it is a closing tag."""
        held, self._held = self._held, ""
        return "" if held.strip() == CLOSE else held

    def _open(self, text: str) -> str:
        """``text`` without the opening tag; empty while it may be the start of one."""
        text, self._held = self._held + text, ""
        start = text.lstrip()
        if len(start) < len(OPEN) and OPEN.startswith(start) and len(text) <= HELD:
            self._held = text
            return ""
        self._opened = True
        return start.removeprefix(OPEN).lstrip("\n") if start.startswith(OPEN) else text

    def _shut(self, text: str) -> str:
        """``text`` up to a possible start of the closing tag, from which on it is held back."""
        text, self._held = self._held + text, ""
        if "<" in text and (tail := self._TAIL.search(text)) and len(tail[0]) <= HELD:
            text, self._held = text[: tail.start()], text[tail.start() :]
        return text


class Typed:
    """The latest reasoning text, to detect a thought that is sent again.

    The server sends a thought in pieces ("types it out"): single characters, or text without white space, such as a URL
    with its comma. If the answer comes before the last piece, the server sends the whole thought once more, with the
    space that ends every thought. A thought begins at the start of the reasoning, or after the space of the thought
    before. Two equal thoughts that were both sent in pieces are two thoughts.
    """

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._clear()

    def unrepeated(self, text: str) -> str:
        """``text`` without the part that was sent before. Time and memory do not grow with the length of the
        reasoning."""
        one_word = " " not in text[:-1]
        # A word after a space repeats nothing of a word before it.
        if len(text) < 2 or text[-1] != " " or (one_word and self._pieces[-1][-1] == " "):
            self._add(text)
            return text
        known = self._known(text)
        if not one_word:
            self._clear()
            return text[known:]
        # One word and a space may also be one piece, from a relay that joins pieces.
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
        """The length of the longest start of ``whole`` that is the end of the text so far."""
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
    """The length of the longest start of ``whole`` that is an end of ``sent`` and has white space before it.

    It uses the borders of Knuth, Morris and Pratt, which takes linear time for any texts.

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
