"""Sees, fails and replays the syscalls that write below a folder: open, write, fsync, rename, mkdir, unlink, rmdir.

`Syscalls` patches Python's calls; `Disk` replays its log up to any point as a disk that had lost power there.
"""

from __future__ import annotations

import builtins
import os
import random
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch


class Crash(BaseException):
    """The process ends here: no handler may act on it."""


@dataclass(frozen=True)
class Call:
    kind: str  # create, write, fsync, rename, mkdir, unlink, rmdir
    path: str  # relative to the watched folder
    other: str = ""  # the new name of a rename
    data: bytes = b""  # content of the file after a write


@dataclass
class Syscalls:
    """While entered, logs every call below `root`; `before(n, call)` may raise, and then the call does not happen."""

    root: Path
    before: Callable[[int, Call], None] = lambda n, call: None
    log: list[Call] = field(default_factory=list)
    count: int = 0

    def __enter__(self) -> Syscalls:
        self._stack, self._lock, real = ExitStack(), threading.RLock(), {}
        for name in ("mkdir", "rmdir", "unlink", "rename", "replace", "fsync", "posix_fallocate"):
            real[name] = getattr(os, name)
        opened = builtins.open

        def one(kind: str) -> Callable:
            def call(path, *args, dir_fd=None, **more):
                more |= {} if dir_fd is None else {"dir_fd": dir_fd}
                return self.do(kind, self.where(path, dir_fd), lambda: real[kind](path, *args, **more))

            return call

        def rename(source, target, **more):
            return self.do("rename", self.where(source), lambda: real["rename"](source, target), self.where(target))

        def fsync(handle):
            where = self.where(f"/proc/self/fd/{handle}")
            if where and (self.root / where).is_file():  # what was written through a memory map shows only here
                self.log.append(Call("write", where, data=_bytes(self.root / where)))
            return self.do("fsync", where, lambda: real["fsync"](handle))

        def fallocate(handle, *range_):
            where = self.where(f"/proc/self/fd/{handle}")
            return self.do("write", where, lambda: real["posix_fallocate"](handle, *range_))

        def open_(path, mode="r", *args, **more):
            where = None if isinstance(path, int) or not set(mode) & set("wax+") else self.where(path)
            if where is None:
                return opened(path, mode, *args, **more)
            kind = "write" if mode[:2] in ("r+", "rb") else "create"
            return File(self, where, self.do(kind, where, lambda: opened(path, mode, *args, **more)))

        replaced = {"rename": rename, "replace": rename, "fsync": fsync, "posix_fallocate": fallocate}
        for name in real:
            self._stack.enter_context(patch.object(os, name, replaced.get(name) or one(name)))
        self._stack.enter_context(patch.object(builtins, "open", open_))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def do(self, kind: str, where: str | None, call: Callable, other: str | None = None) -> object:
        if where is None:
            return call()
        with self._lock:
            entry = Call(kind, where, other or "", b"")
            self.count += 1
            self.before(self.count, entry)
            result = call()
            data = _bytes(self.root / where) if kind == "write" else b""
            self.log.append(Call(kind, where, other or "", data))
            return result

    def where(self, path, dir_fd: int | None = None) -> str | None:
        """Relative to root, links of /proc resolved; None for what is not ours."""
        path = os.fspath(path)
        if str(path).startswith("/proc/self/fd/"):
            path = os.readlink(path)
        if dir_fd is not None:
            path = os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), path)
        path = os.path.abspath(path)
        return os.path.relpath(path, self.root) if Path(path).is_relative_to(self.root) else None


class File:
    """An open file whose writes are calls."""

    def __init__(self, calls: Syscalls, where: str, file):
        self._calls, self._where, self._file = calls, where, file

    def write(self, data) -> int:
        def write():
            count = self._file.write(data)
            self._file.flush()
            return count

        return self._calls.do("write", self._where, write)

    def __getattr__(self, name: str):
        return getattr(self._file, name)

    def __enter__(self) -> File:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _bytes(path: Path) -> bytes:
    handle = os.open(path, os.O_RDONLY)
    try:
        return os.pread(handle, 1 << 30, 0)
    finally:
        os.close(handle)


@dataclass
class Change:
    """Of a folder's names; a rename is one change in two folders, and happens in both or in none."""

    name: str
    child: Inode | None  # None: the name goes
    step: object
    source: tuple[Inode, str] | None = None  # folder and name that a rename takes it from


