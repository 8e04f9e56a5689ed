"""The stand-ins over HTTP: an ASGI app, and a server that runs it in its own thread.

POST /jina/v1/embeddings        api.jina.ai
POST /deepsearch/v1/...         deepsearch.jina.ai
POST /aihubmix/v1/...           aihubmix.com
POST /reader/                   r.jina.ai
POST /search/                   s.jina.ai
POST /svip/                     svip.jina.ai
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import replace
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, quote

import msgspec
import uvicorn
from uvicorn.server import ServerState

from . import aihubmix, cases, deepsearch, errors, jina, reader, search, svip
from .errors import HostError
from .faults import Scene
from .wire import Answer, Ask, Cut, Event, Handler, Host, Item, Json, Pause, StreamedAnswer, Whole, event

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MARK = ("x-sandbox", "torii")


def hosts() -> dict[str, Host]:
    """The hosts by name. Those of one call share what is kept in memory: the trained classifiers."""
    every = (jina.host(), deepsearch.HOST, aihubmix.HOST, reader.HOST, search.HOST, svip.HOST)
    return {host.name: host for host in every}


def create_app(pace: float = 1.0) -> App:
    """The stand-ins as an ASGI app, for uvicorn. ``pace`` scales the delays: 0 no delays, 1 realistic, 2 twice as
    slow."""
    every = hosts()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = await _read(receive)
        if body is None:
            return
        answer = respond(_ask(scope, body), every)
        await _first(_speak(answer, send, pace), _gone(receive))

    return app


def respond(ask: Ask, every: Mapping[str, Host]) -> Answer:
    """The answer to a request from the host whose base is at the start of the path."""
    host = next((host for host in every.values() if f"{ask.path}/".startswith(f"{host.base}/")), None)
    if host is None:
        known = ", ".join(host.base for host in every.values())
        return errors.express(404, f"Cannot {ask.method} {ask.path}. Known are: {known}")
    ask = replace(ask, path=ask.path.removeprefix(host.base))
    try:
        answer = _answer(host, ask)
    except HostError as refused:
        answer = refused.answer
    answer = host.finish(ask, answer)
    return replace(answer, headers={**host.headers, **answer.headers}) if host.headers else answer


def _answer(host: Host, ask: Ask) -> Answer:
    handler = host.handler(ask)
    if handler is None:
        allowed = ask.method == "OPTIONS" and host.headers  # a CORS preflight
        return Whole(b"", 204) if allowed else host.not_found(ask)
    host.authorise(ask)
    body = host.decode(ask) if host.decode else _decoded(host, ask)
    trigger = cases.find([*cases.texts(body), ask.path, ask.query, ask.authorization or ""], host.provider)
    if trigger is None:
        return handler(body, "")
    if trigger.case.fault is None:
        return handler(body, trigger.case.name)
    return trigger.case.fault(Scene(host.name, trigger.text, _refused_or_not(handler, body)))


def _refused_or_not(handler: Handler, body: Json) -> Answer:
    try:
        return handler(body, "")
    except HostError as refused:
        return refused.answer


def _decoded(host: Host, ask: Ask) -> Json:
    """The parameters of a GET, else the JSON of the body; a DELETE has none."""
    if ask.method in ("GET", "DELETE"):
        return dict(parse_qsl(ask.query, keep_blank_values=True))
    if not ask.body and ask.path.rstrip("/") in host.bodiless:
        return {}
    try:
        decoded = msgspec.json.decode(ask.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HostError(host.unreadable(ask.body)) from error
    if not isinstance(decoded, dict):
        raise HostError(host.unreadable(ask.body))
    return decoded


# ----------------------------------------------------------------------------- ASGI


def _ask(scope: Scope, body: bytes) -> Ask:
    """The request; of a header that comes twice, the last one counts."""
    raw = scope.get("raw_path") or quote(scope["path"]).encode()
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    return Ask(scope["method"], raw.decode("latin-1"), body, scope["query_string"].decode("latin-1"), headers)


async def _read(receive: Receive) -> bytes | None:
    """The body; None if the client has disconnected."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _first(speaking: Any, leaving: Any) -> None:
    """Send the answer until it ends or the client disconnects."""
    tasks = [asyncio.ensure_future(speaking), asyncio.ensure_future(leaving)]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if not tasks[0].cancelled():
        tasks[0].result()


