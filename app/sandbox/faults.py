"""Faults: each is a function from the regular answer to a faulty one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

from . import errors
from .errors import DIALECTS
from .wire import DONE, Answer, Cut, Item, Json, Pause, StreamedAnswer, Whole, event, is_event


@dataclass(frozen=True, slots=True)
class Scene:
    """The input of a fault: the host, the text that contains the trigger, the regular answer."""

    host: str
    text: str
    answer: Answer


Fault = Callable[[Scene], Answer]


# -------------------------------------------------------------- instead of the answer

EMPTY_ACCOUNT = {
    "jina": "Account balance not enough to run this query, please recharge.",
    "aihubmix": "Your account balance is insufficient. Please recharge your account to continue using the API.",
}
_BALANCE_STATUS = {"jina": 403, "aihubmix": 403}  # 402 everywhere else


def refusal(status: int, code: str, told: dict[str, str], headers: dict[str, str] | None = None) -> Fault:
    """An error in the host's own format. ``told``: messages by host; a host without one gets that of ``jina``."""

    def fault(scene: Scene) -> Answer:
        answer = DIALECTS[scene.host](status, told.get(scene.host, told["jina"]), code)
        wait = (headers or {}).get("retry-after", "")
        own = {"retryAfter": int(wait)} if scene.host in errors.WEB and wait else {}
        return replace(answer, body={**answer.body, **own}, headers=headers or {})

    return fault


def balance(status: int | None = None) -> Fault:
    """The account is empty. ``status`` defaults to the host's own status."""

    def fault(scene: Scene) -> Answer:
        return refusal(status or _BALANCE_STATUS.get(scene.host, 402), "AUTHZ_INSUFFICIENT_BALANCE", EMPTY_ACCOUNT)(
            scene
        )

    return fault


def validation(scene: Scene) -> Answer:
    """Jina echoes the input. At DeepSearch, a 422 means that its account service failed; the call may be retried."""
    if scene.host == "jina":
        wrong = [
            errors.problem("input", "Input should be a valid string", "string_type", scene.text),
            errors.problem("task", "Input should be 'retrieval.query'", "enum", scene.text),
        ]
        return errors.jina_validation(wrong)
    if scene.host == "deepsearch":
        return errors.deepsearch(422, "Failed to fetch user quota from the account service")
    if scene.host in errors.WEB:
        return errors.civkit(42206, "No content available for this request")
    return errors.aihubmix(422, f"invalid input: {scene.text}")


def web(status: int, message: str) -> Fault:
    """An error of the reader and the search, by its number of five digits; elsewhere the regular answer."""
    return lambda scene: errors.civkit(status, message) if scene.host in errors.WEB else scene.answer


def limited_until() -> Fault:
    """Too many requests, with a date in Retry-After: five seconds from now."""

    def fault(scene: Scene) -> Answer:
        until = format_datetime(datetime.now(UTC) + timedelta(seconds=5), usegmt=True)
        answer = DIALECTS[scene.host](429, "Request rate limit exceeded", "RATE_REQUEST_LIMIT_EXCEEDED")
        return replace(answer, headers={"retry-after": until})

    return fault


def only(hosts: tuple[str, ...], fault: Fault) -> Fault:
    """``fault`` at these hosts; elsewhere the regular answer."""
    return lambda scene: fault(scene) if scene.host in hosts else scene.answer


def fixed(answer: Answer) -> Fault:
    return lambda scene: answer


def silence(scene: Scene) -> Answer:
    """Only the head is sent."""
    return replace(_half(scene.answer), items=[b"", Cut.HANG])


# ------------------------------------------------------------ half of the answer


def stops(*ends: Item) -> Fault:
    """The first half of the answer, followed by ``ends``."""

    def fault(scene: Scene) -> Answer:
        half = _half(scene.answer)
        return replace(half, items=[*half.items, *ends])

    return fault


def truncated(scene: Scene) -> Answer:
    """A stream ends cleanly in its middle. A whole answer cannot, so its connection is closed."""
    return _half(scene.answer) if isinstance(scene.answer, StreamedAnswer) else stops(Cut.CLOSE)(scene)


