"""What is damaged moves to `quarantine/` with a note that says what was wrong; what is sound is not touched.

Every step is one rename after its note is durable, so a repair that was cut short is finished by the next one.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from ..types import Spec
from .durable import make_folder, move, replace_file, sync_folder
from .encoding import spec_fingerprint
from .errors import EpisodeDamaged, StoreError
from .lock import WriterLock
from .manifest import read_files, read_manifest, sha256
from .remote import listing
from .root import Root, group, read_root, root_problems
from .store import NAME, EpisodeStore

SOUND, LOSSY = 0, 3  # exit codes, as `mcap recover` has them; 1 (a StoreError) is not repairable


@dataclass(frozen=True)
class Repaired:
    """What a repair did."""

    kept: int  # sound episodes
    moved: tuple[str, ...]  # a line each: what went to quarantine/, and why
    mended: tuple[str, ...] = ()  # a line each: what was written anew without loss

    @property
    def code(self) -> int:
        return LOSSY if self.moved else SOUND

    def to_text(self) -> str:
        done = [f"moved to quarantine/: {line}" for line in self.moved] + [f"mended: {line}" for line in self.mended]
        return "\n".join([f"{self.kept} episodes are sound", *(done or ["nothing to repair"])])


def repair(path: str | Path, spec: Spec | None = None) -> Repaired:
    """Make the store sound. Raises StoreError where a writer is at work, or where the root's Spec is lost.

    `spec` is a copy of it, for a damaged root: taken only where its SHA-256 is the one that the episodes name.
    """
    path = Path(path)
    if not (path / "episodes").is_dir():
        raise StoreError(f"{path}: expected a folder with episodes/, got none; there is nothing to repair")
    lock = WriterLock(path / ".lock")
    try:
        mended = _mend_root(path, spec)
        moved = [*_leftovers(path), *_strangers(path), *_damaged(path)]
        return Repaired(len(EpisodeStore.open(path)), tuple(moved), tuple(mended))
    finally:
        lock.release()


def _mend_root(path: Path, spec: Spec | None) -> list[str]:
    """Write the store's own two files anew, as they must be, keeping copies of the damaged ones."""
    try:
        root = read_root(path)
    except StoreError as error:
        if "is damaged" not in str(error) and (path / "zarr.json").exists():
            raise  # of another version, or something else than a store
        if spec is None:
            raise StoreError(f"{error}; with a copy of its Spec it is written anew: --spec=FILE") from None
        root = Root(_of_these_episodes(path, spec), _commit_of(path / "zarr.json"))
    problems = root_problems(path, root)
    for problem in problems:
        _keep_copy(path, problem.file)
        replace_file(path / problem.file, root.to_bytes() if problem.file == "zarr.json" else group({}))
    return [str(problem) for problem in problems]


def _of_these_episodes(path: Path, spec: Spec) -> Spec:
    spec = spec.choose(horizon=0, n_obs_steps=0)
    named = {_spec_of(path / "episodes" / name) for name in listing(path / "episodes") if NAME.fullmatch(name)} - {""}
    if named and (given := spec_fingerprint(spec)) not in named:
        raise StoreError(f"--spec: expected the Spec with sha256 {min(named)[:12]}, got one with {given[:12]}")
    return spec


def _spec_of(folder: Path) -> str:
    """SHA-256 of the Spec that an episode names, "" where the episode is damaged."""
    try:
        return json.loads(read_files(folder, read_manifest(folder))["zarr.json"])["attributes"]["spec"]
    except (StoreError, KeyError, ValueError):
        return ""


def _commit_of(file: Path) -> str:
    return "manifest" if file.exists() and b'"commit": "manifest"' in file.read_bytes() else "rename"


def _keep_copy(path: Path, file: str) -> None:
    if (path / file).is_file():
        content = (path / file).read_bytes()
        make_folder(path / "quarantine")
        replace_file(path / "quarantine" / f"{file.replace('/', '-')}-{sha256(content)[:8]}", content)


def _leftovers(path: Path) -> list[str]:
    """What dead writers had begun. Nobody was told that it was kept."""
    staging, why = path / ".staging", "half-written by a writer that died; never acknowledged"
    moved = []
    for name in listing(staging) if staging.is_dir() else []:
        if not NAME.fullmatch(name):
            moved.append(_quarantine(path, staging / name, [why], f"staging-{name}"))
            continue
        if (folder := path / "episodes" / name).exists() and not _proves_itself(folder):
            moved.append(_quarantine(path, folder, [why]))
        (staging / name).unlink()
        sync_folder(staging)
    return moved


def _proves_itself(folder: Path) -> bool:
    try:
        return bool(read_manifest(folder))
    except EpisodeDamaged:
        return False


def _strangers(path: Path) -> list[str]:
    strangers = [name for name in listing(path / "episodes") if name != "zarr.json" and not NAME.fullmatch(name)]
    return [_quarantine(path, path / "episodes" / name, ["its name is no episode's"]) for name in strangers]


def _damaged(path: Path) -> list[str]:
    """Damaged episodes go whole; from a sound one only the files that nobody promised."""
    store, moved = EpisodeStore.open(path), []
    for name in store.names():
        if not (problems := store.verify(name)):
            continue
        folder, lines = path / "episodes" / name, [str(problem) for problem in problems]
        if all(problem.stranger for problem in problems):
            for problem in problems:
                label = f"{name}-{problem.file.replace('/', '-')}"
                moved.append(_quarantine(path, folder / problem.file, [str(problem)], label))
            _remove_empty(folder)
        else:
            moved.append(_quarantine(path, folder, lines))
    return moved


def _remove_empty(folder: Path) -> None:
    for parent, _, _ in os.walk(folder, topdown=False):
        if not os.listdir(parent):
            os.rmdir(parent)


def _quarantine(path: Path, source: Path, why: list[str], name: str = "") -> str:
    """Note first, then the move: what is in quarantine always says why."""
    folder, what = path / "quarantine", source.relative_to(path).as_posix()
    make_folder(folder)
    names = (f"{name or source.name}{suffix}" for suffix in ["", *(f".{i}" for i in range(2, 1000))])
    target = next(folder / each for each in names if not os.path.lexists(folder / each))
    note = json.dumps({"was": what, "problems": why}, indent=2)
    replace_file(folder / f"{target.name}.json", note.encode())
    move(source, target)
    return f"{what} ({why[0]}{f' and {len(why) - 1} more' if len(why) > 1 else ''})"
