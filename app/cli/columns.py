"""Tables for a terminal of 80 columns: text that is too wide is wrapped within its column."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest

WIDTH = 80
GAP = "  "
INDENT = "  "
NARROW = 10  # the minimum width of a column in characters, however wide the others are
BREAKS = "-/_.,"  # characters after which a word wider than its column may be broken


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    width: int = WIDTH,
    right: Iterable[str] = (),
    below: Sequence[str] = (),
) -> str:
    """The table as text, each column as wide as its cells if ``width`` allows. Empty columns are left out. Columns
    named in ``right`` hold numbers and are never narrowed. ``below``: one line to print unchanged under each row."""
    body = [list(row) for row in rows]
    used = [index for index in range(len(head)) if not body or any(row[index] for row in body)]
    cells = [[row[index] for index in used] for row in [list(head), *body]]
    numbers = {at for at, index in enumerate(used) if head[index] in right}
    widths = _widths(cells, numbers, width - len(GAP) * (len(used) - 1))
    lines = []
    for row, under in zip_longest(cells, ["", *below]):
        columns = [_wrapped(cell, wide) for cell, wide in zip(row, widths, strict=True)]
        for line in zip_longest(*columns, fillvalue=""):
            padded = [
                cell.rjust(wide) if at in numbers else cell.ljust(wide)
                for at, (cell, wide) in enumerate(zip(line, widths, strict=True))
            ]
            lines.append(GAP.join(padded).rstrip())
        lines += [under] if under else []
    return "\n".join(lines)


def _widths(cells: list[list[str]], numbers: set[int], room: int) -> list[int]:
    """The widths of the columns. The widest column shrinks first: to its longest word, then to NARROW."""
    columns = list(zip(*cells, strict=True))
    widths = [max(map(len, column)) for column in columns]
    words = [max(len(word) for cell in column for word in cell.split(" ")) for column in columns]
    for least in (words, [min(NARROW, word) for word in words]):
        while sum(widths) > room:
            wide = [at for at in range(len(widths)) if widths[at] > least[at] and at not in numbers]
            if not wide:
                break
            widths[max(wide, key=lambda at: widths[at])] -= 1
    return widths


def _wrapped(cell: str, width: int) -> list[str]:
    lines = [""]
    for word in cell.split(" "):
        if lines[-1] and len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
            continue
        if lines[-1]:
            lines.append("")
        while len(word) > width:
            cut = max(word.rfind(sign, 0, width) for sign in BREAKS) + 1 or width
            lines[-1], word = word[:cut], word[cut:]
            lines.append("")
        lines[-1] = word
    return lines


def indented(text: str) -> str:
    return "\n".join(f"{INDENT}{line}".rstrip() for line in text.split("\n"))


def address(host: str, port: int) -> str:
    """The URL by which this machine reaches a gateway that listens on ``host``."""
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://[{local}]:{port}" if ":" in local else f"http://{local}:{port}"
