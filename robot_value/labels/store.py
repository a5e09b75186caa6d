"""Labels beside the episodes they belong to: labels/<name>/<episode>/, each a zarr group with a manifest of its own.

Written as episodes are (whole, durable, proven by SHA-256) and bound to the episode's content by its manifest's hash.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from ..episodes.durable import make_folder, publish, publish_in_place, replace_file, sync_folder, write_tree
from ..episodes.errors import EpisodeDamaged, Problem, StoreError
from ..episodes.lock import WriterLock
from ..episodes.manifest import MANIFEST, Manifest, read_manifest, unexpected_files
from ..episodes.remote import Folder, listing
from ..episodes.root import group, read_root
from ..episodes.store import NAME as EPISODE
from ..episodes.store import EpisodeStore
from .encoding import Origin, decode, encode
from .labels import Labels
from .root import LabelsDamaged, names, origin_bytes, read_origin, refuse_other, safe_name, short


class LabelStore:
    """The labels of one name in one episode store. Use `create` or `open`; a writer is closed as an episode store's."""

    def __init__(self, store: EpisodeStore, name: str, origin: Origin, lock: WriterLock | None):
        self.store, self.name, self.origin = store, name, origin
        self.folder = store.path / "labels" / name
        self._lock = lock

    @classmethod
    def create(cls, store: EpisodeStore, name: str, origin: Origin) -> LabelStore:
        """Open for writing; where the name exists, to go on with what the same origin began."""
        root = store.path / "labels"
        safe_name(name)
        if not isinstance(root, Path):
            raise StoreError(f"{store.path} can only be read; label a local copy")
        try:
            make_folder(root / name)
        except OSError as error:
            raise StoreError(f"{root} cannot be written ({error.strerror}); label a copy of the store") from error
        made = cls(store, name, origin, WriterLock(root / ".lock"))
        try:
            made._begin()
        except BaseException:
            made.close()
            raise
        return made

    @classmethod
    def open(cls, store: EpisodeStore, name: str) -> LabelStore:
        """Open for reading. Raises StoreError for an unknown name or a damaged root."""
        if name not in (known := names(store)):
            raise StoreError(
                f"no labels {name!r} in {store.path}, known: {', '.join(known) or 'none'}; "
                f"make them with `robot-value data label {store.path} --name={name} --labeler.type=...`"
            )
        return cls(store, name, read_origin(store.path / "labels" / name), None)

    def episodes(self) -> list[str]:
        """Names of the labelled episodes, in the order of the store."""
        found = [name for name in listing(self.folder) if EPISODE.fullmatch(name)]
        begun = self._begun()  # listed later than the labels: a mark that is gone by then means committed
        return [name for name in found if name not in begun or self._committed(name)]

    def write(self, episode: str, labels: Labels) -> None:
        """Commit the labels of one episode; they survive a crash once this returns, and are never rewritten."""
        if self._lock is None:
            raise StoreError(f"labels {self.name!r} are open for reading; use LabelStore.create to write")
        parent = self.store.manifest(episode)
        labels.check(parent.steps)
        files = encode(labels, self.origin, parent)
        manifest = Manifest.of(files, steps=parent.steps, frames=parent.frames)
        self._commit(episode, files | {MANIFEST: manifest.to_bytes()})

    def read(self, episode: str, parent: str = "") -> Labels:
        """The labels, proven by SHA-256 and to be of the episode whose manifest's hash is `parent` (default: now's)."""
        return self._read(episode, parent or self.store.manifest_hash(episode))

    def hash(self, episode: str) -> str:
        """Names the content of one episode's labels."""
        return self._guarded(episode, lambda folder: read_manifest(folder).hash)

    def verify(self) -> list[Problem]:
        """Read all labels and report what is damaged; of episodes that left the store only the bytes are proven."""
        known, problems = set(self.store.names()), []
        for episode in self.episodes():
            try:
                self._read(episode, self.store.manifest_hash(episode) if episode in known else "")
                folder = self.folder / episode
                problems += self._placed(unexpected_files(folder, read_manifest(folder)))
            except LabelsDamaged as damage:
                problems += damage.problems
            except EpisodeDamaged:  # the episode's own manifest; its store reports it
                continue
        return problems

    def close(self) -> None:
        """Let another writer in."""
        if self._lock:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> LabelStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self) -> None:
        """Remove what a crashed writer had not finished, and see that the root is there and of this origin."""
        for episode in self._begun():
            if not self._committed(episode) and (folder := self.folder / episode).exists():
                shutil.rmtree(folder)
                sync_folder(self.folder)  # before its mark goes
        shutil.rmtree(self._staging, ignore_errors=True)
        if self.name in names(self.store):
            return refuse_other(self.name, read_origin(self.folder), self.origin)
        replace_file(self.folder.parent / "zarr.json", group({}))
        replace_file(self.folder / "zarr.json", origin_bytes(self.origin))

    def _commit(self, episode: str, files: dict[str, bytes]) -> None:
        """As the store commits its episodes."""
        if read_root(self.store.path).commit == "manifest":
            return publish_in_place(self.folder / episode, files, last=MANIFEST, mark=self._staging / episode)
        staged = self._staging / uuid4().hex
        try:
            write_tree(staged, files)
            publish(staged, self.folder / episode)
        finally:
            shutil.rmtree(staged, ignore_errors=True)  # only there where something failed

    @property
    def _staging(self) -> Folder:
        return self.store.path / "labels" / ".staging" / self.name

    def _begun(self) -> set[str]:
        """Episodes whose labels are being written in place, or were when the writer died."""
        try:
            return {name for name in listing(self._staging) if EPISODE.fullmatch(name)}
        except (FileNotFoundError, NotADirectoryError):
            return set()

    def _committed(self, episode: str) -> bool:
        try:
            return bool(read_manifest(self.folder / episode))
        except EpisodeDamaged:
            return False

    def _read(self, episode: str, parent: str) -> Labels:
        """parent "": of whatever episode."""
        if not (self.folder / episode).is_dir() or not EPISODE.fullmatch(episode):
            raise StoreError(f"episode {episode} has no labels {self.name!r}; run `robot-value data label` again")
        labels, attributes = self._guarded(episode, decode)
        for what, expected in (("parent", parent), ("origin", asdict(self.origin))):
            if expected and attributes.get(what) != expected:
                wanted, got = (short(value) for value in (expected, attributes.get(what)))
                problem = Problem(episode, "zarr.json", f"labels of {what} {wanted}", f"of {what} {got}")
                raise LabelsDamaged(self._placed([problem]))
        return labels

    def _guarded(self, episode: str, read: Callable[[Folder], Any]) -> Any:
        """What `read` makes of the folder; damage becomes LabelsDamaged."""
        try:
            return read(self.folder / episode)
        except EpisodeDamaged as damage:
            raise LabelsDamaged(self._placed(damage.problems)) from None
        except StoreError:
            raise
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            problem = Problem(episode, "zarr.json", "labels", str(error))
            raise LabelsDamaged(self._placed([problem])) from error

    def _placed(self, problems: list[Problem]) -> list[Problem]:
        return [replace(problem, episode=f"labels/{self.name}/{problem.episode}") for problem in problems]


def verify(store: EpisodeStore) -> list[Problem]:
    """What is damaged in all labels of a store; an empty list means sound."""
    problems: list[Problem] = []
    for name in names(store):
        try:
            problems += LabelStore.open(store, name).verify()
        except LabelsDamaged as damage:
            problems += damage.problems
    return problems
