"""One writer per store: an flock that dies with its process and is not inherited by forked workers."""

from __future__ import annotations

import fcntl
import os
import weakref
from contextlib import suppress
from pathlib import Path

from .errors import StoreError


class WriterLock:
    """Held from construction to `release`. Raises StoreError where another writer holds it, or nobody can."""

    def __init__(self, path: Path):
        self._handle: int | None = None
        try:
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(self._handle, 32, 0).decode(errors="replace").strip() or "unknown"
            self.release()
            raise StoreError(
                f"{path.parent} is being written by process {owner}; expected one writer, close that one first"
            ) from None
        except OSError as error:
            what = "written" if self._handle is None else "locked"  # as on a network mount without flock
            self.release()
            raise StoreError(
                f"{path.parent} cannot be {what} ({error.strerror}); record to a local disk, or open it with mode='r'"
            ) from error
        self._sign()
        _held.add(self)

    def _sign(self) -> None:
        """Who holds it, for the message to others; a full disk is no reason not to hold it."""
        with suppress(OSError):
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self.release()


_held: weakref.WeakSet[WriterLock] = weakref.WeakSet()


def _forget_in_child() -> None:
    """A fleet worker that outlives a killed parent must not keep the store locked."""
    for lock in list(_held):
        lock.release()


os.register_at_fork(after_in_child=_forget_in_child)
