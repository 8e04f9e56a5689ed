"""The log of the process: one line for each record, on stderr, without secrets.

    JSON   {"time":"2026-09-20T08:15:30.123Z","level":"INFO","logger":"torii.calls","message":"chat 200","status":200}
    text   08:15:30 INFO  torii.calls: chat 200  status=200

Text from callers and upstreams gets into the log, so it must not be able to end a line, move a terminal's cursor or
hide what follows. An exception's traceback is part of its record: a field in JSON, indented lines in text.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeVar

import msgspec

from ..core.errors import Unavailable
from .writer import STDERR, DescriptorWriter, writer

Redact = Callable[[str], str]
T = TypeVar("T")

# The loggers of Torii and of uvicorn; other libraries are logged from WARNING on.
_OWN = "torii"
_SERVER = "uvicorn"
# Warns of each form that is malformed, which is the caller's mistake and is answered as one.
_FORMS = "python_multipart"

# The time for which a line may wait to be written together with others.
WRITE_SECONDS = 0.05

# Control characters, bidirectional and invisible marks, line separators, and lone surrogates.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}

# Attributes of every record, and those that uvicorn adds for terminals; all others are fields of the line.
_PLAIN = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "color_message"}


def configure(level: str, redact: Redact, json: bool) -> None:
    """Send every record to stderr: Torii's from ``level`` on (``debug``, ``info`` ...), libraries' from WARNING on.

    ``redact`` is applied to every text of a record: message, fields and traceback.
    """
    lines = JsonLines(redact) if json else TextLines(redact)
    handler = installed() or BufferedHandler(writer(STDERR), lines)
    handler.lines = lines
    writer(STDERR).dropped = handler.dropped
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(logging.WARNING)
    logging.getLogger(_OWN).setLevel(level.upper())
    logging.getLogger(f"{_SERVER}.error").addFilter(_is_told)
    logging.getLogger(_FORMS).setLevel(logging.ERROR)
    # The command's banner replaces uvicorn's message that the server has started.
    logging.getLogger(_SERVER).setLevel(max(logging.getLogger(_OWN).level, logging.WARNING))


def installed() -> BufferedHandler | None:
    """The handler of this log; None if ``configure`` did not set up the logging of this process."""
    handler = logging.root.handlers[0] if logging.root.handlers else None
    return handler if isinstance(handler, BufferedHandler) else None


def _is_told(record: logging.LogRecord) -> bool:
    """False for calls that a second Ctrl+C ended: uvicorn reports each as a failure of the application."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError | Unavailable))


class BufferedHandler(logging.Handler):
    """Writes the lines of an event loop together, WRITE_SECONDS after the first; a warning is written at once."""

    def __init__(self, writer: DescriptorWriter, lines: Lines) -> None:
        super().__init__()
        self.lines = lines
        self._writer = writer
        self._buffer: list[str] = []
        self._timed = False

    def emit(self, record: logging.LogRecord) -> None:
        self.add(_formatted, record)
        if record.levelno >= logging.WARNING:
            self.flush()

    def add(self, line: Callable[[Lines, T], str], record: T) -> None:
        """``line`` makes the text of ``record``; it is not called if the line would be dropped.

        If ``line`` raises, there is no line: logging must neither fail a call nor print the arguments.
        """
        if self._writer.full:
            self._writer.drop(1)
            return
        try:
            text = line(self.lines, record)
        except Exception:  # noqa: BLE001 - logging must not fail a call
            return
        assert self.lock is not None
        with self.lock:  # other threads log too
            self._buffer += (text, "\n")
            first = len(self._buffer) == 2
        if first:
            self._flush_soon()

    def _flush_soon(self) -> None:
        try:
            asyncio.get_running_loop().call_later(WRITE_SECONDS, self.flush)
        except RuntimeError:  # no loop runs
            self.flush()

    def flush(self) -> None:
        """Write the buffered lines. Also called at the end of the process."""
        self.acquire()
        parts, self._buffer = self._buffer, []
        self.release()
        if parts:
            self._writer.put("".join(parts), len(parts) // 2)

    def dropped(self, lines: int) -> str:
        """The line that reports ``lines`` dropped lines."""
        said = {"name": "torii.logs", "levelno": logging.WARNING, "levelname": "WARNING", "msg": _DROPPED}
        return f"{self.lines.format(logging.makeLogRecord({**said, 'args': (lines,)}))}\n"


_DROPPED = "%d log lines were dropped: the log was not read, or could not be written"


class Lines(logging.Formatter):
    """Common parts of both forms: the record's texts, redacted. Short texts are cached, as most of them recur."""

    def __init__(self, redact: Redact) -> None:
        super().__init__()
        self._redact = redact
        self._redacted = lru_cache(maxsize=1024)(redact)

    def _message(self, record: logging.LogRecord) -> str:
        return self._text(record.getMessage())

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        return {name: self._value(value) for name, value in vars(record).items() if name not in _PLAIN}

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


def _formatted(lines: Lines, record: logging.LogRecord) -> str:
    return lines.format(record)


class JsonLines(Lines):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": json_time(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": self._message(record),
            **self._fields(record),
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
    """The text, with every character escaped that a terminal or a log reader would act on."""
    return _UNSEEN.sub(lambda match: _SHORT.get(match[0]) or _code(match), text)


def _code(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


def _whole(text: str) -> str:
    """The text with lone surrogates escaped, which UTF-8 cannot encode."""
    return text.encode("utf-8", "backslashreplace").decode()


def json_time(created: float) -> str:
    return f"{_second(int(created))}.{int(created % 1 * 1000):03}Z"


@lru_cache(maxsize=2)
def _second(time: int) -> str:
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%S")
