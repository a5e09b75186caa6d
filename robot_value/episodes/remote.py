"""A store's folders for reading, on this machine or behind a URL (s3://, gs://, https://, memory://) through fsspec.

A RemotePath is what reading a store needs of `pathlib.Path`. Every byte is proven by SHA-256 after it has arrived.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import StoreError


@dataclass(frozen=True)
class RemotePath:
    filesystem: Any  # fsspec.AbstractFileSystem
    location: str  # inside the file system
    url: str  # as the user wrote it

    @property
    def name(self) -> str:
        return self.location.rstrip("/").rpartition("/")[2]

    def __truediv__(self, part: str) -> RemotePath:
        return RemotePath(self.filesystem, f"{self.location.rstrip('/')}/{part}", f"{self.url.rstrip('/')}/{part}")

    def __str__(self) -> str:
        return self.url

    def is_dir(self) -> bool:
        return self.filesystem.isdir(self.location)


Folder = Path | RemotePath


def at(path: str | Path | RemotePath) -> Folder:
    """The path, local unless it is a URL. Raises StoreError where fsspec does not know the protocol."""
    if isinstance(path, RemotePath) or "://" not in str(path):
        return path if isinstance(path, RemotePath) else Path(path)
    if str(path).startswith("file://"):
        return Path(str(path).removeprefix("file://"))
    try:
        from fsspec.core import url_to_fs

        return RemotePath(*url_to_fs(str(path)), str(path))
    except (ImportError, ValueError) as error:
        raise StoreError(f"{path}: expected a folder or a URL that fsspec can read, got {error}") from error


def listing(folder: Folder) -> list[str]:
    """Names in the folder, sorted. Raises FileNotFoundError."""
    if isinstance(folder, Path):
        return sorted(os.listdir(folder))
    folder.filesystem.invalidate_cache()  # a writer may have added to it
    found = folder.filesystem.ls(folder.location, detail=False)
    return sorted({each.rstrip("/").rpartition("/")[2] for each in found})


def sizes(folder: Folder) -> dict[str, int]:
    """Bytes of every file below, "/" between parts; -1 for what is no plain file (a link may lead anywhere)."""
    if isinstance(folder, Path):
        found = (Path(parent, name) for parent, folders, files in os.walk(folder) for name in [*folders, *files])
        kinds = ((path, path.lstat()) for path in found)
        return {
            path.relative_to(folder).as_posix(): info.st_size if stat.S_ISREG(info.st_mode) else -1
            for path, info in kinds
            if not stat.S_ISDIR(info.st_mode)
        }
    folder.filesystem.invalidate_cache()
    head = folder.location.strip("/") + "/"
    found = folder.filesystem.find(folder.location, detail=True)
    return {name.strip("/").removeprefix(head): int(info["size"]) for name, info in found.items()}


def read(folder: Folder, names: Iterable[str]) -> dict[str, bytes | OSError]:
    """Content of each file, or why it could not be read; a URL's files come side by side."""
    names = list(names)
    if isinstance(folder, Path):
        return {name: _read(folder / name) for name in names}
    if not names:
        return {}
    paths = {(folder / name).location: name for name in names}
    found = folder.filesystem.cat(list(paths), on_error="return")
    contents = {name: found.get(path, found.get(path.lstrip("/"))) for path, name in paths.items()}
    return {name: got if isinstance(got, bytes) else OSError(str(got)) for name, got in contents.items()}


def read_one(path: Folder, largest: int = 64 << 20) -> bytes:
    """A small file's content. Raises FileNotFoundError, or OSError where it is too large or no plain file."""
    if isinstance(path, RemotePath):
        size = path.filesystem.info(path.location)["size"]
    else:
        info = path.lstat()
        size = info.st_size if stat.S_ISREG(info.st_mode) else -1
    if not 0 <= size <= largest:
        raise OSError(f"expected a plain file of at most {largest} bytes, got {'none' if size < 0 else size}")
    return path.filesystem.cat_file(path.location) if isinstance(path, RemotePath) else path.read_bytes()


def _read(path: Path) -> bytes | OSError:
    try:
        return path.read_bytes()
    except OSError as error:  # a bad sector is damage like any other
        return error
