"""The operator's API of the gateway on this machine, asked by the commands."""

from __future__ import annotations

import http.client
import sys
from urllib.parse import quote, urlencode

import msgspec

from ..core.types import Json
from .options import NotAlive, Wrong, reason

SECONDS = 30
PAGE = 100  # entries asked for at once
NO_OPERATOR = (
    "this command needs the operator's key, and none is set. Set TORII_OPERATOR_KEY (16 characters or more; "
    "generate one with `openssl rand -hex 24`) for the gateway and for this command, and restart the gateway."
)
OTHER_OPERATOR = {
    401: "the gateway has another operator_key. Set the same operator_key for the gateway and this command.",
    404: "the gateway has no operator_key. Restart the gateway with the operator_key of this command.",
}
UNEXPECTED = "is this a Torii gateway?"


class Api:
    """``url`` is the gateway's, ``key`` the operator's or a management key.

    All functions raise Wrong for a request that the gateway refuses, with the gateway's words, and NotAlive for any
    other failure.
    """

    def __init__(self, url: str, key: str | None = None, seconds: float = SECONDS) -> None:
        self.url = url
        self._key = key
        self._seconds = seconds

    def entries(self, kind: str, most: int = sys.maxsize) -> list[Json]:
        """The entries of ``keys``, ``teams`` and so on, page by page, at most ``most``."""
        found: list[Json] = []
        more = True
        while more and len(found) < most:
            after = found[-1]["id"] if found else None
            page = self._asked("GET", kind, {"limit": min(PAGE, most - len(found)), "after": after})
            found += page["data"]
            more = page["has_more"]
        return found

    def create(self, kind: str, body: Json) -> Json:
        return self._asked("POST", kind, body=body)

    def edit(self, kind: str, entry: str, changes: Json) -> Json:
        return self._asked("PATCH", f"{kind}/{quote(entry, safe='')}", body=changes)

    def delete(self, kind: str, entry: str) -> Json:
        return self._asked("DELETE", f"{kind}/{quote(entry, safe='')}")

    def rotate(self, entry: str, grace_seconds: int) -> Json:
        return self._asked("POST", f"keys/{quote(entry, safe='')}/rotate", body={"grace_seconds": grace_seconds})

    def left(self, kind: str, entry: str) -> list[Json]:
        """The rest of the limits of a ``key`` or ``team``, one entry for each scope."""
        found: list[Json] = self._asked("GET", "limits", {kind: entry})["data"]
        return found

    def classifiers(self, *, orphans: bool) -> Json:
        """The classifiers with their owners; with ``orphans`` only those that nobody can use."""
        return self._asked("GET", "classifiers", {"orphans": "true" if orphans else None})

    def adopt(self, classifier: str, owner: Json) -> Json:
        """Gives a classifier to a ``key`` or a ``team``, by its id."""
        return self._asked("POST", f"classifiers/{quote(classifier, safe='')}/adopt", body=owner)

    def _asked(self, method: str, path: str, query: Json | None = None, body: Json | None = None) -> Json:
        given = urlencode({name: value for name, value in (query or {}).items() if value is not None})
        place = f"/admin/v1/{path}" + (f"?{given}" if given else "")
        status, answer = self.exchange(method, place, body)
        try:
            found = msgspec.json.decode(answer) if answer else {}
            if status < 300:
                return dict(found)
            error = found["error"]
            message, code = str(error["message"]), error["code"]
        except (msgspec.DecodeError, KeyError, TypeError, ValueError):
            raise NotAlive(f"{self.url}{place} answered {status}: {UNEXPECTED}") from None
        if status == 401 or (status == 404 and code == "not_found" and path.count("/") == 0):
            raise NotAlive(f"{self.url}{place} answered {status}: {OTHER_OPERATOR[status]}")
        raise (Wrong if status < 500 else NotAlive)(message)

    def exchange(self, method: str, path: str, body: Json | None = None) -> tuple[int, bytes]:
        """Status and body of any request to the gateway. Raises NotAlive if there is no response."""
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=self._seconds)
        headers = {"authorization": f"Bearer {self._key}"} if self._key else {}
        raw = None if body is None else msgspec.json.encode(body)
        try:
            connection.request(method, path, raw, headers | ({"content-type": "application/json"} if raw else {}))
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise NotAlive(f"no answer at {self.url}{path}: {reason(error)}") from None
        finally:
            connection.close()
