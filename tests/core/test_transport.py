"""Data written at the end of a turn of the loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from app.core.transport import CoalescingTransport

from ..conftest import PATIENCE


@asynccontextmanager
async def connection() -> AsyncIterator[tuple[CoalescingTransport, asyncio.StreamReader]]:
    """Both ends of a connection: its transport, and a reader at the other end."""
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection(sock=theirs)
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=ours)
    try:
        yield CoalescingTransport(transport, loop), reader
    finally:
        transport.abort()
        writer.close()


async def rest(reader: asyncio.StreamReader) -> bytes:
    return await asyncio.wait_for(reader.read(), PATIENCE)


async def test_what_is_written_in_a_turn_goes_out_at_its_end_in_order() -> None:
    async with connection() as (outgoing, reader):
        outgoing.write(b"one ")
        outgoing.write(b"two")
        assert outgoing.get_write_buffer_size() == 7
        await asyncio.sleep(0)
        assert outgoing.get_write_buffer_size() == 0
        assert await asyncio.wait_for(reader.readexactly(7), PATIENCE) == b"one two"


@pytest.mark.parametrize("end", ["close", "write_eof"])
async def test_nothing_is_lost_where_the_end_follows_at_once(end: str) -> None:
    async with connection() as (outgoing, reader):
        outgoing.write(b"one ")
        outgoing.write(b"two")
        getattr(outgoing, end)()
        assert await rest(reader) == b"one two"
        assert outgoing.is_closing() is (end == "close")


async def test_what_was_not_sent_is_dropped_where_the_connection_is_broken_off() -> None:
    async with connection() as (outgoing, reader):
        outgoing.write(b"one")
        outgoing.abort()
        assert outgoing.is_closing()
        assert await rest(reader) == b""


async def test_more_than_the_system_takes_holds_the_writer_back() -> None:
    async with connection() as (outgoing, reader):
        outgoing.write(b"x" * 8_000_000)
        await asyncio.sleep(0)
        assert 0 < outgoing.get_write_buffer_size() < 8_000_000
        assert len(await asyncio.wait_for(reader.readexactly(8_000_000), PATIENCE)) == 8_000_000
