"""The created keys in memory: a call looks up no file.

A thread looks at the store's change number twice a second, or when it hears of a change, and reads the keys again when
it has risen. So it does before an unknown virtual key is refused: a created key works at once in every process. While
the store cannot be read, the last known keys hold.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from hashlib import sha256
from pathlib import Path
from typing import Protocol
from weakref import WeakSet

from ..storage.connection import StoreConnection
from ..storage.errors import DRIVER_ERRORS, StoreError, store_error
from ..storage.key_records import KeySnapshot, ManagementRecord, change_number, snapshot
from ..storage.location import Location, rows_beside
from ..storage.opening import connect, identity, refuse_other
from ..storage.postgres.listener import Listener

logger = logging.getLogger("torii.keys")

POLL_SECONDS = 0.5
BUSY_SECONDS = 1.0


class View(Protocol):
    """A consumer of the keys: it is told all of them at each change, in any thread."""

    def adopt(self, found: KeySnapshot) -> None: ...


def mark(location: Location) -> Path:
    """An empty file beside the ledger, which is there since a gateway saw keys in it."""
    path = rows_beside(location)
    which = "" if isinstance(location, Path) else f"-{sha256(str(location).encode()).hexdigest()[:8]}"
    return path.with_name(f"{path.name}{which}.had-keys")


class Registry:
    """The keys of the store at ``location``; without one there are none. The constructor reads them.

    Once there were keys, the file ``mark`` says so, even if the ledger is lost.

    ``now`` are all keys, teams and management keys. ``loaded``: the file was read since the start, or there was none.
    ``trouble``: why the file cannot be read now, None if it can. ``push`` tells other replicas of a change, in any
    thread.
    """

    def __init__(self, location: Location | None = None, poll_seconds: float = POLL_SECONDS) -> None:
        self.location = location
        self.now = KeySnapshot()
        self.loaded = location is None
        self.trouble: str | None = None
        self.push: Callable[[], None] | None = None
        self._poll_seconds = poll_seconds
        self._any = location is not None and mark(location).exists()
        self._hashes: Mapping[str, ManagementRecord] = {}
        self._views: WeakSet[View] = WeakSet()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._connection: StoreConnection | None = None
        self._file: tuple[int, int] | None = None
        self._thread: threading.Thread | None = None
        self._turn, self._looked = asyncio.Lock(), 0.0
        self.refresh()
        self._disconnect()  # until the thread begins
        if location is not None and self._any and self.loaded and not self.now.keys:
            logger.warning(
                "%s has no keys, but had some: the gateway stays closed until one is created, or until %s is removed",
                *(location, mark(location)),
            )

    @property
    def created(self) -> bool:
        """True if a key was ever created, revoked ones included, or if nobody can tell."""
        return self._any or not self.loaded

    def start(self) -> None:
        """Look at the file from now on, in a thread."""
        if self.location is not None and self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="torii-keys", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Ends the thread, and closes the file."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            self._disconnect()

    def refresh(self) -> None:
        """Reads the keys if they have changed: so a change made in this process is seen at once. Never raises. Waits
        for the file, so it belongs in a thread while calls are served."""
        if self.location is None:
            return
        with self._lock:
            try:
                found = self._read(self.location)
            except (*DRIVER_ERRORS, OSError, StoreError, ValueError, TypeError) as error:
                self._disconnect()
                self._file = None  # another file may come, even with the same inode and change number
                self._failed(error)
                return
            self._report(None)
            if found is not None or not self.loaded:
                self.loaded = True
                self._put(found or self.now)

    def changed(self) -> None:
        """``refresh`` after a change that was made in this process."""
        self.refresh()
        if self.push is not None:
            self.push()

    async def look(self) -> None:
        """``refresh`` for a caller on the event loop. Those who ask while it reads share the next reading. Nothing is
        read while the store is away: the thread tries it again."""
        asked = time.monotonic()
        if self.trouble is not None:
            return
        async with self._turn:
            if self._looked <= asked:
                self._looked = time.monotonic()
                await asyncio.to_thread(self.refresh)

    def watch(self, view: View) -> None:
        """Keep ``view`` up to date from now on."""
        with self._lock:
            self._views.add(view)
            view.adopt(self.now)

    def management(self, digest: bytes) -> ManagementRecord | None:
        """The management key with this SHA-256."""
        return self._hashes.get(digest.hex())

    def _watch(self) -> None:
        assert self.location is not None
        with closing(Listener(self.location, self._poll_seconds, self._closing)) as listener:
            while listener.wait():
                self.refresh()

    def _read(self, location: Location) -> KeySnapshot | None:
        """The keys; None if they have not changed. Raises DRIVER_ERRORS, and OSError without a file."""
        if isinstance(location, Path):
            location.stat()
        file = identity(location)
        if self._connection is None or file != self._file:
            self._disconnect()
            self._connection = connect(location, "ro", BUSY_SECONDS, any_thread=True)
        if file == self._file and change_number(self._connection) == self.now.number:
            return None
        refuse_other(self._connection)
        self._connection.snapshot()  # all selects see one moment
        found = snapshot(self._connection)
        self._connection.commit()
        if self.now.number and not found.number:  # a new ledger in place of one that was removed
            raise StoreError("a file without keys is in its place")
        self._file = file
        return found

    def _put(self, found: KeySnapshot) -> None:
        if found.keys and not self._any:
            self._any = True
            self._remember()
        self._hashes = {record.hash: record for record in found.management.values()}
        self.now = found
        for view in list(self._views):
            view.adopt(found)

    def _remember(self) -> None:
        """Leave a file that outlives the ledger: a gateway whose ledger was lost must not be open after a restart."""
        if self.location is not None:
            try:
                mark(self.location).touch(mode=0o600)
            except OSError as error:
                logger.warning("%s cannot be created: %s", mark(self.location), error.strerror)

    def _failed(self, error: Exception) -> None:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        if missing and not self.loaded:
            self.loaded = True
            self._put(self.now)
        if missing and not self._any:
            self._report(None)
        else:
            self._report("there is no such file" if missing else str(store_error(error)))

    def _report(self, trouble: str | None) -> None:
        if trouble != self.trouble:
            self.trouble = trouble
            if trouble:
                logger.error("the keys cannot be read: %s; the last known ones hold", trouble)
            else:
                logger.warning("the keys are read again")

    def _disconnect(self) -> None:
        if self._connection is not None:
            with suppress(*DRIVER_ERRORS):
                self._connection.close()
            self._connection = None
