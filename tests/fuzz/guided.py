"""Coverage-guided fuzzing with Atheris: `make fuzz-atheris`. Findings are written into the working directory.

The properties are those of test_json and test_events.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

atheris: Any = importlib.import_module("atheris")

with atheris.instrument_imports(include=["app.core.json", "app.core.sse"]):
    from app.core import json as jsontext
    from app.core import sse

from .test_events import cut, decoded  # noqa: E402 - after what is instrumented
from .test_json import same  # noqa: E402

assert jsontext
assert sse


def json_text(data: bytes) -> None:
    same(data)


def events(data: bytes) -> None:
    """The first bytes are the positions to cut the rest at."""
    places, stream = list(data[:4]), data[4:]
    assert decoded(cut(stream, places), 10**6) == decoded([stream], 10**6)


TARGETS = {"json": json_text, "events": events}

if __name__ == "__main__":
    name, *options = sys.argv[1:]
    atheris.Setup([sys.argv[0], *options], TARGETS[name])
    atheris.Fuzz()
