"""A proxy as a process of its own: CONNECT and forwarding for any host, to one port of this machine.

    python -m tests.proxy PORT [--password PASSWORD] [--says "403 Forbidden"]

Prints its own port, then each request's head as a line of JSON: the request line, then the names and values of headers.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from .cli.test_cli import ROOT, environment

USER = "torii"


@dataclass
class Proxy:
    port: int
    out: Path

    @property
    def heads(self) -> list[list[str]]:
        """The head of each received request, line by line."""
        return [msgspec.json.decode(line) for line in self.out.read_text().splitlines()[1:]]


@contextmanager
def proxy(folder: Path, port: int, *words: str) -> Iterator[Proxy]:
    """A running proxy, with its received heads in a file of the folder."""
    out = folder / "proxy"
    with out.open("wb") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.proxy", str(port), *words],
            cwd=ROOT,
            env=environment({}),
            stdout=written,
            stdin=subprocess.PIPE,
        )
    try:
        with out.open("rb") as read:
            while not (line := read.readline()).endswith(b"\n"):
                read.seek(0)
                assert process.poll() is None
        yield Proxy(int(line), out)
    finally:
        process.kill()
        process.communicate()


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _serve(given: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while lines := (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")[:-4].split("\r\n"):
            print(msgspec.json.encode(lines).decode(), flush=True)
            names = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
            known = "Basic " + b64encode(f"{USER}:{given.password}".encode()).decode()
            refused = given.password and names.get("proxy-authorization") != known
            if says := "407 Proxy Authentication Required" if refused else given.says:
                writer.write(f"HTTP/1.1 {says}\r\ncontent-length: 0\r\n\r\n".encode())
                break
            upstream, there = await asyncio.open_connection("127.0.0.1", given.port)
            if lines[0].startswith("CONNECT "):
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await asyncio.gather(_relay(reader, there), _relay(upstream, writer))
                return
            there.write(_forwarded(lines) + await reader.readexactly(int(names["content-length"])))
            there.write_eof()
            writer.write(await upstream.read())
            there.close()
    writer.close()


def _forwarded(lines: list[str]) -> bytes:
    """A request head as the upstream gets it: with a path of its own, and without headers for the proxy."""
    method, url, version = lines[0].split(" ")
    kept = [line for line in lines[1:] if not line.lower().startswith("proxy-")]
    return "\r\n".join([f"{method} /{url.split('/', 3)[3]} {version}", *kept, "", ""]).encode("latin-1")


async def _main(given: Any) -> None:
    server = await asyncio.start_server(lambda *ends: _serve(given, *ends), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--password", default="")
    parser.add_argument("--says", default="")
    asyncio.run(_main(parser.parse_args()))