class Inode:
    """A file or a folder as it is in memory, and as the disk surely has it."""

    def __init__(self, content: bytes | None = None):
        self.names: dict[str, Inode] | None = {} if content is None else None
        self.safe_names: dict[str, Inode] = {}
        self.data = content or b""
        self.safe_data = content or b""
        self.pending: list[Change] = []  # of its names, since its last fsync


class Disk:
    """A file system where only fsync promises anything: a file's fsync its bytes, a folder's fsync its names.

    A rename is one step: the new name is durable with its folder's fsync, and the old one is gone with it.
    """

    def __init__(self, start: dict[str, bytes | None]):
        """`start`: what is durable; folders are None."""
        self.top = Inode()
        for path in sorted(start):
            parent, _, name = path.rpartition("/")
            self.find(parent).names[name] = Inode(start[path])
        self._settle(self.top)

    def _settle(self, inode: Inode) -> None:
        if inode.names is not None:
            inode.safe_names = dict(inode.names)
            for child in inode.names.values():
                self._settle(child)

    def find(self, path: str) -> Inode:
        inode = self.top
        for part in path.split("/") if path not in ("", ".") else ():
            inode = inode.names[part]
        return inode

    def do(self, call: Call) -> None:
        folder, _, name = call.path.rpartition("/")
        if call.kind in ("create", "mkdir"):
            self._link(folder, name, Inode(None if call.kind == "mkdir" else b""))
        elif call.kind == "write":
            self.find(call.path).data = call.data
        elif call.kind == "fsync":
            self._sync(self.find(call.path))
        elif call.kind in ("unlink", "rmdir"):
            parent = self.find(folder)
            del parent.names[name]
            parent.pending.append(Change(name, None, object()))
        elif call.kind == "rename":
            source, (parent, _, new) = self.find(folder), call.other.rpartition("/")
            step, target = object(), self.find(parent)
            target.names[new] = inode = source.names.pop(name)
            target.pending.append(Change(new, inode, step, (source, name)))
            source.pending.append(Change(name, None, step))

    def _link(self, folder: str, name: str, inode: Inode) -> None:
        parent = self.find(folder)
        parent.names[name] = inode
        parent.pending.append(Change(name, inode, object()))

    def _sync(self, inode: Inode) -> None:
        if inode.names is None:
            inode.safe_data = inode.data
            return
        for change in inode.pending:
            if change.source:
                folder, name = change.source
                folder.safe_names.pop(name, None)
                folder.pending = [each for each in folder.pending if each.step is not change.step]
        inode.safe_names, inode.pending = dict(inode.names), []

    def after_power_loss(self, rng: random.Random | None) -> dict[str, bytes | None]:
        """A tree that may be found. None: whatever was not synced is lost; else a seeded part of it is there, torn."""
        tree: dict[str, bytes | None] = {}
        happened: dict[int, bool] = {}

        def walk(inode: Inode, path: str) -> None:
            names = dict(inode.safe_names)
            for change in inode.pending:
                if rng and happened.setdefault(id(change.step), rng.random() < 0.5):
                    if change.child is None:
                        names.pop(change.name, None)
                    else:
                        names[change.name] = change.child
            for name, child in sorted(names.items()):
                where = f"{path}/{name}".lstrip("/")
                tree[where] = None if child.names is not None else torn(child, rng)
                if child.names is not None:
                    walk(child, where)

        walk(self.top, "")
        return tree


def torn(inode: Inode, rng: random.Random | None) -> bytes:
    """What was synced; of what was written since, all, nothing, a part, or zeros of the right length."""
    if rng is None or inode.data == inode.safe_data:
        return inode.safe_data
    new = inode.data
    return rng.choice([inode.safe_data, new, new[: len(new) // 2], bytes(len(new)), b""])


def snapshot(root: Path) -> dict[str, bytes | None]:
    """Every path below root: content, None for a folder."""
    paths = sorted(root.rglob("*"))
    return {p.relative_to(root).as_posix(): None if p.is_dir() else p.read_bytes() for p in paths}


def materialize(tree: dict[str, bytes | None], root: Path) -> None:
    for path, content in sorted(tree.items()):
        if content is None:
            (root / path).mkdir(parents=True, exist_ok=True)
        else:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
