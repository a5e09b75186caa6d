"""Episodes decoded once into flat memory-mapped .npy files, because decoding zarr per sample is 1000 times slower.

Keyed by the manifests of the store: another content is another cache. Built beside and renamed into place, so it is
whole or absent; episodes that an older cache holds are copied from there. Nothing is pickled.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError

import numpy as np

from ..types import Spec
from ..untrusted import read_json
from .durable import publish, sync_folder, write_file
from .encoding import spec_fingerprint
from .manifest import Manifest, StoreError, canonical, sha256
from .remote import Folder
from .store import EpisodeStore

CACHE_VERSION = 1
READERS = 8  # manifests read side by side: behind a URL each waits for its answer
OURS = re.compile(r"[0-9a-f]{32}|\.building-.*")
TABLES = ("steps", "frames", "terminated", "truncated", "success", "task")


@dataclass(frozen=True)
class Cache:
    """E episodes end to end: steps[e] actions from row step_start[e], frames[e] states from row frame_start[e]."""

    path: Path
    spec: Spec
    names: tuple[str, ...]  # E episode names
    hashes: tuple[str, ...]  # E manifest hashes
    tasks: tuple[str, ...]  # distinct task texts
    state: np.ndarray  # float32[sum of frames, S], spec units
    images: dict[str, np.ndarray]  # camera name -> uint8[sum of frames, h, w, 3]
    action: np.ndarray  # float32[sum of steps, A], spec units
    reward: np.ndarray  # float32[sum of steps]
    source: np.ndarray  # uint8[sum of steps], index into types.SOURCES
    steps: np.ndarray  # int64[E], T
    frames: np.ndarray  # int64[E], T + 1, or T where the last frame is missing
    terminated: np.ndarray  # bool[E]
    truncated: np.ndarray  # bool[E]
    success: np.ndarray  # float32[E], 1, 0, or NaN where nobody knows
    task: np.ndarray  # int64[E], index into tasks

    def __len__(self) -> int:
        return len(self.names)

    @property
    def step_start(self) -> np.ndarray:
        """int64[E], first row of each episode in action, reward and source."""
        return np.cumsum(self.steps) - self.steps

    @property
    def frame_start(self) -> np.ndarray:
        """int64[E], first row of each episode in state and images."""
        return np.cumsum(self.frames) - self.frames


def open_cache(store: EpisodeStore, root: str | Path | None = None, progress: bool = True) -> Cache:
    """The store's decoded cache, built first where it is missing or stale. Raises EpisodeDamaged, StoreError if empty.

    `root` defaults to `<store>/.cache`, or to the user's cache folder where the store cannot be written.
    """
    names = tuple(store.names())
    if not names:
        raise StoreError(f"{store.path} holds no episodes yet; append some before training")
    with ThreadPoolExecutor(READERS) as threads:
        manifests = list(threads.map(store.manifest, names))
    hashes = tuple(manifest.hash for manifest in manifests)
    key = sha256(canonical([CACHE_VERSION, spec_fingerprint(store.spec), list(zip(names, hashes, strict=True))]))[:32]
    root = Path(root) if root else _default_root(store.path)
    root.mkdir(parents=True, exist_ok=True)
    with _only_builder(root):
        target = root / key
        if not _whole(target):
            older = _older(root, store.spec, key)
            _build(store, names, manifests, target, older, progress)
            _drop_superseded(root, key, set(hashes))
    return _load(target, store.spec)


def _default_root(path: Folder) -> Path:
    if isinstance(path, Path) and os.access(path, os.W_OK) and _can_lock(path):
        return path / ".cache"
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "robot_value" / sha256(str(path.resolve() if isinstance(path, Path) else path).encode())[:16]


def _can_lock(path: Path) -> bool:
    """Some network mounts have no flock."""
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH)
        return True
    except OSError:
        return False
    finally:
        os.close(handle)


@contextmanager
def _only_builder(root: Path) -> Iterator[None]:
    """Several trainings that start together build once; the others wait."""
    with open(root / ".lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(
    store: EpisodeStore,
    names: tuple[str, ...],
    manifests: list[Manifest],
    target: Path,
    older: Cache | None,
    progress: bool,
) -> None:
    for folder in list(target.parent.iterdir()):  # we hold the lock, so who began them is dead
        if OURS.fullmatch(folder.name) and not _whole(folder):
            shutil.rmtree(folder)
    folder = Path(tempfile.mkdtemp(prefix=".building-", dir=target.parent))
    try:
        _fill(folder, store, names, manifests, older, progress)
        publish(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # only there where something failed: a full disk is given back


def _fill(
    folder: Path,
    store: EpisodeStore,
    names: tuple[str, ...],
    manifests: list[Manifest],
    older: Cache | None,
    progress: bool,
) -> None:
    from tqdm import tqdm

    hashes = tuple(manifest.hash for manifest in manifests)
    steps = np.array([manifest.steps for manifest in manifests], np.int64)
    frames = np.array([manifest.frames for manifest in manifests], np.int64)
    flat = _create_arrays(folder, store.spec, int(steps.sum()), int(frames.sum()))
    known = {key: i for i, key in enumerate(older.hashes)} if older else {}
    tables: dict[str, list] = {"terminated": [], "truncated": [], "success": []}
    texts: list[str] = []
    step = frame = 0
    for name, key in zip(tqdm(names, "decoding episodes", disable=not progress, leave=False), hashes, strict=True):
        if key in known:
            rows, facts = _rows_of(older, known[key])
        else:
            rows, facts = _decoded(store, name)
        for array, values in rows.items():
            start = step if array in ("action", "reward", "source") else frame
            flat[array][start : start + len(values)] = values
        step, frame = step + len(rows["action"]), frame + len(rows["state"])
        texts.append(facts.pop("task"))
        for table, value in facts.items():
            tables[table].append(value)
    tasks = list(dict.fromkeys(texts))
    finished = {
        "steps": steps,
        "frames": frames,
        "terminated": np.array(tables["terminated"], bool),
        "truncated": np.array(tables["truncated"], bool),
        "success": np.array(tables["success"], np.float32),
        "task": np.array([tasks.index(text) for text in texts], np.int64),
    }
    for name, table in finished.items():
        np.save(folder / f"{name}.npy", table, allow_pickle=False)
    _seal(folder, flat, {"names": names, "hashes": hashes, "tasks": tasks, "spec": spec_fingerprint(store.spec)})


def _create_arrays(folder: Path, spec: Spec, steps: int, frames: int) -> dict[str, np.memmap]:
    shapes = {
        "state": (np.float32, (frames, spec.state_dim)),
        "action": (np.float32, (steps, spec.action_dim)),
        "reward": (np.float32, (steps,)),
        "source": (np.uint8, (steps,)),
    } | {_image(camera.name): (np.uint8, (frames, camera.height, camera.width, 3)) for camera in spec.cameras}
    arrays = {}
    for name, (dtype, shape) in shapes.items():
        path = folder / f"{name}.npy"
        arrays[name] = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        with open(path, "r+b") as file:  # a full disk is an error here, and SIGBUS in a mapped page
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return arrays


def _decoded(store: EpisodeStore, name: str) -> tuple[dict[str, np.ndarray], dict]:
    episode = store.read(name, decisions=False)
    source = np.zeros(len(episode), np.uint8) if episode.source is None else episode.source
    rows = {"state": episode.states, "action": episode.actions, "reward": episode.rewards, "source": source}
    rows |= {_image(camera): image for camera, image in episode.images.items()}
    success = np.nan if episode.success is None else float(episode.success)
    facts = {"terminated": episode.terminated, "truncated": episode.truncated, "success": success, "task": episode.task}
    return rows, facts


def _rows_of(cache: Cache, e: int) -> tuple[dict[str, np.ndarray], dict]:
    steps = slice(cache.step_start[e], cache.step_start[e] + cache.steps[e])
    frames = slice(cache.frame_start[e], cache.frame_start[e] + cache.frames[e])
    rows = {"state": cache.state[frames], "action": cache.action[steps], "reward": cache.reward[steps]}
    rows |= {"source": cache.source[steps]} | {_image(name): image[frames] for name, image in cache.images.items()}
    facts = {name: getattr(cache, name)[e] for name in ("terminated", "truncated", "success")}
    return rows, facts | {"task": cache.tasks[cache.task[e]]}


def _seal(folder: Path, flat: Mapping[str, np.memmap], about: dict) -> None:
    """Everything on disk; cache.json, with every file's size, last."""
    for array in flat.values():
        array.flush()
    sizes = {path.name: path.stat().st_size for path in sorted(folder.glob("*.npy"))}
    for name in sizes:
        with open(folder / name, "rb") as file:
            os.fsync(file.fileno())
    write_file(folder / "cache.json", json.dumps(about | {"version": CACHE_VERSION, "sizes": sizes}).encode())
    sync_folder(folder)


