"""The format of log lines, whatever text they contain and whichever logger writes them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from app.core.errors import InvalidRequest
from app.core.redaction import Redactor
from app.server import logs
from app.server.uploads import uploaded
from app.server.writer import STDERR, writer

from ..conftest import PATIENCE

SECRET = "jina_5ecretthatmustnotbeseen"
WHEN = 1789892130.1234  # 2026-09-20T08:15:30.123Z


@pytest.fixture
def restored() -> Iterator[None]:
    """Restores the logging of this process."""
    loggers = [logging.getLogger(name) for name in (None, "torii", "uvicorn")]
    before = [(logger, logger.level, list(logger.handlers)) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


def record(message: str, *values: object, exc_info: Any = None, **fields: Any) -> logging.LogRecord:
    made = logging.getLogger("torii.calls").makeRecord(
        "torii.calls", logging.INFO, __file__, 1, message, values, exc_info, extra=fields
    )
    made.created = WHEN
    return made


def redact(text: str) -> str:
    return Redactor([SECRET]).secrets(text)


def as_json(made: logging.LogRecord) -> Any:
    line = logs.JsonLines(redact).format(made)
    assert line.isprintable()
    return msgspec.json.decode(line)


def as_text(made: logging.LogRecord) -> str:
    """The line without its time of day, which depends on the machine's time zone."""
    return logs.TextLines(redact).format(made)[len("08:15:30 ") :]


def failure(message: str) -> Any:
    try:
        raise ValueError(message)
    except ValueError:
        return sys.exc_info()


def test_a_record_is_one_json_object_with_its_fields() -> None:
    assert as_json(record("%s %s", "chat", 200, model="m", status=200, seconds=0.5, upstream=None, open=True)) == {
        "time": "2026-09-20T08:15:30.123Z",
        "level": "INFO",
        "logger": "torii.calls",
        "message": "chat 200",
        "model": "m",
        "status": 200,
        "seconds": 0.5,
        "upstream": None,
        "open": True,
    }


def test_a_record_is_one_readable_line_with_the_fields_that_are_known() -> None:
    made = record("%s %s", "chat", 200, model="m", status=200, upstream=None)
    assert as_text(made) == "INFO  torii.calls: chat 200  model=m  status=200"


def test_fields_that_are_no_scalars_are_written_as_text() -> None:
    line = as_json(record("m", where={"key": SECRET}, huge=10**30, nothing=float("nan")))
    assert line["where"] == "{'key': '[redacted]'}"
    assert line["huge"] == str(10**30)
    assert line["nothing"] is None


def test_a_traceback_is_a_field_in_json() -> None:
    line = as_json(record("failed", exc_info=failure("bad\nthing")))
    assert line["exception"].startswith("Traceback (most recent call last):\n")
    assert line["exception"].endswith("\nValueError: bad\nthing")


def test_a_traceback_is_indented_in_text_so_that_no_line_of_it_passes_for_a_record() -> None:
    lines = as_text(record("failed", exc_info=failure("bad\n08:15:30 INFO  torii: all is well"))).split("\n")
    assert lines[0] == "INFO  torii.calls: failed"
    assert all(line.startswith("    ") for line in lines[1:])
    assert lines[-1] == "    08:15:30 INFO  torii: all is well"


@pytest.mark.parametrize("form", [logs.JsonLines, logs.TextLines])
def test_no_secret_is_in_message_field_traceback_or_stack(form: type[logs.Lines]) -> None:
    made = record("key %s", SECRET, header=f"Bearer {SECRET}", exc_info=failure(f"refused: {SECRET}"))
    made.stack_info = f"Stack: {SECRET}"
    line = form(redact).format(made)
    assert SECRET not in line
    assert line.count("[redacted]") == 4


EVIL = "a\nb\rc\td\x1b[2Je\x00f\x7fg\x9bh\u2028i\u202ej\u200bk\ud800l"


def test_what_a_terminal_would_act_on_is_shown_in_text() -> None:
    shown = r"a\nb\rc\td\u001b[2Je\u0000f\u007fg\u009bh\u2028i\u202ej\u200bk\ud800l"
    assert as_text(record(EVIL, model=EVIL)) == f"INFO  torii.calls: {shown}  model={shown}"


def test_what_a_terminal_would_act_on_is_escaped_in_json_and_still_the_same_text() -> None:
    line = as_json(record(EVIL, model=EVIL))
    assert line["message"] == line["model"] == EVIL.replace("\ud800", r"\ud800")


def test_other_scripts_are_written_as_they_are() -> None:
    assert as_text(record("神の鳥居 🦊")) == "INFO  torii.calls: 神の鳥居 🦊"
    assert "神の鳥居 🦊" in logs.JsonLines(redact).format(record("神の鳥居 🦊"))


def written(capfd: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """Both outputs, after all queued lines are written."""
    writer(STDERR).drain(PATIENCE)
    out, err = capfd.readouterr()
    return out, err


@pytest.mark.usefixtures("restored")
def test_records_of_torii_go_to_stderr_from_the_level_on_and_warnings_of_everyone(
    capfd: pytest.CaptureFixture[str],
) -> None:
    logs.configure("info", redact, json=True)
    for name in ("torii.calls", "uvicorn.error", "httpx"):
        logging.getLogger(name).debug("debug")
        logging.getLogger(name).info("info")
        logging.getLogger(name).warning("warning")
    out, err = written(capfd)
    said = [(line["logger"], line["message"]) for line in map(msgspec.json.decode, err.splitlines())]
    assert out == ""
    assert said == [
        ("torii.calls", "info"),
        ("torii.calls", "warning"),
        ("uvicorn.error", "warning"),
        ("httpx", "warning"),
    ]


@pytest.mark.usefixtures("restored")
def test_a_form_that_a_caller_got_wrong_warns_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", redact, json=True)
    with pytest.raises(InvalidRequest):
        uploaded("multipart/form-data; boundary=limit", b"--limit\r\n\xfd: a\r\n\r\n--limit--\r\n")
    assert written(capfd) == ("", "")


@pytest.mark.usefixtures("restored")
def test_a_level_above_warning_holds_for_the_server_too(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("error", redact, json=False)
    for name in ("torii", "uvicorn.error"):
        logging.getLogger(name).warning("warning")
        logging.getLogger(name).error("error")
    assert [line[9:] for line in written(capfd)[1].splitlines()] == [
        "ERROR torii: error",
        "ERROR uvicorn.error: error",
    ]


@pytest.mark.usefixtures("restored")
def test_a_record_that_cannot_be_written_says_nothing_of_its_arguments(capfd: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", redact, json=True)
    logging.getLogger("torii").info("%d", SECRET)
    assert written(capfd) == ("", "")
