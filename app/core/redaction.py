"""Redaction of secrets and upstream hosts in texts for callers and logs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from .errors import ToriiError

# Any text in the form of a provider's key, even if the key is not ours: upstreams echo keys in their errors.
_KEY_SHAPED = re.compile(r"\b(?:jina_[A-Za-z0-9_\-]{16,}|(?:sk|mk-torii)-[A-Za-z0-9_\-*]{12,}|tid_[A-Za-z0-9]{16,})")
_URL = re.compile(r"https?://[^\s\"'<>)\]]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


class Redactor:
    """Removes the known secrets and upstream hosts from texts.

    Longer secrets are replaced first, so that no part of a secret remains if it contains another one.
    """

    def __init__(self, secrets: Iterable[str] = (), hosts: Iterable[str] = ()) -> None:
        known = sorted({s for s in secrets if len(s) >= 4}, key=len, reverse=True)
        self._secrets = re.compile("|".join(map(re.escape, known))) if known else None
        places = sorted({h for h in hosts if h}, key=len, reverse=True)
        self._hosts = re.compile("|".join(map(re.escape, places)), re.IGNORECASE) if places else None

    def secrets(self, text: str) -> str:
        """For logs: no known secret, no key of a known form."""
        if self._secrets is not None:
            text = self._secrets.sub("[redacted]", text)
        return _KEY_SHAPED.sub("[redacted]", text)

    def message(self, text: str) -> str:
        """For callers: no key, no upstream host, no control character."""
        text = _CONTROL.sub(" ", self.secrets(text))
        if self._hosts is not None:
            hosts = self._hosts
            text = _URL.sub(lambda m: "[upstream]" if hosts.search(m[0]) else m[0], text)
            text = hosts.sub("[upstream]", text)
        return text

    def envelope(self, error: ToriiError) -> dict[str, Any]:
        """The error object for a caller: no key and no upstream host in any field; an answer as it is."""
        envelope = error.envelope()
        own = {k: part and self.message(part) for k, part in envelope["error"].items() if k != "upstream_text"}
        return {**envelope, "error": {**envelope["error"], **own}, "detail": own["message"]}
