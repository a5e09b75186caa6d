"""Paths, JSON and zip folders from strangers."""

from __future__ import annotations

import json
import os
import stat
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .caps import SCALE, Refused, check_size

LARGEST_JSON = int(SCALE * (1 << 24))  # bytes; Python objects take up to 20 times that
NESTING = 64  # levels of lists and objects
MEMBERS = int(SCALE * (1 << 19))  # of a zip: one chunk per frame is usual
METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
MEMBER_RATIO = 1100  # deflate reaches 1032


def inside(root: Path, name: str) -> Path:
    """root/name, proven to stay inside root: no absolute path, no "..", no symlink that leaves."""
    relative_name(str(root), name)
    path = Path(root) / name
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise Refused(f"{path}: expected a file inside {root}, got a symlink that leaves it; copy with `cp -rL`")
    return path


def relative_name(where: str, name: str) -> str:
    """The name, if it is one below a folder on every system."""
    parts = name.removesuffix("/").split("/")  # strings: a pathlib path per member of a zip takes seconds
    if not {"", ".", ".."}.isdisjoint(parts) or "\\" in name or "\0" in name or ":" in parts[0]:
        raise Refused(f"{where}: expected names inside it, got {name[:200]!r}")
    return name


def read_json(path: Path, largest: int = LARGEST_JSON) -> Any:
    """A JSON file of at most `largest` bytes. Refused also where it is no JSON; FileNotFoundError where it is not."""
    path = Path(path)
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise Refused(f"{path}: expected a plain file, got something else")
    if found.st_size > largest:
        raise Refused(f"{path}: expected at most {largest} bytes of JSON, got {found.st_size}")
    with path.open("rb") as file:
        return parse_json(file.read(largest), str(path))


def parse_json(content: bytes, what: str) -> Any:
    """The value of UTF-8 JSON; `what` names it in errors."""
    try:
        value = json.loads(content.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{what}: expected JSON, got {error}") from None
    _check_nesting(value, what)
    return value


def check_version(value: Any, version: int, what: str) -> dict[str, Any]:
    """The object without its `format_version`, which must be `version`; `what` is e.g. "alarm.json: an alarm"."""
    found = value.get("format_version") if isinstance(value, dict) else None
    if type(found) is not int or found != version:
        raise ValueError(f"{what}: expected format_version {version}, got {str(found)[:40]}")
    return {key: item for key, item in value.items() if key != "format_version"}


def list_files(root: Path) -> dict[str, int]:
    """Name -> bytes of every file below root. Refused: a symlink that leaves, and what is no file (pipes block)."""
    sizes, folders = {}, [""]
    while folders:
        folder = folders.pop()
        for entry in os.scandir(os.path.join(root, folder)):
            name = f"{folder}{entry.name}"
            if entry.is_symlink():
                inside(root, name)
            if entry.is_dir(follow_symlinks=False):
                folders.append(f"{name}/")
            elif entry.is_file():
                sizes[name] = entry.stat().st_size
            else:
                raise Refused(f"{root}: {name}: expected a plain file, got a device, a pipe or a link to a folder")
    return sizes


def zip_names(path: Path) -> list[str]:
    """A zip's members after checks: count, names, compression ratio, sum of sizes, no links, no duplicates."""
    return list(zip_sizes(path))


def zip_sizes(path: Path) -> dict[str, int]:
    """Member -> stored bytes; folders are left out."""
    path = Path(path)
    if not path.is_file():
        raise Refused(f"{path}: expected a zip file, got none")
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError) as error:
        raise Refused(f"{path}: expected a zip file, got {error}") from None
    if len(members) > MEMBERS:
        raise Refused(f"{path}: expected at most {MEMBERS} members, got {len(members)}; unpack it and try again")
    for member in members:
        _check_member(path, member)
    names = [member.filename for member in members]
    if len(set(names)) != len(names):
        raise Refused(f"{path}: expected every member once, got {len(names) - len(set(names))} duplicates")
    stored = sum(member.compress_size for member in members)
    if stored > path.stat().st_size:
        raise Refused(f"{path}: expected members side by side, got overlapping ones")
    check_size(str(path), sum(member.file_size for member in members), stored)
    return {member.filename: member.compress_size for member in members if not member.is_dir()}


def _check_member(path: Path, member: zipfile.ZipInfo) -> None:
    relative_name(str(path), member.orig_filename)
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or member.flag_bits & 1:
        raise Refused(f"{path}: {member.filename}: expected a plain file, got a link, a device or a secret")
    if member.compress_type not in METHODS:
        raise Refused(f"{path}: {member.filename}: expected it stored or deflated, got method {member.compress_type}")
    if member.file_size > MEMBER_RATIO * member.compress_size:
        raise Refused(f"{path}: {member.filename}: {member.compress_size} bytes cannot hold {member.file_size}")


def _unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    pairs = list(pairs)
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("the same key twice in one object")
    return value


def _check_nesting(value: Any, what: str) -> None:
    level = [value]
    for _ in range(NESTING):
        level = [item for node in level if isinstance(node, dict | list) for item in _items(node)]
        if not level:
            return
    raise Refused(f"{what}: expected at most {NESTING} levels of nesting, got more")


def _items(node: dict | list) -> Iterable[Any]:
    return node.values() if isinstance(node, dict) else node
