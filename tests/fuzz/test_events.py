"""The event decoder against a parser of the whole text, and the folds on arbitrary input."""

from __future__ import annotations

import re
from contextlib import suppress
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import ToriiError, UpstreamFailed
from app.core.json import Malformed
from app.core.sse import Decoder, ServerEvent
from app.core.types import ChatCall, Event, Fold
from app.endpoints.chat import Chat, collect
from app.upstreams.chat import ChatFold
from app.upstreams.deepsearch_stream import DeepSearchFold

LINES = st.sampled_from(
    [
        b"data: a",
        b"data:",
        b"data",
        b"data: {",
        b"event: x",
        b"event",
        b": note",
        b"id: 1",
        b"",
        b"",
        b"{",
        b"<html>",
        b"\xef\xbb\xbfdata: b",
        b" data: c",
        b"data: \xff",
        b"datax: 1",
        b"retry: 1",
        b"data: \xe2\x80\xa8",
    ]
)
STREAMS = st.lists(
    st.tuples(LINES | st.binary(max_size=6), st.sampled_from([b"\n", b"\r\n", b"\r", b""])), max_size=30
).map(lambda lines: b"".join(line + end for line, end in lines))
PLACES = st.lists(st.integers(0, 300), max_size=12)


def decoded(pieces: list[bytes], limit: int = 10_000) -> list[ServerEvent]:
    decoder = Decoder(limit)
    return [event for piece in pieces for event in decoder.feed(piece)] + decoder.end()


def cut(data: bytes, places: list[int]) -> list[bytes]:
    at = sorted({0, len(data), *(min(place, len(data)) for place in places)})
    return [data[a:b] for a, b in pairwise(at)]


def read(data: bytes) -> list[ServerEvent]:
    """The events of the whole text by the standard; a last event without its blank line counts too."""
    lines = re.split(rb"\r\n|\n|\r", data.removeprefix(b"\xef\xbb\xbf"))
    found: list[ServerEvent] = []
    held: list[bytes] = []
    event = ""
    for line in [*lines, b""]:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not line:
            if held:
                found.append(ServerEvent(b"\n".join(held), event))
            held, event = [], ""
        elif name == b"data":
            held.append(value)
        elif name == b"event" and b":" in line:
            event = value.strip().decode("utf-8", "replace")
    return found


@given(STREAMS | st.binary(max_size=60), PLACES)
def test_any_cut_of_any_bytes_gives_the_same_events(data: bytes, places: list[int]) -> None:
    assert decoded(cut(data, places)) == decoded([data])
    assert decoded([data[n : n + 1] for n in range(len(data))]) == decoded([data])


@given(STREAMS | st.binary(max_size=60))
def test_any_bytes_are_read_as_the_standard_says(data: bytes) -> None:
    """Except bodies that are no event stream, which become one event."""
    if data.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] not in (b"{", b"[", b"<"):
        assert decoded([data]) == read(data)


@given(STREAMS | st.binary(max_size=200), PLACES, st.integers(1, 50))
def test_nothing_but_its_own_failure_is_raised(data: bytes, places: list[int], limit: int) -> None:
    with suppress(UpstreamFailed):
        decoded(cut(data, places), limit)


@pytest.mark.parametrize("piece", [b"x", b"data: x", b"\r", b"\n", b"data:x\n", b"{", b": x\r\n"])
def test_each_byte_is_looked_at_once(piece: bytes) -> None:
    """Data fed byte by byte is not joined repeatedly: the work for a megabyte is proportional to its size."""
    decoder = Decoder(limit=2**30)
    for _ in range(1_000_000 // len(piece)):
        decoder.feed(piece)
    decoder.end()


# Folds.

TEXTS = st.sampled_from(
    [
        "",
        "a",
        "<think>",
        "</think>",
        "<th",
        "Error: x",
        "stop",
        "think",
        "text",
        "error",
        "https://a.b",
        "[^1]",
        "\ud83d",
    ]
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.just(1.5) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


def loosely(**fields: Any) -> st.SearchStrategy[Any]:
    """An object with some of these fields, each of which may have any value instead."""
    return st.fixed_dictionaries({}, optional={name: value | ANYTHING for name, value in fields.items()})


ANNOTATIONS = st.lists(
    loosely(type=st.just("url_citation"), url_citation=loosely(url=TEXTS, title=TEXTS, start_index=st.integers(0, 9))),
    max_size=2,
)
DELTAS = loosely(
    content=TEXTS, type=TEXTS, reasoning_content=TEXTS, reasoning=TEXTS, url=TEXTS, query=TEXTS, annotations=ANNOTATIONS
)
FINISHES = st.sampled_from([None, "stop", "length", "error", "thinking_end", "tool_calls"])
CHOICES = st.lists(
    loosely(index=st.integers(0, 2), delta=DELTAS, message=DELTAS, finish_reason=FINISHES) | ANYTHING, max_size=2
)
CHUNKS = loosely(
    id=TEXTS,
    object=st.sampled_from(["chat.completion", "chat.completion.chunk"]),
    created=st.integers(0, 9),
    system_fingerprint=TEXTS,
    choices=CHOICES,
    usage=loosely(total_tokens=st.integers(-1, 9)),
    visitedURLs=st.lists(TEXTS, max_size=2),
    numURLs=st.integers(0, 9),
)
ERRORS = loosely(error=ANYTHING, detail=ANYTHING, message=ANYTHING, code=ANYTHING, status=ANYTHING)


def written(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return b'{"choices":[{"delta":{"content":"\\ud83d"}}]}'


MOSTLY = st.one_of(CHUNKS, CHUNKS, CHUNKS, ANYTHING, ERRORS)
DATA = st.one_of(MOSTLY.map(written), MOSTLY.map(written), st.just(b"[DONE]"), st.binary(max_size=5))
EVENTS = st.lists(st.tuples(DATA, st.sampled_from(["", "", "", "error", "message"])), max_size=8)
CALL = ChatCall(model="m", body={}, stream=True, id="1", created=1, include_usage=True)


@pytest.mark.parametrize("make", [DeepSearchFold, ChatFold])
@given(events=EVENTS)
def test_only_our_own_errors_come_out_of_a_fold(make: Any, events: list[tuple[bytes, str]]) -> None:
    """All events can be written to a stream, and collected into a whole reply."""
    fold: Fold = make("jina")
    got: list[Event] = []
    try:
        for data, name in events:
            got += fold.feed(data, name)
        got += fold.end()
        complete = True
    except (ToriiError, Malformed):
        complete = False
    assert fold.usage is None or isinstance(fold.usage, dict)
    writer = Chat().writer(CALL)
    out = writer.write(got) + (writer.end() if complete else b"")
    for part in out.split(b"\n\n")[:-1]:
        assert part.startswith(b"data: ")
    if complete and make is DeepSearchFold:
        with suppress(ToriiError):
            collect(CALL, got)