def _whole(folder: Path) -> bool:
    """Every file is there with the size it was sealed with."""
    try:
        sizes = read_json(folder / "cache.json")["sizes"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in sizes.items())


def _load(folder: Path, spec: Spec) -> Cache:
    about = read_json(folder / "cache.json")

    def array(name: str) -> np.ndarray:
        try:
            return np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        except (ValueError, SyntaxError, TokenError) as error:  # numpy reads the header as Python
            got = f"expected the array that was sealed, got {error}"
            raise StoreError(f"{folder}/{name}.npy: {got}; delete {folder}, it is made again") from None

    return Cache(
        path=folder,
        spec=spec,
        names=tuple(about["names"]),
        hashes=tuple(about["hashes"]),
        tasks=tuple(about["tasks"]),
        images={camera.name: array(_image(camera.name)) for camera in spec.cameras},
        **{name: array(name) for name in ("state", "action", "reward", "source")},
        **{name: np.array(array(name)) for name in TABLES},
    )


def _older(root: Path, spec: Spec, key: str) -> Cache | None:
    """The newest other cache with the same Spec, to copy from."""
    folders = [path.parent for path in root.glob("*/cache.json") if path.parent.name != key and _whole(path.parent)]
    for folder in sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True):
        about = read_json(folder / "cache.json")
        if about["spec"] == spec_fingerprint(spec) and about["version"] == CACHE_VERSION:
            return _load(folder, spec)
    return None


def _drop_superseded(root: Path, key: str, hashes: set[str]) -> None:
    """Caches whose every episode the new one holds. Who has one mapped keeps it: files live until they are closed."""
    for path in root.glob("*/cache.json"):
        if path.parent.name != key and _whole(path.parent) and hashes.issuperset(read_json(path)["hashes"]):
            shutil.rmtree(path.parent)


def _image(camera: str) -> str:
    return f"image-{camera}"
