"""Runs made up by the rules of DeepSearch's server, and what was thought and done in them.

The server types its thoughts out one after the other, in pieces. If the answer comes meanwhile, the thought that is
being typed comes once more, whole, and those behind it are dropped (jina-ai/node-DeepResearch, app.ts).
"""

from __future__ import annotations

import re
import tracemalloc
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.core.types import ChatCall, Event, Reasoning, Step
from app.endpoints.chat import Chat, collect
from app.upstreams.deepsearch_stream import STEPS, DeepSearchFold
from app.upstreams.thoughts import WINDOW, Thoughts

CJK = re.compile("[\u4e00-\u9fff\u3040-\u30ff\uac00-\ud7af]")


def typed_out(thought: str) -> list[str]:
    """The pieces, as ``splitTextIntoChunks`` of the server cuts them."""
    pieces, word, in_url = [], "", False
    for place, letter in enumerate(thought):
        after = thought[place + 1 : place + 2]
        if re.match("https?://", thought[place : place + 8]):
            pieces.append(word)
            word, in_url = "", True
        if not in_url and (CJK.match(letter) or letter.isspace()):
            pieces += [word, letter]
            word = ""
            continue
        word += letter
        if (in_url and re.match(r"[\s\])}\"']", after)) or (not in_url and after in list(".!?,;:")):
            pieces.append(word)
            word, in_url = "", False
    return [piece for piece in [*pieces, word] if piece]


@dataclass(frozen=True)
class Run:
    """``again``: after how many of its pieces the last thought comes whole; None where it was typed out."""

    thoughts: list[str]
    again: int | None
    steps: list[tuple[int, dict[str, Any]]]  # how many deltas came before, and the delta

    @property
    def typed(self) -> list[str]:
        """The text typed out, with the space that the server puts behind every thought."""
        pieces = [piece for thought in self.thoughts for piece in typed_out(thought + " ")]
        last = typed_out(self.thoughts[-1] + " ")
        return pieces if self.again is None else pieces[: len(pieces) - len(last) + self.again % len(last)]

    @property
    def whole(self) -> str | None:
        return None if self.again is None else self.thoughts[-1] + " "

    @property
    def thought(self) -> str:
        return "".join(thought + " " for thought in self.thoughts)

    @property
    def readings(self) -> list[str]:
        """All that may have been thought, by what the stream tells: of the thought that came whole, a start may be the
        end of what was typed, or nothing. The shortest first. A word and a space may be a piece of a relay; so one
        that was typed out with its space was thought twice."""
        typed, whole = "".join(self.typed), self.whole
        if whole is None:
            return [typed]
        starts = [place for place in range(len(typed)) if (" " + typed)[place].isspace()]
        same = [place for place in starts if whole.startswith(typed[place:])]
        if " " not in whole[:-1]:
            same = [place for place in same if typed[place:] != whole]
        return [typed[:place] + whole for place in same] + [typed + whole]

    @property
    def deltas(self) -> list[dict[str, Any]]:
        texts = [*self.typed, *([self.whole] if self.whole else [])]
        deltas: list[dict[str, Any]] = [{"content": text, "type": "think"} for text in texts]
        for place, step in sorted(self.steps, key=lambda one: one[0], reverse=True):
            deltas.insert(place % (len(deltas) + 1), {"type": "think", **step})
        return [{"role": "assistant", "content": "<think>", "type": "think"}, *deltas]

    @property
    def stream(self) -> list[bytes]:
        end = {"content": "</think>\n\n", "type": "think"}
        answer = {"content": "Six.", "type": "text"}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 3}
        return [
            *(chunk(delta) for delta in self.deltas),
            chunk(end, "thinking_end"),
            chunk(answer, "stop", usage=usage),
        ]


def chunk(delta: dict[str, Any], finish: str | None = None, **top: Any) -> bytes:
    return msgspec.json.encode({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **top})


WORDS = st.sampled_from(
    [
        *("I", "check", "the", "tide", "table", "a.b", "3.14,", "go", "goes", "co-op", "it's", "(see"),
        *(
            "Сначала",
            "проверю",
            "таблицу,",
            "Ελέγχω",
            "πίνακα",
            "cafe\u0301",
            "Übergänge",
            "e\u0301\u0302",
            "ไทย",
            "שלום",
            "مد",
        ),
        *("我先核对", "潮汐表。", "潮", "かな", "물때", "x潮y", "𠀀𠀁", "🌊", "👩‍👩‍👧", "🇩🇪", "👍🏽ok"),
        *(
            "https://a.example/x,y,",
            "(https://a.example/p_(q))",
            "xhttp://b.example/潮?a=1.",
            "http",
            "<think>",
            "</think>",
        ),
        *("\n", "\n\n-", "\t", "a\u00a0b", "\u3000", " ", ".", "...", "?!", "<", "</th"),
    ]
)
THOUGHTS = st.lists(WORDS, min_size=1, max_size=6).map(" ".join) | st.text(
    st.sampled_from("ab. 潮\u0301🌊"), min_size=1, max_size=8
)
TOLD = st.sampled_from(
    [
        *({"query": "tides"}, {"query": "潮汐"}, {"query": "https://a.example/"}),
        *(
            {"url": 0},
            {"url": 3},
            {"url": "https://a.example/"},
            {"url": "https://a.example/潮"},
            {"url": "javascript:0"},
        ),
    ]
)


