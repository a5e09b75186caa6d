"""Labels beside the episodes they belong to: labels/<name>/<episode>/, each a zarr group with a manifest of its own.

Written as episodes are (whole, durable, proven by SHA-256) and bound to the episode's content by its manifest's hash.
A policy's features (features/) lie beside them in the same way, as another Kind.
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
from ..episodes.manifest import MANIFEST, Manifest, read_files, read_manifest, unexpected_files
from ..episodes.remote import Folder, listing
from ..episodes.root import group, read_root
from ..episodes.store import NAME as EPISODE
from ..episodes.store import EpisodeStore
from ..untrusted import parse_json
from .encoding import LABELS, Kind, Origin
from .root import LabelsDamaged, names, origin_bytes, read_origin, refuse_other, safe_name, short


class LabelStore:
    """The labels of one name in one episode store. Use `create` or `open`; a writer is closed as an episode store's."""

    def __init__(self, store: EpisodeStore, name: str, origin: Origin, lock: WriterLock | None, kind: Kind = LABELS):
        self.store, self.name, self.origin, self.kind = store, name, origin, kind
        self.folder = store.path / kind.name / name
        self._lock = lock

    @classmethod
    def create(cls, store: EpisodeStore, name: str, origin: Origin, kind: Kind = LABELS) -> LabelStore:
        """Open for writing; where the name exists, to go on with what the same origin began."""
        root = store.path / kind.name
        safe_name(name)
        if not isinstance(root, Path):
            raise StoreError(f"{store.path} can only be read; take a local copy")
        try:
            make_folder(root / name)
        except OSError as error:
            raise StoreError(f"{root} cannot be written ({error.strerror}); take a copy of the store") from error
        made = cls(store, name, origin, WriterLock(root / ".lock"), kind)
        try:
            made._begin()
        except BaseException:
            made.close()
            raise
        return made

    @classmethod
    def open(cls, store: EpisodeStore, name: str, kind: Kind = LABELS) -> LabelStore:
        """Open for reading. Raises StoreError for an unknown name or a damaged root."""
        if name not in (known := names(store, kind)):
            raise StoreError(
                f"no {kind.name} {name!r} in {store.path}, known: {', '.join(known) or 'none'}; "
                f"make them with `robot-value {kind.command} {store.path}`, see its --help"
            )
        return cls(store, name, read_origin(store.path / kind.name / name, kind), None, kind)

    def episodes(self) -> list[str]:
        """Names of the labelled episodes, in the order of the store."""
        found = [name for name in listing(self.folder) if EPISODE.fullmatch(name)]
        begun = self._begun()  # listed later than the labels: a mark that is gone by then means committed
        return [name for name in found if name not in begun or self._committed(name)]

    def write(self, episode: str, labels: Any) -> None:
        """Commit the labels of one episode; they survive a crash once this returns, and are never rewritten."""
        self._writing()
        parent = self.store.manifest(episode)
        files = self.kind.encode(labels, self.origin, parent)
        manifest = Manifest.of(files, steps=parent.steps, frames=parent.frames)
        self._commit(episode, files | {MANIFEST: manifest.to_bytes()})

    def discard(self, episode: str) -> None:
        """Take back what was written, e.g. of an episode that was another one then."""
        self._writing()
        (self.folder / episode / MANIFEST).unlink(missing_ok=True)  # first: nobody takes the rest for whole
        shutil.rmtree(self.folder / episode)
        sync_folder(self.folder)

    def about(self, episode: str) -> dict[str, Any]:
        """Its attributes (parent, origin, ...), proven by SHA-256; no array is read."""
        return self._guarded(episode, _attributes)

    def read(self, episode: str, parent: str = "") -> Any:
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

    def _writing(self) -> None:
        if self._lock is None:
            raise StoreError(f"{self.kind.name} {self.name!r} are open for reading; use LabelStore.create to write")

    def _begin(self) -> None:
        """Remove what a crashed writer had not finished, and see that the root is there and of this origin."""
        for episode in self._begun():
            if not self._committed(episode) and (folder := self.folder / episode).exists():
                shutil.rmtree(folder)
                sync_folder(self.folder)  # before its mark goes
        shutil.rmtree(self._staging, ignore_errors=True)
        if self.name in names(self.store, self.kind):
            return refuse_other(self.name, read_origin(self.folder, self.kind), self.origin)
        replace_file(self.folder.parent / "zarr.json", group({}))
        replace_file(self.folder / "zarr.json", origin_bytes(self.origin, self.kind))

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
        return self.store.path / self.kind.name / ".staging" / self.name

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

    def _read(self, episode: str, parent: str) -> Any:
        """parent "": of whatever episode."""
        kind = self.kind
        if not (self.folder / episode).is_dir() or not EPISODE.fullmatch(episode):
            what = f"{kind.name} {self.name!r}"
            raise StoreError(f"episode {episode} has no {what}; run `robot-value {kind.command}` again")
        labels, attributes = self._guarded(episode, kind.decode)
        for what, expected in (("parent", parent), ("origin", asdict(self.origin))):
            if expected and attributes.get(what) != expected:
                wanted, got = (short(value) for value in (expected, attributes.get(what)))
                problem = Problem(episode, "zarr.json", f"{kind.name} of {what} {wanted}", f"of {what} {got}")
                raise LabelsDamaged(self._placed([problem]), kind)
        return labels

    def _guarded(self, episode: str, read: Callable[[Folder], Any]) -> Any:
        """What `read` makes of the folder; damage becomes LabelsDamaged."""
        try:
            return read(self.folder / episode)
        except EpisodeDamaged as damage:
            raise LabelsDamaged(self._placed(damage.problems), self.kind) from None
        except StoreError:
            raise
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            problem = Problem(episode, "zarr.json", self.kind.name, str(error))
            raise LabelsDamaged(self._placed([problem]), self.kind) from error

    def _placed(self, problems: list[Problem]) -> list[Problem]:
        return [replace(problem, episode=f"{self.kind.name}/{self.name}/{problem.episode}") for problem in problems]


def _attributes(folder: Folder) -> dict[str, Any]:
    manifest = read_manifest(folder)
    only = replace(manifest, files={"zarr.json": manifest.files["zarr.json"]})
    return dict(parse_json(read_files(folder, only)["zarr.json"], "zarr.json")["attributes"])


def verify(store: EpisodeStore, kind: Kind = LABELS) -> list[Problem]:
    """What is damaged in all labels of a store; an empty list means sound."""
    problems: list[Problem] = []
    for name in names(store, kind):
        try:
            problems += LabelStore.open(store, name, kind).verify()
        except LabelsDamaged as damage:
            problems += damage.problems
    return problems
