"""The access log's line of a call equals, byte for byte, the log's format of an ordinary record with the same
fields."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import pytest

from app.core.errors import ToriiError, UpstreamUnreachable
from app.core.redaction import Redactor
from app.core.types import EmbeddingsCall, Json
from app.server import access_log, logs
from app.server.writer import STDERR, writer
from app.usage.record import CallRecord

from ..conftest import PATIENCE

SECRET = "jina_5ecretthatmustnotbeseen"
EVIL = f'a\nb"\x1b[2J\u2028\u202e{SECRET} 神 \ud800'


def refused() -> ToriiError:
    error = UpstreamUnreachable("the upstream cannot be reached")
    error.reason = f"nobody listens {SECRET}"
    return error


def ended(model: str, *, error: ToriiError | None = None, usage: Json | None = None) -> CallRecord:
    call = EmbeddingsCall(model=model, body={"model": model, "input": ["a"]})
    record = CallRecord("0123456789abcdef", "local", call, free=usage, cache="hit")
    record.status, record.error, record.seconds = 200 if error is None else error.status, error, 0.12345
    return record


RECORDS = [
    ended("jina-embeddings-v3"),
    ended("m", usage={"total_tokens": 7}),
    ended(EVIL, error=refused()),
    ended("m" * 3000),
]


@pytest.fixture(params=[True, False], ids=["json", "text"])
def lines(request: pytest.FixtureRequest) -> Iterator[logs.Lines]:
    """The configured formatter of this process's log."""
    root, level = list(logging.root.handlers), logging.getLogger("torii").level
    logging.root.handlers[:] = []
    logs.configure("info", Redactor([SECRET]).secrets, json=request.param)
    handler = logs.installed()
    assert handler is not None
    yield handler.lines
    logging.root.handlers[:] = root
    logging.getLogger("torii").setLevel(level)


def written(capfd: pytest.CaptureFixture[str]) -> str:
    log = logs.installed()
    assert log is not None
    log.flush()
    writer(STDERR).drain(PATIENCE)
    return capfd.readouterr().err


def ordinary(caplog: pytest.LogCaptureFixture, record: CallRecord) -> logging.LogRecord:
    """The record of the call as a handler of another program receives it."""
    ours = list(logging.root.handlers)
    logging.root.handlers[:] = [caplog.handler]
    caplog.clear()
    access_log.write(record)
    logging.root.handlers[:] = ours
    [made] = caplog.records
    return made


@pytest.mark.parametrize("record", RECORDS, ids=["plain", "usage", "evil", "long"])
def test_a_line_is_that_of_an_ordinary_record(
    record: CallRecord,
    lines: logs.Lines,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1789892130.1234)
    made = ordinary(caplog, record)
    made.created = time.time()
    access_log.write(record)
    access_log.write(record)  # the second line reuses state of the first
    assert written(capfd) == f"{lines.format(made)}\n" * 2


def test_no_key_and_no_control_character_is_in_it(lines: logs.Lines, capfd: pytest.CaptureFixture[str]) -> None:
    access_log.write(ended(EVIL, error=refused()))
    text = written(capfd)
    assert SECRET not in text
    assert text.count("[redacted]") == 2
    assert text.endswith("\n")
    assert text[:-1].isprintable()


def test_a_key_that_becomes_known_is_redacted_from_then_on(
    lines: logs.Lines, capfd: pytest.CaptureFixture[str]
) -> None:
    json = isinstance(lines, logs.JsonLines)
    access_log.write(ended("a-new-key"))
    logs.configure("info", Redactor(["a-new-key"]).secrets, json=json)
    access_log.write(ended("a-new-key"))
    before, after = written(capfd).splitlines()
    assert "a-new-key" in before
    assert "a-new-key" not in after


def test_a_level_above_info_has_no_lines_of_calls(lines: logs.Lines, capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("warning", str, json=isinstance(lines, logs.JsonLines))
    access_log.write(ended("m"))
    assert written(capfd) == ""


def test_its_place_is_between_the_lines_before_and_after(lines: logs.Lines, capfd: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("torii").info("before")
    access_log.write(ended("m"))
    logging.getLogger("torii").info("after")
    before, call, after = written(capfd).splitlines()
    assert ("before" in before, "embeddings 200" in call, "after" in after) == (True, True, True)


def test_what_cannot_be_written_fails_no_call(lines: logs.Lines, capfd: pytest.CaptureFixture[str]) -> None:
    access_log.write(ended("m", usage={"total_tokens": "\ud800"}))
    access_log.write(ended("m"))
    assert "embeddings 200" in written(capfd)


def test_the_standard_library_is_left_as_it_is(lines: logs.Lines) -> None:
    assert getattr(logging, "_srcfile", None) is not None
    assert logging.raiseExceptions
    assert (logging.logThreads, logging.logProcesses, logging.logMultiprocessing) == (True, True, True)
