"""The log of the process: one line for each record, on stderr, without a secret in it.

    JSON   {"time":"2026-09-20T08:15:30.123Z","level":"INFO","logger":"torii.calls","message":"chat 200","status":200}
    text   08:15:30 INFO  torii.calls: chat 200  status=200

Callers and upstreams have a say in what is logged, so nothing that they send may end a line,
move a terminal's cursor or hide what follows. An exception's traceback is part of its record:
a field in JSON, indented lines in text.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec

from ..core.errors import Unavailable
from .writer import STDERR, Writer, writer

Redact = Callable[[str], str]

# Torii's own records and uvicorn's; other libraries are heard when something is wrong.
_OWN = "torii"
_SERVER = "uvicorn"

# How long a line may wait to be written with others.
WRITE_SECONDS = 0.05

# Controls, bidirectional and invisible marks, line separators, and halves of surrogate pairs.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}

# What every record has, and what uvicorn adds for terminals; everything else is a field of the record's own.
_PLAIN = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "color_message"}


def configure(level: str, redact: Redact, json: bool) -> None:
    """Sends every record to stderr: of Torii from ``level`` on (``debug``, ``info`` ...), of libraries the warnings.

    ``redact`` sees every text that came with a record: message, fields and traceback.
    """
    handler = next((there for there in logging.root.handlers if isinstance(there, Lazy)), None) or Lazy(writer(STDERR))
    handler.setFormatter(JsonLines(redact) if json else TextLines(redact))
    writer(STDERR).dropped = handler.dropped
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(logging.WARNING)
    logging.getLogger(_OWN).setLevel(level.upper())
    logging.getLogger(f"{_SERVER}.error").addFilter(_is_told)
    # That a server has started is said by the command line, with more in it.
    logging.getLogger(_SERVER).setLevel(max(logging.getLogger(_OWN).level, logging.WARNING))
    # A record that cannot be written must not print its arguments instead.
    logging.raiseExceptions = False
    # What no line has is not looked up for each record: the caller's frame, the process, the thread.
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def _is_told(record: logging.LogRecord) -> bool:
    """That a second Ctrl+C ended what was open is no failure of the application, as uvicorn has it."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError | Unavailable))


class Lazy(logging.Handler):
    """Puts what a loop has logged into words once in a while, so that many lines cost one write; a warning at once."""

    def __init__(self, writer: Writer) -> None:
        super().__init__()
        self._writer = writer
        self._records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._records.append(record)
        try:
            if record.levelno >= logging.WARNING:
                self.flush()
            elif len(self._records) == 1:
                asyncio.get_running_loop().call_later(WRITE_SECONDS, self.flush)
        except RuntimeError:  # no loop runs
            self.flush()
        except Exception:  # noqa: BLE001 - as logging does: what cannot be logged fails nothing
            self.handleError(record)

    def flush(self) -> None:
        """Also called at the end of the process. What is to be dropped is not put into words."""
        self.acquire()  # other threads log too
        records, self._records = self._records, []
        self.release()
        if records and self._writer.full:
            self._writer.drop(len(records))
        elif records:
            self._writer.put("".join(map(self._line, records)), len(records))

    def dropped(self, lines: int) -> str:
        """The line that says so."""
        said = {"name": "torii.logs", "levelno": logging.WARNING, "levelname": "WARNING", "msg": _DROPPED}
        return self._line(logging.makeLogRecord({**said, "args": (lines,)}))

    def _line(self, record: logging.LogRecord) -> str:
        try:
            return f"{self.format(record)}\n"
        except Exception:  # noqa: BLE001 - as logging does: what cannot be logged fails nothing
            self.handleError(record)
            return ""


_DROPPED = "%d log lines were dropped: the log was not read, or could not be written"


class Lines(logging.Formatter):
    """Common parts of both forms: the record's texts, redacted. Most of these come again and again."""

    def __init__(self, redact: Redact) -> None:
        super().__init__()
        self._redact = redact
        self._redacted = lru_cache(maxsize=1024)(redact)

    def _message(self, record: logging.LogRecord) -> str:
        return self._text(record.getMessage())

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        given = {name: value for name, value in vars(record).items() if name not in _PLAIN}
        if "about" in given:  # the line of a call
            given = {**dict(given["about"]), **given["figures"]}
        return {name: self._value(value) for name, value in given.items()}

    def _value(self, value: object) -> Any:
        if value is None or type(value) in (bool, float):
            return value
        if isinstance(value, int) and -(2**63) <= value < 2**63:
            return value
        return self._text(str(value))

    def _text(self, text: str) -> str:
        return self._redacted(text) if len(text) <= 64 else self._redact(text)

    def _trace(self, record: logging.LogRecord) -> str:
        if not (record.exc_info or record.stack_info):
            return ""
        parts = [self.formatException(record.exc_info)] if record.exc_info else []
        parts += [record.stack_info] if record.stack_info else []
        return self._redact("\n".join(parts))


class JsonLines(Lines):
    def __init__(self, redact: Redact) -> None:
        super().__init__(redact)
        self._about = lru_cache(maxsize=1024)(self._said_about)

    def format(self, record: logging.LogRecord) -> str:
        about = getattr(record, "about", None)
        if about is not None:
            return self._call(record, about)
        return self._line(record, self._fields(record))

    def _call(self, record: logging.LogRecord, about: Any) -> str:
        """The line of a call: all but the time and its figures is the same in many lines."""
        figures = msgspec.json.encode(record.figures).decode()  # type: ignore[attr-defined]  # a Line has them
        return (
            f'{{"time":"{_time(record)}",{self._about(record.levelname, record.name, record.msg, about)},{figures[1:]}'
        )

    def _said_about(self, level: str, name: str, message: str, about: Any) -> str:
        made = logging.makeLogRecord({"levelname": level, "name": name, "msg": message})
        line = self._line(made, {name: self._value(value) for name, value in about})
        return line[line.index('"level"') : -1]

    def _line(self, record: logging.LogRecord, fields: dict[str, Any]) -> str:
        line = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": self._message(record),
            **fields,
        }
        if trace := self._trace(record):
            line["exception"] = trace
        try:
            text = msgspec.json.encode(line).decode()
        except UnicodeEncodeError:
            whole = {name: _whole(value) if isinstance(value, str) else value for name, value in line.items()}
            text = msgspec.json.encode(whole).decode()
        return text if text.isascii() and text.isprintable() else _UNSEEN.sub(_code, text)


class TextLines(Lines):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        head = f"{time} {record.levelname:5} {record.name}: {escape(self._message(record))}"
        known = {name: value for name, value in self._fields(record).items() if value is not None}
        line = "  ".join([head, *(f"{name}={escape(str(value))}" for name, value in known.items())])
        trace = self._trace(record)
        return "\n    ".join([line, *map(escape, trace.split("\n"))]) if trace else line


def escape(text: str) -> str:
    """The text with everything visible that a terminal or a log reader would act on."""
    return _UNSEEN.sub(lambda match: _SHORT.get(match[0]) or _code(match), text)


def _code(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def _whole(text: str) -> str:
    """The text as UTF-8 can carry it."""
    return text.encode("utf-8", "backslashreplace").decode()


def _time(record: logging.LogRecord) -> str:
    return f"{_second(int(record.created))}.{int(record.created % 1 * 1000):03}Z"


@lru_cache(maxsize=2)
def _second(time: int) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%S")