@st.composite
def runs(draw: st.DrawFn) -> Run:
    """Of few different thoughts, so that some are equal and some begin like others."""
    few = draw(st.lists(THOUGHTS, min_size=1, max_size=3))
    said = st.sampled_from(few) | st.tuples(st.sampled_from(few), THOUGHTS).map(" ".join)
    thoughts = draw(st.lists(said, min_size=1, max_size=4))
    again = draw(st.none() | st.integers(0, 30))
    return Run(thoughts, again, draw(st.lists(st.tuples(st.integers(0, 60), TOLD), max_size=12)))


def folded(stream: list[bytes]) -> list[Event]:
    fold = DeepSearchFold("jina")
    return [event for data in stream for event in fold.feed(data)] + fold.end()


def wanted(run: Run) -> list[Step]:
    told = [
        Step("search", delta["query"]) if "query" in delta else Step("visit", delta["url"])
        for delta in run.deltas
        if "query" in delta or str(delta.get("url")).startswith("https:")
    ]
    return [step for place, step in enumerate(told) if step not in told[:place]]


@given(runs())
@example(Run(["Grouped.", "Grouped."], None, []))
@example(Run(["Grouped.", "Grouped."], 1, []))
@example(Run(["Check tides.", "Check tides again."], 3, []))
@example(Run(["Plan A.", "Then B."], 0, []))
@example(Run(["no no no stop"], 3, []))
@example(Run(["Easy"], 1, []))
@example(Run(["a", " x"], 0, []))
def test_each_thought_is_told_once_and_each_step(run: Run) -> None:
    events = folded(run.stream)
    got = "".join(event.text for event in events if isinstance(event, Reasoning))
    assert got == run.readings[0]
    if len(set(run.readings)) == 1:
        assert got == run.thought
    assert [event for event in events if isinstance(event, Step)] == wanted(run)


@given(runs())
def test_collected_it_is_the_same_as_streamed(run: Run) -> None:
    events = folded(run.stream)
    call = ChatCall(model="m", body={}, stream=True, id="1", created=1)
    message = collect(call, events)["choices"][0]["message"]
    written = Chat(piece=0).writer(call).write(events).split(b"\n\n")[:-1]
    deltas = [msgspec.json.decode(line.removeprefix(b"data: "))["choices"][0]["delta"] for line in written]
    for name in ("content", "reasoning_content"):
        assert message.get(name, "") == "".join(delta.get(name) or "" for delta in deltas)
    assert message.get("x_steps", []) == [step for delta in deltas for step in delta.get("x_steps", [])]


@pytest.mark.parametrize("cut", range(1, 9))
def test_surrogates_that_a_relay_cut_in_two_are_known_again(cut: int) -> None:
    """Each half an event of its own, as JavaScript writes them."""
    run = Run(["So 🌊 and 🌊", "Then 🇩🇪 🌊 too."], cut, [])
    wave = '"🌊"'.encode()
    halves = [
        data.replace(wave, half)
        for data in run.stream
        for half in ((rb'"\ud83c"', rb'"\udf0a"') if wave in data else (wave,))
    ]
    got = "".join(event.text for event in folded(halves) if isinstance(event, Reasoning))
    assert got == run.thought


def test_a_long_run_holds_no_more_than_its_last_thoughts() -> None:
    thoughts = Thoughts()
    tracemalloc.start()
    try:
        for number in range(300_000):
            thoughts.feed(f"潮{number}")
            thoughts.feed(" ")
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1_000_000
    assert thoughts.feed("潮299998 潮299999 so. ") == "so. "


def test_a_run_of_very_many_steps_holds_the_first_of_them() -> None:
    fold = DeepSearchFold("jina")
    fold.feed(chunk({"content": "<think>", "type": "think"}))
    for number in (*range(STEPS + 1), 0, STEPS - 1):
        told = fold.feed(chunk({"type": "think", "query": f"q{number}"}))
    assert told == []
    assert fold.feed(chunk({"type": "think", "query": f"q{STEPS}"})) == [Step("search", f"q{STEPS}")]


@pytest.mark.parametrize("word", ["a ", "ab ", "潮 ", "  "])
def test_a_thought_of_one_word_again_and_again_is_found_in_linear_time(word: str) -> None:
    """By comparing all starts with all ends these would take minutes."""
    thoughts, count = Thoughts(), WINDOW // len(word) - 1
    thoughts.feed("<think>")
    for _ in range(count):
        for piece in typed_out(word):
            thoughts.feed(piece)
    assert thoughts.feed(word * (count + 1) + "end. ") == word + "end. "
