"""The episode store: a zarr v3 group per episode, committed by one rename after fsync (or by its manifest).

`append` returns only when the episode survives a crash; a reader sees whole episodes or nothing; damage is reported
with file, expected and got, never read. Root and episodes open with `zarr.open_group`. Format: datasets/README.md.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from ..types import Episode, Spec
from ..untrusted import Refused, parse_json
from .durable import make_folder, publish, publish_in_place, replace_file, sync_folder, write_tree
from .encoding import decode, encode, spec_fingerprint
from .errors import EpisodeDamaged, Problem, StoreError
from .lock import WriterLock
from .manifest import MANIFEST, Manifest, read_files, read_manifest, unexpected_files
from .remote import Folder, RemotePath, at, listing, sizes
from .root import Root, group, read_root, root_problems

NAME = re.compile(r"\d{8}-[0-9a-f]{8}")  # order of appending, then the head of the content's hash
OURS = {".lock", ".staging", ".zarr.json.partial", "episodes"}  # what an interrupted `create` may have left
CAMERA = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")  # camera names become folders


class EpisodeStore:
    """Many readers, one writer. Use `create` or `open`; a writer is closed by `close()` or a `with` block."""

    def __init__(self, path: Folder, root: Root, lock: WriterLock | None):
        self.path = path
        self.spec = root.spec  # horizon and n_obs_steps are 0: data have none
        self._root = root
        self._lock = lock
        self._next = 0
        if lock:
            self._sweep()
            self._next = 1 + max((int(name[:8]) for name in [*self.names(), *self._quarantined()]), default=-1)

    @classmethod
    def create(cls, path: str | Path, spec: Spec, commit: str = "rename") -> EpisodeStore:
        """A new, empty store opened for appending. `commit="manifest"` where renaming a folder is not one step."""
        path, root = Path(path), Root(spec.choose(horizon=0, n_obs_steps=0), commit)
        if (path / "zarr.json").exists():
            raise StoreError(f"{path} is a store already; open it with mode='a' to append")
        for camera in spec.cameras:
            if not CAMERA.fullmatch(camera.name):
                raise StoreError(f"camera name {camera.name!r}: expected only letters, digits, '_', '-' and '.'")
        content = root.to_bytes()
        make_folder(path.absolute())
        if foreign := {entry.name for entry in path.iterdir()} - OURS:
            raise StoreError(f"{path}: expected a new or empty folder, got one with {sorted(foreign)[:3]}")
        lock = WriterLock(path / ".lock")
        (path / "episodes").mkdir(exist_ok=True)
        replace_file(path / "episodes" / "zarr.json", group({}))
        sync_folder(path)  # the root names a store only where episodes/ is on disk
        replace_file(path / "zarr.json", content)
        return cls(path, root, lock)

    @classmethod
    def open(cls, path: str | Path | RemotePath, mode: str = "r") -> EpisodeStore:
        """Open to read ("r"; also a URL that fsspec knows) or to append and read ("a", the only writer)."""
        if mode not in ("r", "a"):
            raise StoreError(f"mode: expected 'r' or 'a', got {mode!r}")
        path = at(path)
        if mode == "a" and isinstance(path, RemotePath):
            raise StoreError(f"{path} can only be read; record to a local folder and copy that there when it is closed")
        root = read_root(path)
        return cls(path, root, WriterLock(path / ".lock") if mode == "a" else None)

    def names(self) -> list[str]:
        """Committed episodes in the order they were appended."""
        try:
            found = [name for name in listing(self.path / "episodes") if NAME.fullmatch(name)]
        except FileNotFoundError:
            raise StoreError(f"{self.path}/episodes: expected a folder, got nothing; restore it from a copy") from None
        begun = self._begun()  # listed later than the episodes: a mark that is gone by then means committed
        return [name for name in found if name not in begun or self._committed(name)]

    def size(self) -> int:
        """Bytes of all episodes."""
        return sum(sizes(self.path / "episodes").values())

    def __len__(self) -> int:
        return len(self.names())

    def __iter__(self) -> Iterator[Episode]:
        return (self.read(name) for name in self.names())

    def append(self, episode: Episode) -> str:
        """Commit the episode and return its name. After an error the store is as before and the caller still has it."""
        if self._lock is None:
            raise StoreError(f"{self.path} is open for reading; open it with mode='a' to append")
        self.spec.check(episode.spec, who="the episode")
        files = encode(episode, spec_fingerprint(self.spec))
        return self.adopt(files, Manifest.of(files, steps=len(episode), frames=len(episode.states)))

    def adopt(self, files: dict[str, bytes], manifest: Manifest) -> str:
        """Commit an episode's bytes as they are and return its name; `read_files` has proven another store's."""
        if self._lock is None:
            raise StoreError(f"{self.path} is open for reading; open it with mode='a' to append")
        name = f"{self._next:08d}-{manifest.hash[:8]}"
        self._next += 1  # even if what follows fails: a name is never tried twice
        try:
            self._commit(name, files | {MANIFEST: manifest.to_bytes()})
        except OSError as error:
            error.add_note(f"the episode was not committed, {self.path} is as before; make room and append it again")
            raise
        return name

    def _commit(self, name: str, files: dict[str, bytes]) -> None:
        staging, target = self.path / ".staging", self.path / "episodes" / name
        if self._root.commit == "manifest":
            return publish_in_place(target, files, last=MANIFEST, mark=staging / name)
        staged = staging / uuid4().hex
        try:
            write_tree(staged, files)
            publish(staged, target)
        finally:
            shutil.rmtree(staged, ignore_errors=True)  # only there where something failed

    def read(self, name: str, images: bool = True, decisions: bool = True) -> Episode:
        """The episode as it was appended; bytes are proven by SHA-256 before they are decoded.

        What is left out is not read and only checked by size. Raises EpisodeDamaged, KeyError for an unknown name.
        """
        folder, manifest = self._folder(name), self.manifest(name)
        without = (*(() if images else ("images/",)), *(() if decisions else ("decisions/",)))
        files = read_files(folder, manifest, without)
        try:
            return decode(files, self.spec, images, decisions)
        except StoreError:
            raise
        except (ValueError, KeyError, TypeError) as error:
            problem = Problem(name, "zarr.json", "an episode of this store's Spec", str(error))
            raise EpisodeDamaged([problem]) from error

    def about(self, name: str) -> dict[str, Any]:
        """The episode's attributes (task, success, provenance, ...), proven by SHA-256; no array is read."""
        folder, manifest = self._folder(name), self.manifest(name)
        only = replace(manifest, files={key: entry for key, entry in manifest.files.items() if key == "zarr.json"})
        try:
            return dict(parse_json(read_files(folder, only)["zarr.json"], "zarr.json")["attributes"])
        except (Refused, KeyError, TypeError, ValueError) as error:
            if isinstance(error, StoreError):
                raise
            raise EpisodeDamaged([Problem(name, "zarr.json", "JSON with attributes", str(error))]) from error

    def verify(self, name: str | None = None) -> list[Problem]:
        """Read everything, or one episode, and report all damage; an empty list means sound."""
        problems = [] if name else root_problems(self.path, self._root) + self._strangers()
        for each in [name] if name else self.names():
            try:
                self.read(each)
                problems += unexpected_files(self._folder(each), self.manifest(each))
            except EpisodeDamaged as damage:
                problems += damage.problems
            except KeyError:  # its name is there, its folder is not
                problems.append(Problem(each, "", "a folder", "a file"))
        return problems

    def manifest(self, name: str) -> Manifest:
        """Raises EpisodeDamaged where the folder's name is not its content's."""
        manifest = read_manifest(self._folder(name))
        if (head := manifest.hash[:8]) != name[9:]:
            raise EpisodeDamaged([Problem(name, MANIFEST, f"an episode whose hash begins with {name[9:]}", head)])
        return manifest

    def manifest_hash(self, name: str) -> str:
        """Names the episode's content; what labels and caches are keyed by."""
        return self.manifest(name).hash

    def close(self) -> None:
        """Let another writer in."""
        if self._lock:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> EpisodeStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _folder(self, name: str) -> Path:
        folder = self.path / "episodes" / name
        if not NAME.fullmatch(name) or not folder.is_dir():
            raise KeyError(f"no episode {name!r} in {self.path}; names() lists all {len(self)}")
        return folder

    def _strangers(self) -> list[Problem]:
        """What lies among the episodes and is none: a reader would miss it if its name was damaged."""
        names = listing(self.path / "episodes")
        got = "a name that is no episode's"
        return [
            Problem(name, "", "nothing else in episodes/", got)
            for name in names
            if name != "zarr.json" and not NAME.fullmatch(name)
        ]

    def _begun(self) -> set[str]:
        """Episodes that a writer is writing in place, or was when it died."""
        try:
            return {name for name in listing(self.path / ".staging") if NAME.fullmatch(name)}
        except (FileNotFoundError, NotADirectoryError):
            return set()

    def _committed(self, name: str) -> bool:
        try:
            return bool(read_manifest(self.path / "episodes" / name))
        except EpisodeDamaged:
            return False

    def _sweep(self) -> None:
        """Remove what a crashed writer had not acknowledged."""
        for name in self._begun():
            if not self._committed(name) and (folder := self.path / "episodes" / name).exists():
                shutil.rmtree(folder)
                sync_folder(folder.parent)  # before its mark goes
        if (self.path / ".staging").exists():
            shutil.rmtree(self.path / ".staging")

    def _quarantined(self) -> list[str]:
        """Their numbers are not given again: labels and notes name them."""
        try:
            return [name for name in listing(self.path / "quarantine") if NAME.match(name)]
        except FileNotFoundError:
            return []
