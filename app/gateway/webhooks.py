"""Alerts as signed POSTs to an address of the operator, beside the calls.

    POST, content-type: application/json
    x-torii-event: evt_...             the same in each try, as the body's id
    x-torii-timestamp: 1790000000      Unix time in seconds, the body's created
    x-torii-signature: sha256=<hex>    HMAC-SHA256 of the body, byte for byte, with the secret; none without a secret

Any status of success ends it. After anything else it is tried again, 5 times in all. Alerts wait for one another, so
they arrive in order; those for which there is no room are dropped and counted. Neither the address nor the secret is
ever logged.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

import msgspec

from ..core.errors import ToriiError
from ..core.types import Json, Request
from ..upstreams.client import Wire, engine
from ..upstreams.client.client import Client, Deadlines

logger = logging.getLogger("torii.alerts")

WAITS = (1.0, 5.0, 25.0, 125.0)  # seconds before each further try
ROOM = 1000  # alerts that may wait
SECONDS = 10.0  # for one try


def webhook_client(user_agent: str, ca: bytes = b"") -> Client:
    """A client of its own over httpx, which is imported only here: the upstreams' one knows no query in an address."""
    return Client(
        engine("httpx", Wire(user_agent, connections=4, ca=ca)),
        Deadlines(headers=SECONDS, reply=SECONDS, idle=SECONDS, event=SECONDS, total=SECONDS),
    )


def signature(secret: str, body: bytes) -> str:
    """The value of x-torii-signature for a body."""
    return f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"


class _Letter(NamedTuple):
    body: bytes
    headers: Mapping[str, str]


class Webhook:
    """Sends events to ``url``, signed if there is a ``secret``. ``waits`` are the seconds before each further try.

    ``sent``, ``failed`` and ``dropped`` count events: delivered, given up after all tries, and those without room.
    """

    def __init__(
        self, client: Client, url: str, secret: str | None = None, *, waits: tuple[float, ...] = WAITS, room: int = ROOM
    ) -> None:
        self.sent = self.failed = self.dropped = 0
        self._client = client
        self._url = url
        self._secret = secret
        self._waits = waits
        self._room = room
        self._queue: deque[_Letter] = deque()
        self._task: asyncio.Task[None] | None = None

    def send(self, event: Json) -> None:
        """Takes an event, with ``id`` and ``created``, to be sent soon. For the event loop; never waits."""
        if len(self._queue) >= self._room:
            self.dropped += 1
            logger.error("the webhook of alerts: an alert was dropped, because %d wait", len(self._queue))
            return
        body = msgspec.json.encode(event)
        headers = {
            "content-type": "application/json",
            "x-torii-event": str(event["id"]),
            "x-torii-timestamp": str(event["created"]),
        }
        if self._secret:
            headers["x-torii-signature"] = signature(self._secret, body)
        self._queue.append(_Letter(body, headers))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._deliver())

    async def aclose(self, seconds: float = 0) -> None:
        """Gives the alerts that wait ``seconds`` to be sent, and ends."""
        if self._task is not None:
            await asyncio.wait([self._task], timeout=seconds)
            if self._task is not None:
                self._task.cancel()
                with suppress(asyncio.CancelledError):
                    await self._task
        if self._queue:
            logger.error("the webhook of alerts: %d alerts were not delivered before the end", len(self._queue))
        await self._client.aclose()

    async def _deliver(self) -> None:
        try:
            while self._queue:
                letter = self._queue[0]
                await self._try(letter)
                self._queue.popleft()
        finally:
            self._task = None

    async def _try(self, letter: _Letter) -> None:
        fault = ""
        for wait in (0.0, *self._waits):
            await asyncio.sleep(wait)
            fault = await self._post(letter)
            if not fault:
                self.sent += 1
                return
        self.failed += 1
        logger.error("the webhook of alerts: an alert was not delivered in %d tries: %s", len(self._waits) + 1, fault)

    async def _post(self, letter: _Letter) -> str:
        """The reason for which the alert was not taken; empty if it was."""
        try:
            answer = await self._client.open(Request(self._url, dict(letter.headers), letter.body, once=True))
        except ToriiError as error:
            reason = getattr(error, "reason", None) or type(error).__name__
            return f"no answer: {reason}"
        await answer.aclose()
        return "" if 200 <= answer.status < 300 else f"status {answer.status}"
