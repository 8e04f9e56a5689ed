"""The event decoder: every cut and every line end gives the same events."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import UpstreamFailed
from app.core.sse import DONE, Decoder, ServerEvent, encode

DATA = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\r\n")
    | st.sampled_from("\u2028\u2029\x85\x0b\x0c\x1c:"),
    max_size=40,
)
LINE_END = st.sampled_from(["\n", "\r\n", "\r"])


def events(*pieces: bytes) -> list[ServerEvent]:
    decoder = Decoder()
    found = [event for piece in pieces for event in decoder.feed(piece)]
    return found + decoder.end()


@given(
    st.lists(st.lists(DATA, min_size=1, max_size=3), max_size=5), LINE_END, st.lists(st.integers(0, 400)), st.booleans()
)
def test_any_cut_gives_the_same_events(written: list[list[str]], end: str, places: list[int], final: bool) -> None:
    """Also for text that str.splitlines would cut, with comments between events, with and without the last blank
    line."""
    stream = "".join(
        f": note{end}" + "".join(f"data: {line}{end}" for line in lines) + end for lines in written
    ).encode()
    if not final and written:
        stream = stream[: -len(end)]
    cuts = sorted({min(place, len(stream)) for place in places} | {0, len(stream)})
    pieces = [stream[a:b] for a, b in pairwise(cuts)] or [stream]
    assert events(*pieces) == [ServerEvent("\n".join(lines).encode()) for lines in written]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_line_ends(end: bytes) -> None:
    stream = b"event: error" + end + b"data:a" + end + b"data: b" + end + end + b"id: 1" + end + b"data" + end + end
    assert events(stream) == [(b"a\nb", "error"), (b"", "")]


def test_an_event_is_given_out_at_its_line_end_even_if_a_line_feed_follows() -> None:
    decoder = Decoder()
    assert decoder.feed(b"data: a\r\n\r") == [(b"a", "")]
    assert decoder.feed(b"\ndata: b\r") == []
    assert decoder.feed(b"\r") == [(b"b", "")]


def test_trap_37_separators_of_other_alphabets_are_no_line_ends() -> None:
    text = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg".encode()
    assert events(b"data: " + text + b"\n\n") == [(text, "")]


def test_trap_16_the_last_event_needs_no_blank_line() -> None:
    assert events(b"data: a\n\ndata: b") == [(b"a", ""), (b"b", "")]
    assert events(b"data: a\n\ndata: b\n") == [(b"a", ""), (b"b", "")]


def test_one_byte_order_mark_is_ignored() -> None:
    assert events(b"\xef", b"\xbb", b"\xbfdata: a\n\n") == [(b"a", "")]
    assert events(b"data: a\n\n\xef\xbb\xbfdata: b\n\n") == [(b"a", "")]


def test_comments_and_other_fields_make_no_event() -> None:
    assert events(b": ping\n\nretry: 5\n\nid: 7\n\n:\n\n") == []


@pytest.mark.parametrize("body", [b'{"error": {"message": "x"}}', b'{\n "error": 1\n}', b"<html>\n\n</html>"])
def test_a_body_that_is_no_event_stream_is_one_event(body: bytes) -> None:
    assert events(body) == [(body, "")]
    assert events(*(body[place : place + 1] for place in range(len(body)))) == [(body, "")]


@pytest.mark.parametrize("body", [b"<html>\n</html>", b'{"error": 1}'])
def test_a_body_that_is_no_event_stream_may_begin_with_white_space(body: bytes) -> None:
    assert events(b"\xef\xbb\xbf\r\n\n \n" + body) == [(body, "")]


@pytest.mark.parametrize(
    "piece",
    [b"data: " + b"x" * 99, b"data: x\n" * 20, b"data\n" * 20, b"x" * 99, b"{" + b"x" * 99, b"{\n" + b"\n" * 99],
)
def test_an_event_without_end_is_cut_at_the_limit(piece: bytes) -> None:
    decoder = Decoder(limit=1000)
    with pytest.raises(UpstreamFailed, match="more than 1000 bytes"):
        feed_all(decoder, [piece] * 100)


def feed_all(decoder: Decoder, pieces: list[bytes]) -> None:
    for piece in pieces:
        assert decoder.feed(piece) == []


def test_the_limit_is_of_one_event_and_not_of_the_stream() -> None:
    decoder = Decoder(limit=1000)
    assert sum(len(decoder.feed(b"data: " + b"x" * 900 + b"\n\n")) for _ in range(10)) == 10


def test_encoding() -> None:
    assert encode(b'{"a":1}') == b'data: {"a":1}\n\n'
    assert DONE == b"data: [DONE]\n\n"
