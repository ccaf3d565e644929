"""Denied grants: they have ended, and are refused even if Redis does not know it yet or forgets it.

Redis acknowledges a write up to two seconds before it is on its disk, sends it to replicas even later, and refuses
writes while its disk is full. So the end of a grant is first written to a file of this host, and is on the disk before
the revocation is answered. All workers of the host read the file. Grants that other hosts end come as messages through
Redis, which sends these even while it takes no writes. An entry is removed once Redis has certainly kept the end of the
grant (`denial_keeper`).

The file has its full size from the beginning and is written in place, so that a grant can be ended on a full disk.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

CHANNEL: Final = "denied-grants"
"""The channel on which hosts tell each other of ended grants. A message has their ids, separated by spaces."""
FILE_NAME: Final = "denied-grants"
RECORD_BYTES: Final = 64
RECORDS: Final = 4096
"""For how many grants the file has space from the beginning. It grows if the disk has space."""

_GENERATION: Final = struct.Struct("<Q")
_FREE: Final = bytes(RECORD_BYTES)
_SID: Final = re.compile(rb"[A-Za-z0-9_-]{1,63}")

log = logging.getLogger(__name__)


class Denials:
    """The denied grants of one host, as one process knows them. Threads may share it."""

    def __init__(self, directory: Path) -> None:
        """The file is in this directory; `prepare` makes it."""
        self._path = directory / FILE_NAME
        self._lock = threading.Lock()
        self._generation: int | None = None
        self._in_file: frozenset[str] = frozenset()
        self._heard: frozenset[str] = frozenset()
        self.on_new: Callable[[Iterable[str]], None] = lambda _sids: None
        """Called with the newly denied grants."""

    def __contains__(self, sid: str) -> bool:
        """Whether a grant is denied, as far as is known since the last `refresh`."""
        return sid in self._in_file or sid in self._heard

    def prepare(self) -> None:
        """Make the file at its full size. Without it, grants are denied in memory only."""
        try:
            with self._opened(os.O_CREAT) as file:
                size = os.fstat(file).st_size
                whole = (1 + RECORDS) * RECORD_BYTES
                if size < whole:
                    # Written, not only reserved: a written block can be overwritten without new space.
                    _write(file, bytes(whole - size), size)
                    os.fsync(file)
        except OSError as error:
            log.warning("denials.unprepared: %s: %s; a revocation may be lost if Redis fails", self._path, error)

    def refresh(self) -> None:
        """Read what other processes of this host have denied. It is one short read if there is nothing new."""
        try:
            file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        try:
            head = os.pread(file, _GENERATION.size, 0)
            if len(head) < _GENERATION.size or _GENERATION.unpack(head)[0] == self._generation:
                return
            with self._lock:
                # The number is written after the records: those that are read now are at least that new.
                found = frozenset(record.decode() for record in _records(_read(file)) if record)
                new = found - self._in_file - self._heard
                self._generation, self._in_file = _GENERATION.unpack(head)[0], found
                self._heard -= found
        except OSError:
            return
        finally:
            os.close(file)
        if new:
            self.on_new(new)

    def hear(self, sids: Iterable[str]) -> None:
        """Deny grants in this process at once; only `add` writes them to the file."""
        known = frozenset(sid for sid in sids if _SID.fullmatch(sid.encode()))
        with self._lock:
            new = known - self._in_file - self._heard
            self._heard |= new
        if new:
            self.on_new(new)

    def add(self, sids: Iterable[str]) -> None:
        """Deny grants at every worker of this host. They are on the disk when this returns.

        Raises OSError if they cannot be written.
        """
        with self._opened() as file:
            content = bytearray(_read(file))
            records = list(_records(content))
            taken = set(records)
            free = (number for number, record in enumerate(records) if not record)
            changed: list[int] = []
            for sid in dict.fromkeys(sid.encode() for sid in sids):
                if not _SID.fullmatch(sid):
                    raise OSError(f"{sid!r} is no grant id")
                if sid not in taken:
                    number = next(free, None)
                    if number is None:
                        number = len(content) // RECORD_BYTES - 1
                        content += _FREE
                    _put(content, number, sid)
                    changed.append(number)
            if changed:
                self._write_back(file, content, changed)
                os.fdatasync(file)

    def remove(self, sids: Iterable[str]) -> None:
        """Remove grants that Redis has certainly removed. Raises OSError."""
        gone = {sid.encode() for sid in sids}
        with self._opened() as file:
            content = bytearray(_read(file))
            changed = [number for number, record in enumerate(_records(content)) if record in gone]
            for number in changed:
                _put(content, number, b"")
            if changed:
                self._write_back(file, content, changed)
        with self._lock:
            self._heard -= {sid.decode() for sid in gone}

    def __iter__(self) -> Iterator[str]:
        """Return the denied grants, in no order."""
        return iter(self._in_file | self._heard)

    @staticmethod
    def _write_back(file: int, content: bytearray, changed: list[int]) -> None:
        start, end = (1 + min(changed)) * RECORD_BYTES, (2 + max(changed)) * RECORD_BYTES
        _write(file, bytes(content[start:end]), start)
        (generation,) = _GENERATION.unpack_from(content)
        _write(file, _GENERATION.pack((generation + 1) % 2**64), 0)

    @contextmanager
    def _opened(self, flags: int = 0) -> Iterator[int]:
        """Open the file with an exclusive lock. Raises OSError."""
        file = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
        finally:
            os.close(file)


def _read(file: int) -> bytes:
    content = os.pread(file, os.fstat(file).st_size, 0)
    return content[: len(content) // RECORD_BYTES * RECORD_BYTES].ljust(RECORD_BYTES, b"\0")


def _records(content: bytes | bytearray) -> Iterator[bytes]:
    """Return the content of each record; an empty one if it is free or incomplete."""
    for start in range(RECORD_BYTES, len(content), RECORD_BYTES):
        sid, _, rest = bytes(content[start : start + RECORD_BYTES]).partition(b"\n")
        yield sid if _SID.fullmatch(sid) and not rest.strip(b"\0") else b""


def _put(content: bytearray, number: int, sid: bytes) -> None:
    start = (1 + number) * RECORD_BYTES
    content[start : start + RECORD_BYTES] = (sid + b"\n" if sid else b"").ljust(RECORD_BYTES, b"\0")


def _write(file: int, data: bytes, offset: int) -> None:
    """Write all data. Raises OSError."""
    while data:
        written = os.pwrite(file, data, offset)
        data, offset = data[written:], offset + written
