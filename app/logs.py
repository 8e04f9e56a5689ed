"""What the process says of itself: one line for each record, on stderr, without a secret in it.

    JSON   {"time":"2026-09-20T08:15:30.123Z","level":"INFO","logger":"torii.calls","message":"chat 200","status":200}
    text   08:15:30 INFO  torii.calls: chat 200  status=200

Callers and upstreams have a say in what is logged, so nothing that they send may end a line,
move a terminal's cursor or hide what follows. An exception's traceback is part of its record:
a field in JSON, indented lines in text.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

Redact = Callable[[str], str]

# Torii's own records and uvicorn's; other libraries are heard when something is wrong.
_OWN = "torii"
_SERVER = "uvicorn"

# Controls, bidirectional and invisible marks, line separators, and halves of surrogate pairs.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}

# What every record has, and what uvicorn adds for terminals; everything else is a field of the record's own.
_PLAIN = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "color_message"}


def configure(level: str, redact: Redact, json: bool) -> None:
    """Sends every record to stderr: of Torii from ``level`` on (``debug``, ``info`` ...), of libraries the warnings.

    ``redact`` sees every text that came with a record: message, fields and traceback.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(redact) if json else TextLines(redact))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger(_OWN).setLevel(level.upper())
    # That a server has started is said by the command line, with more in it.
    logging.getLogger(_SERVER).setLevel(max(logging.getLogger(_OWN).level, logging.WARNING))
    # A record that cannot be written must not print its arguments instead.
    logging.raiseExceptions = False


class Lines(logging.Formatter):
    """What both forms have in common: the record's texts, redacted."""

    def __init__(self, redact: Redact) -> None:
        super().__init__()
        self._redact = redact

    def _message(self, record: logging.LogRecord) -> str:
        return self._redact(record.getMessage())

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        return {name: self._value(value) for name, value in vars(record).items() if name not in _PLAIN}

    def _value(self, value: object) -> Any:
        if value is None or isinstance(value, bool | float):
            return value
        if isinstance(value, int) and -(2**63) <= value < 2**63:
            return value
        return self._redact(str(value))

    def _trace(self, record: logging.LogRecord) -> str:
        parts = [self.formatException(record.exc_info)] if record.exc_info else []
        parts += [record.stack_info] if record.stack_info else []
        return self._redact("\n".join(parts))


class JsonLines(Lines):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _utc(record).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": self._message(record),
            **self._fields(record),
        }
        if trace := self._trace(record):
            line["exception"] = trace
        whole = {name: _whole(value) if isinstance(value, str) else value for name, value in line.items()}
        return _UNSEEN.sub(_code, msgspec.json.encode(whole).decode())


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


def _utc(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created, UTC)
