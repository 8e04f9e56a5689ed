"""The interface of an upstream's answer whose head has arrived."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Protocol


class Stream(Protocol):
    """An upstream's answer whose head has arrived.

    status      the status of the answer
    headers     the headers that describe an error; empty for a status of success
    event_bytes the most bytes of one event
    progressed  reports that an event has arrived: only the reader of the stream can tell
    pieces      the pieces of the body that have arrived since the last call; None at the end of the body, empty if the
                time ``look`` (monotonic clock) comes first, in which case no data is lost
    read        the whole body
    aclose      closes the connection; may be called at any time and repeatedly
    """

    status: int
    headers: Mapping[str, str]
    event_bytes: int

    def progressed(self) -> None: ...
    async def pieces(self, look: float = math.inf) -> Iterable[bytes] | None: ...
    async def read(self) -> bytes: ...
    async def aclose(self) -> None: ...
