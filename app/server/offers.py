"""Upgrade offers: h2c, which Java's HTTP client sends with every plaintext request, or WebSocket.

A server may ignore an upgrade offer (RFC 9110, section 7.8). Torii does, and serves the request in HTTP/1.1.
"""

from __future__ import annotations

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ..core.errors import InvalidRequest

NO_PROXY = "the request's target must be a path such as /v1/embeddings; this gateway is not a proxy"


class Offers(HttpToolsProtocol):
    """Ignores upgrade offers. The parser stops after a head with an offer and takes the body for the other protocol, so
    a new parser reads the head without the offer, and then the rest."""

    _in_head = False  # from the first byte of a request to the empty line

    def _feed(self, data: bytes | memoryview) -> None:
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as offer:
                end: int = offer.args[0]
            data = memoryview(data)[end:]
            self._read_again()

    def _read_again(self) -> None:
        start = b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        lines = [b"%b: %b" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self.parser.feed_data(b"\r\n".join([start, *lines, b"", b""]))

    @property
    def _has_offer(self) -> bool:
        """True if ``on_headers_complete`` must ignore the head, because it is read again without the offer. Raises
        InvalidRequest for CONNECT, which has no other meaning."""
        if not self.parser.should_upgrade():
            return False
        if self.parser.get_method() == b"CONNECT":
            raise InvalidRequest(NO_PROXY)
        return True

    def on_message_complete(self) -> None:
        """As in uvicorn, except for the message that the parser reports for a head with an offer."""
        if not self._in_head and not self.cycle.response_complete:
            self.cycle.more_body = False
            self.cycle.message_event.set()