async def _speak(answer: Answer, send: Send, pace: float) -> None:
    items, headers = _items(answer)
    begun, named = False, answer.event if isinstance(answer, StreamedAnswer) else ""
    for item in items:
        if isinstance(item, Pause):
            await asyncio.sleep(item.seconds * pace)
        elif isinstance(item, Cut):
            await _cut(item, send)
        else:
            if not begun:
                await send(_head(answer, headers))
            begun = True
            await send({"type": "http.response.body", "body": _bytes(item, named), "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def _items(answer: Answer) -> tuple[list[Item], dict[str, str]]:
    if isinstance(answer, StreamedAnswer):
        return answer.items, answer.headers
    content = answer.content
    return [Pause(answer.wait), content], {**answer.headers, "content-length": str(len(content))}


def _head(answer: Answer, headers: dict[str, str]) -> Message:
    named = {"content-type": answer.content_type, **headers, MARK[0]: MARK[1]}
    raw = [(name.encode(), value.encode()) for name, value in named.items()]
    return {"type": "http.response.start", "status": answer.status, "headers": raw}


def _bytes(item: Event | bytes, named: str) -> bytes:
    return item if isinstance(item, bytes) else event(item, named)


async def _cut(cut: Cut, send: Send) -> None:
    """Never returns: the task is cancelled when the connection ends.

    ASGI cannot close a connection without an answer. ``send`` is a method of uvicorn's object that holds the transport.
    """
    if cut is Cut.CLOSE:
        transport: asyncio.Transport = send.__self__.transport  # type: ignore[attr-defined]  # uvicorn's own
        transport.close()
    await asyncio.Event().wait()


# --------------------------------------------------------------------------- thread


class Sandbox:
    """The stand-ins on a free port of 127.0.0.1, in a daemon thread with its own event loop.

        with Sandbox(pace=0) as sandbox:
            httpx.post(sandbox.urls["jina"] + "/embeddings", ...)

    ``pace`` scales the delays of DeepSearch (default 1.0). The server handles no signals and writes no log.
    """

    def __init__(self, pace: float = 1.0) -> None:
        self._app = create_app(pace)
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped: asyncio.Event | None = None
        self.urls: dict[str, str] = {}

    def start(self) -> Sandbox:
        """Returns when connections are accepted; ``urls`` then has the base URL of every host."""
        if self._thread is not None:
            raise RuntimeError("The sandbox runs already")
        listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
        port = listener.getsockname()[1]
        self.urls = {name: f"http://127.0.0.1:{port}{host.base}" for name, host in hosts().items()}
        self._thread = threading.Thread(target=self._run, args=(listener,), name="torii-sandbox", daemon=True)
        self._thread.start()
        self._ready.wait()
        if not self._thread.is_alive():
            raise RuntimeError("The sandbox did not start")
        return self

    def stop(self) -> None:
        """Stop the server and abort open requests. Idempotent."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        if self._loop is not None and self._stopped is not None:
            with contextlib.suppress(RuntimeError):  # the loop has already ended
                self._loop.call_soon_threadsafe(self._stopped.set)
        thread.join()
        self._ready.clear()

    def __enter__(self) -> Sandbox:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self, listener: socket.socket) -> None:
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(self._serve(listener))
        finally:
            self._ready.set()

    async def _serve(self, listener: socket.socket) -> None:
        """uvicorn's protocol on a listening socket of our own.

        uvicorn's ``Server`` is not used: it would install signal handlers and log, and other packages patch its
        shutdown.
        """
        config = uvicorn.Config(self._app, log_config=None, log_level=None, http="httptools", ws="none", lifespan="off")
        config.load()
        state = ServerState()
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        server = await self._loop.create_server(lambda: _protocol(config, state), sock=listener)
        self._ready.set()
        await self._stopped.wait()
        server.close()
        for connection in list(state.connections):
            connection.transport.abort()
        await asyncio.gather(*state.tasks, return_exceptions=True)


def _protocol(config: uvicorn.Config, state: ServerState) -> asyncio.Protocol:
    make: Any = config.http_protocol_class
    protocol: Any = make(config=config, server_state=state, app_state={})
    protocol.access_log = False
    made: asyncio.Protocol = protocol
    return made


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, if it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
