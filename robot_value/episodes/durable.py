"""File writes that survive a crash: data is on disk before its name is, and a name appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def write_tree(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write `files` (relative path -> content) below the new `folder`; every file and directory is fsynced."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, content)
    for parent, _, _ in os.walk(folder, topdown=False):
        sync_folder(Path(parent))


def write_file(path: Path, content: bytes) -> None:
    """A new file whose content is on disk when this returns; its name is only after `sync_folder(path.parent)`."""
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, content: bytes) -> None:
    """Old content or new content, never a mixture and never nothing. One writer at a time."""
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    write_file(partial, content)
    os.replace(partial, path)
    sync_folder(path.parent)


def publish(folder: Path, target: Path) -> None:
    """Give a fully written folder its final name in one step; durable when this returns."""
    os.rename(folder, target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make the names inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
