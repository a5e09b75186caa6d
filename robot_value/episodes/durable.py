"""File writes that survive a crash: data is on disk before its name is, and a name appears whole or not at all.

Where a call raises, what it began is taken back, so that an error means that nothing happened.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

SYNCS = 8  # fsyncs that wait at the same time


def write_tree(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write `files` (relative path -> content) below the new `folder`; every file and directory is fsynced.

    The syncs run side by side: a journal commits those that wait together at once, which is several times faster.
    """
    folder.mkdir(parents=True)
    for parent in {(folder / name).parent for name in files}:
        parent.mkdir(parents=True, exist_ok=True)
    folders = [Path(parent) for parent, _, _ in os.walk(folder)]
    with ThreadPoolExecutor(SYNCS) as threads:
        list(threads.map(write_file, [folder / name for name in files], files.values()))
        list(threads.map(sync_folder, folders))


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
    try:
        sync_folder(target.parent)
    except OSError:
        os.rename(target, folder)
        raise


def publish_in_place(folder: Path, files: Mapping[str, bytes], last: str, mark: Path) -> None:
    """Commit without renaming a folder: `mark` says that `folder` is begun, and `files[last]` that it is whole.

    The mark is durable until `last` is: a reader who sees it trusts only a folder whose `last` proves the rest.
    """
    make_folder(mark.parent)
    write_file(mark, b"")
    sync_folder(mark.parent)
    try:
        write_tree(folder, {name: content for name, content in files.items() if name != last})
        sync_folder(folder.parent)
        write_file(folder / last, files[last])
        sync_folder(folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            mark.unlink(missing_ok=True)
        raise
    with suppress(OSError):  # `last` speaks for itself now
        mark.unlink()


def make_folder(folder: Path) -> None:
    """A folder, and those above it, whose names are durable too."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def move(source: Path, target: Path) -> None:
    """Rename between folders; durable at both ends when this returns."""
    os.rename(source, target)
    sync_folder(target.parent)
    sync_folder(source.parent)


def sync_folder(folder: Path) -> None:
    """Make the names inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network mounts have nothing to sync in a folder
            raise
    finally:
        os.close(handle)