def half_json(scene: Scene) -> Answer:
    """A whole answer is cut in its middle, a stream in the middle of an event; both end cleanly."""
    if isinstance(scene.answer, Whole):
        content = scene.answer.content
        return replace(scene.answer, body=content[: len(content) // 2])
    last = scene.answer.written([item for item in scene.answer.items if is_event(item)][-1])
    return stops(last[: len(last) // 2], b"\n\n")(scene)


def _half(answer: Answer) -> StreamedAnswer:
    if isinstance(answer, StreamedAnswer):
        return replace(answer, items=_first_half(answer.items))
    content = answer.content
    headers = {**answer.headers, "content-length": str(len(content))}
    return StreamedAnswer([content[: len(content) // 2]], answer.status, answer.content_type, headers)


def _first_half(items: list[Item]) -> list[Item]:
    """The items before the middle event: at least one event, never the last."""
    places = [at for at, item in enumerate(items) if is_event(item)]
    return items[: places[max(1, len(places) // 2)]] if len(places) > 1 else items


# ------------------------------------------------------------ the answer, changed


def rows(change: Callable[[list[Any]], list[Any]]) -> Fault:
    """Change the vectors, the results or the classifications: lists of items with an index."""

    def fault(scene: Scene) -> Answer:
        if not isinstance(scene.answer, Whole) or not isinstance(scene.answer.body, dict):
            return scene.answer
        body = scene.answer.body.items()
        return replace(scene.answer, body={key: change(value) if _indexed(value) else value for key, value in body})

    return fault


def _indexed(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) and "index" in item for item in value)


def misnumbered(items: list[Any]) -> list[Any]:
    return [*items[:-1], {**items[-1], "index": len(items) + 7}] if items else items


def no_usage(scene: Scene) -> Answer:
    answer = scene.answer
    if isinstance(answer, StreamedAnswer):
        return replace(answer, items=[_without_usage(item) for item in answer.items])
    headers = {name: value for name, value in answer.headers.items() if name != "x-usage-tokens"}
    return replace(answer, body=_without_usage(answer.body), headers=headers)


def _without_usage(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_usage(inner) for key, inner in value.items() if key != "usage"}
    return [_without_usage(inner) for inner in value] if isinstance(value, list) else value


def slow(seconds: float) -> Fault:
    """Silence before the first byte, in seconds at pace 1."""

    def fault(scene: Scene) -> Answer:
        answer = scene.answer
        if isinstance(answer, Whole):
            return replace(answer, wait=seconds)
        return replace(answer, items=[Pause(seconds), *answer.items])

    return fault


# ------------------------------------------------------------ the stream, changed


def stream(change: Callable[[Scene, list[Item]], list[Item]]) -> Fault:
    """Change the items of a stream; a whole answer stays as it is."""

    def fault(scene: Scene) -> Answer:
        answer = scene.answer
        return replace(answer, items=change(scene, answer.items)) if isinstance(answer, StreamedAnswer) else answer

    return fault


def error_line(scene: Scene, items: list[Item]) -> list[Item]:
    return [*_first_half(items), _upstream_error(scene)]


def error_event(scene: Scene, items: list[Item]) -> list[Item]:
    if scene.host in errors.WEB:  # the reader and the search name all their events, and have no [DONE]
        return [*_first_half(items), event(_upstream_error(scene), "error")]
    return [*_first_half(items), event({**_upstream_error(scene), "type": "error"}, "error"), DONE]


def _upstream_error(scene: Scene) -> Json:
    body: Json = DIALECTS[scene.host](500, "upstream error", "INTERNAL_ERROR").body
    return body


def no_done(scene: Scene, items: list[Item]) -> list[Item]:
    return [item for item in items if item != DONE]


def done(scene: Scene, items: list[Item]) -> list[Item]:
    return [*no_done(scene, items), DONE]


def no_last_newline(scene: Scene, items: list[Item]) -> list[Item]:
    last = _written(scene, items[-1])
    return [*items[:-1], last.rstrip(b"\n") if isinstance(last, bytes) else last]


def usage_apart(scene: Scene, items: list[Item]) -> list[Item]:
    return [part for item in items for part in _apart(item)]


def _apart(item: Item) -> list[Item]:
    if not isinstance(item, dict) or not item.get("usage") or not item.get("choices"):
        return [item]
    return [_without_usage(item), {**item, "choices": []}]


def comments(scene: Scene, items: list[Item]) -> list[Item]:
    return [part for item in items for part in ([item] if isinstance(item, Pause) else [b": keep-alive\n", item])]


def mark_first(scene: Scene, items: list[Item]) -> list[Item]:
    return [b"\xef\xbb\xbf", *items]


def newlines(newline: bytes) -> Fault:
    def ended(scene: Scene, item: Item) -> Item:
        written = _written(scene, item)
        return written.replace(b"\n", newline) if isinstance(written, bytes) else written

    return stream(lambda scene, items: [ended(scene, item) for item in items])


def _written(scene: Scene, item: Item) -> Item:
    assert isinstance(scene.answer, StreamedAnswer)
    return scene.answer.written(item) if is_event(item) else item
