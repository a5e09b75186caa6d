"""Seeded mutations of a file or folder, some of them re-sealed: a liar keeps his checksums right."""

from __future__ import annotations

import json
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

from robot_value import checkpoint
from robot_value.episodes.manifest import MANIFEST, Manifest, sha256

NUMBERS = (0, 1, -1, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**53, 2**63 - 1, -(2**63), 10**12, 1e308, -1e308, 0.5)
TEXTS = ("", "../../x", "/etc/passwd", "a\0b", "|O", "O", "<U999999999", "{0.__class__}", "é" * 99, "NaN", "x" * 9999)
WEIRD = (None, True, [], {}, [[]], [{}], *NUMBERS, *TEXTS)


class Canary:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def mutate(path: Path, rng: random.Random, canary: Path) -> str:
    """Change one thing, or a few, below `path`; says what."""
    if path.suffix == ".zip" and rng.random() < 0.7:
        return _in_zip(path, rng, canary)
    files = sorted(file for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
    texts = [file for file in files if file.suffix in (".json", ".yaml", "") and b"\0" not in file.read_bytes()[:99]]
    file = rng.choice(texts if texts and rng.random() < 0.5 else files)
    if len(files) > 1 and rng.random() < 0.1:
        other = rng.choice(files)
        one, two = file.read_bytes(), other.read_bytes()
        file.write_bytes(two)
        other.write_bytes(one)
        said = f"swapped {file.name} and {other.name}"
    elif len(files) > 1 and rng.random() < 0.05:
        file.unlink()
        said = f"deleted {file.name}"
    else:
        kind, content = changed(file.read_bytes(), rng, canary)
        file.write_bytes(content)
        said = f"{kind} in {file.relative_to(path) if path.is_dir() else file.name}"
    if path.is_dir() and file.name != MANIFEST and rng.random() < 0.8:
        reseal(path)
    return said


def changed(content: bytes, rng: random.Random, canary: Path) -> tuple[str, bytes]:
    kinds: dict[str, Callable[[], bytes]] = {
        "flip": lambda: _flip(content, rng),
        "truncate": lambda: content[: rng.randrange(len(content) + 1)],
        "insert": lambda: _splice(content, rng, rng.randbytes(rng.choice((1, 8, 300))), 0),
        "number": lambda: _number(content, rng),
        "repeat": lambda: _splice(content, rng, content[: rng.randrange(len(content) + 1)], 0),
        "pickle": lambda: pickle.dumps(Canary(canary)),
    }
    try:
        value = json.loads(content)
        kinds["json"] = lambda: json.dumps(_json(value, rng)).encode()
    except ValueError:
        pass
    weights = {"flip": 6, "number": 4, "json": 12, "truncate": 2}
    kind = rng.choices(list(kinds), [weights.get(kind, 1) for kind in kinds])[0]
    return kind, kinds[kind]()


def reseal(path: Path) -> None:
    """Make manifests right again: of every episode, and of a checkpoint."""
    for manifest in path.rglob(MANIFEST):
        folder = manifest.parent
        files = [file for file in folder.rglob("*") if file.is_file() and file != manifest]
        content = {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}
        if (folder / checkpoint.MODEL).exists():
            sums = {name: {"bytes": len(data), "sha256": sha256(data)} for name, data in sorted(content.items())}
            text = json.dumps({"format_version": checkpoint.FORMAT_VERSION, "files": sums}, indent=1) + "\n"
            manifest.write_text(text)
            continue
        try:
            old = json.loads(manifest.read_bytes())
            new = Manifest.of(content, steps=old["steps"], frames=old["frames"])
        except (ValueError, KeyError, TypeError):
            continue
        manifest.write_bytes(new.to_bytes())
        folder.rename(folder.with_name(f"{folder.name[:8]}-{new.hash[:8]}"))


def _in_zip(path: Path, rng: random.Random, canary: Path) -> str:
    """Change a member, keep the zip's own checksums right."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(sorted(members))
    kind, members[name] = changed(members[name], rng, canary)
    with zipfile.ZipFile(path, "w") as archive:
        for each, content in members.items():
            archive.writestr(each, content)
    return f"{kind} in {path.name}/{name}"


def _flip(content: bytes, rng: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8)) if data else 0):
        data[rng.randrange(min(len(data), rng.choice((64, 1 << 30))))] = rng.randrange(256)
    return bytes(data)


def _number(content: bytes, rng: random.Random) -> bytes:
    """A number of 4 or 8 bytes that lengths and offsets are not expected to have."""
    size = rng.choice((4, 8))
    value = rng.choice([n for n in NUMBERS if isinstance(n, int)]) % (1 << 8 * size)
    return _splice(content, rng, value.to_bytes(size, rng.choice(("little", "big"))), size)


def _splice(content: bytes, rng: random.Random, piece: bytes, over: int) -> bytes:
    at = rng.randrange(len(content) + 1)
    return content[:at] + piece + content[at + over :]


def _json(value, rng: random.Random):
    """One value somewhere in the tree becomes another one, vanishes or moves to another key."""
    if isinstance(value, dict | list) and value and rng.random() < 0.9:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        key = rng.choice(list(keys))
        if rng.random() < 0.1:
            del value[key]
        else:
            value[key] = _json(value[key], rng)
        return value
    return rng.choice(WEIRD)
