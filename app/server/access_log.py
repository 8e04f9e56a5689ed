"""The access log: one line for each finished call, whatever its outcome.

    {"time":"...","level":"INFO","logger":"torii.calls","message":"chat 200","caller":"local",...,"seconds":0.1}

The line has the form of all other log lines (logs.py) and waits in the same buffer, but is not made from a
``LogRecord``, which would cost a call more than the rest of the line. If another program has configured the logging,
such as a development server, the call is an ordinary record.
"""

from __future__ import annotations

import logging
import time
from functools import lru_cache

import msgspec

from ..core.types import Json
from ..usage.record import CallRecord, rounded
from . import logs

logger = logging.getLogger("torii.calls")

# Fields that many calls share, and that may hold a caller's text. The last two are present only if the call failed.
NAMES = ("caller", "endpoint", "model", "upstream", "upstream_model", "status", "cache", "error", "reason")
Values = tuple[str | int | None, ...]


def write(record: CallRecord) -> None:
    """The line of ``record``, unless the log's level is above INFO."""
    if not logger.isEnabledFor(logging.INFO):
        return
    log = logs.installed()
    if log is None:
        values = _values(record)
        logger.info(_message(values), extra={**_fields(values), **_figures(record)})
    else:
        log.add(_line, record)


def _values(record: CallRecord) -> Values:
    target, error = record.target, record.error
    upstream, model = (target.upstream.name, target.name) if target is not None else (None, None)
    call = record.call
    values: Values = (record.caller, call.endpoint.name, call.model, upstream, model, record.status, record.cache)
    return values if error is None else (*values, error.code, getattr(error, "reason", None))


def _figures(record: CallRecord) -> Json:
    """The fields that differ from call to call."""
    usage, first_event = record.usage, record.first_event
    return {
        "request_id": record.request_id,
        "total_tokens": None if usage is None else usage.get("total_tokens"),
        "seconds": rounded(record.seconds or 0, 10_000),
        "first_event_seconds": None if first_event is None else rounded(first_event, 10_000),
    }


def _message(values: Values) -> str:
    return f"{values[1]} {values[5]}"


def _fields(values: Values) -> Json:
    return dict(zip(NAMES, values, strict=False))


def _line(lines: logs.Lines, record: CallRecord) -> str:
    created, values, figures = time.time(), _values(record), _figures(record)
    if isinstance(lines, logs.JsonLines):
        start = _start(lines, values)
        return f'{{"time":"{logs.json_time(created)}",{start},{msgspec.json.encode(figures).decode()[1:]}'
    return lines.format(_record(created, values, figures))


@lru_cache(maxsize=1024)
def _start(lines: logs.Lines, values: Values) -> str:
    """The JSON line from its level to the last of ``values``, cached because many calls share it."""
    line = lines.format(_record(0, values, {}))
    return line[line.index('"level"') : -1]


def _record(created: float, values: Values, figures: Json) -> logging.LogRecord:
    made = {"name": logger.name, "levelname": "INFO", "levelno": logging.INFO, "msg": _message(values)}
    return logging.makeLogRecord({**made, "created": created, **_fields(values), **figures})
