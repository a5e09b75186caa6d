"""Power loss between any two syscalls of an operation: record its log, cut it everywhere, look at what a disk may hold.

After every cut the store must be the old one or the new one; after the last, when it was acknowledged, the new one.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import recorded
from append_until_killed import make_episode, make_spec
from filesystem import Call, Disk, Syscalls, materialize, snapshot

from robot_value.episodes import EpisodeStore, StoreError
from robot_value.episodes.cache import open_cache
from robot_value.episodes.durable import replace_file
from robot_value.episodes.repair import repair


@dataclass(frozen=True)
class Operation:
    """`prepare` makes the old state below a folder, `run` is cut, `check` answers what was found wrong."""

    name: str
    prepare: Callable[[Path], None]
    run: Callable[[Path], None]
    check: Callable[[Path, bool], str]  # (folder, was it acknowledged) -> "" where old or new state


@dataclass
class Cuts:
    """What cutting found."""

    points: int = 0  # places between two syscalls
    states: int = 0  # trees that were looked at, each different
    losses: list[str] = field(default_factory=list)


def cut(
    operation: Operation, variants: int = 4, points: int | None = None, seed: int = 0, bar: Iterable = iter
) -> Cuts:
    """At each point (or at `points` of them, spread) the bare durable tree and `variants` seeded torn ones."""
    rng, found, seen = random.Random(seed), Cuts(), set()
    with tempfile.TemporaryDirectory(dir=_memory()) as scratch:
        start, log = record(operation, Path(scratch) / "recorded")
        ends = range(len(log) + 1) if points is None else sorted({*rng.sample(range(len(log)), points), len(log)})
        disk, done = Disk(start), 0
        for end in bar(ends):
            while done < end:
                disk.do(log[done])
                done += 1
            found.points += 1
            for adversary in [None, *(random.Random(rng.random()) for _ in range(variants))]:
                tree = disk.after_power_loss(adversary)
                if (key := (end == len(log), frozenset(tree.items()))) in seen:
                    continue
                seen.add(key)
                found.states += 1
                if loss := examine(operation, tree, Path(scratch) / "found", end == len(log)):
                    found.losses.append(f"{operation.name} cut before call {end + 1} of {len(log)}: {loss}")
    return found


def record(operation: Operation, folder: Path) -> tuple[dict[str, bytes | None], list[Call]]:
    folder.mkdir()
    operation.prepare(folder)
    start = snapshot(folder)
    with Syscalls(folder) as calls:
        operation.run(folder)
    return start, calls.log


def examine(operation: Operation, tree: dict[str, bytes | None], folder: Path, acknowledged: bool) -> str:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    materialize(tree, folder)
    try:
        return operation.check(folder, acknowledged)
    except (StoreError, OSError, KeyError, AssertionError) as error:
        return f"{type(error).__name__}: {error}"


def _memory() -> str | None:
    return "/dev/shm" if Path("/dev/shm").is_dir() else None


# -- the operations ---------------------------------------------------------------------------------------------------


def episode(seed: int):
    return make_episode(make_spec(), np.random.default_rng(seed))


def full_episode(seed: int):
    """Images, decisions and all: three times the files."""
    return recorded.make_episode(recorded.make_spec(cameras=("front",)), seed=seed, decisions=2)


def append(commit: str = "rename", episode: Callable = episode) -> Operation:
    """A store of one episode gets a second."""
    spec = episode(0).spec
    with tempfile.TemporaryDirectory() as scratch:  # names follow from content: the same in every run
        store = EpisodeStore.create(Path(scratch) / "s", spec, commit)
        old, new = store.append(episode(0)), store.append(episode(1))
        store.close()

    def prepare(folder: Path) -> None:
        with EpisodeStore.create(folder / "s", spec, commit) as store:
            store.append(episode(0))

    def run(folder: Path) -> None:
        with EpisodeStore.open(folder / "s", "a") as store:
            store.append(episode(1))

    def check(folder: Path, acknowledged: bool) -> str:
        names = EpisodeStore.open(folder / "s").names()
        if names not in ([[old, new]] if acknowledged else [[old], [old, new]]):
            return f"episodes {names}, acknowledged {acknowledged}"
        if problems := EpisodeStore.open(folder / "s").verify():
            return str(problems[0])
        with EpisodeStore.open(folder / "s", "a") as store:
            again = store.names()
        return "" if again == names and not (folder / "s" / ".staging").exists() else f"the next writer saw {again}"

    return Operation(f"append by {commit}", prepare, run, check)


def create() -> Operation:
    def run(folder: Path) -> None:
        EpisodeStore.create(folder / "new" / "s", make_spec()).close()

    def check(folder: Path, acknowledged: bool) -> str:
        path = folder / "new" / "s"
        if not (path / "zarr.json").exists():
            EpisodeStore.create(path, make_spec()).close()  # may be repeated
            return "no store" if acknowledged else ""
        return "; ".join(map(str, EpisodeStore.open(path).verify()))

    return Operation("create", lambda folder: None, run, check)


def replace() -> Operation:
    def check(folder: Path, acknowledged: bool) -> str:
        content = (folder / "file").read_bytes()
        return "" if content in ([b"new" * 9] if acknowledged else [b"old", b"new" * 9]) else f"content {content!r}"

    return Operation(
        "replace_file",
        lambda folder: replace_file(folder / "file", b"old"),
        lambda folder: replace_file(folder / "file", b"new" * 9),
        check,
    )


def mend() -> Operation:
    """Repair of a store with a sound and a damaged episode and leftovers; what was cut, the next repair ends."""

    def prepare(folder: Path) -> None:
        with EpisodeStore.create(folder / "s", make_spec()) as store:
            names = [store.append(episode(seed)) for seed in range(2)]
        (folder / "s" / "episodes" / names[1] / "actions" / "c" / "0" / "0").write_bytes(b"damage")
        (folder / "s" / "episodes" / "zarr.json").write_bytes(b"{")
        (folder / "s" / ".staging" / "half").mkdir(parents=True)

    def check(folder: Path, acknowledged: bool) -> str:
        path = folder / "s"
        if acknowledged and (problems := EpisodeStore.open(path).verify()):
            return str(problems[0])
        repair(path)
        store = EpisodeStore.open(path)
        kept = {each.name[:8] for each in (path / "quarantine").iterdir() if each.is_dir()}
        sound = store.verify() == [] and [name[:8] for name in store.names()] == ["00000000"]
        return "" if sound and "00000001" in kept and repair(path).code == 0 else f"{store.names()}, kept {kept}"

    return Operation("repair", prepare, lambda folder: repair(folder / "s"), check)


def build_cache() -> Operation:
    def prepare(folder: Path) -> None:
        with EpisodeStore.create(folder / "s", make_spec()) as store:
            store.append(episode(0))

    def check(folder: Path, acknowledged: bool) -> str:
        cache, expected = open_cache(EpisodeStore.open(folder / "s"), progress=False), episode(0)
        same = np.array_equal(cache.action, expected.actions) and np.array_equal(cache.state, expected.states)
        return "" if same and cache.success[0] == 1 else "the cache is not the episodes"

    return Operation(
        "cache", prepare, lambda folder: open_cache(EpisodeStore.open(folder / "s"), progress=False) and None, check
    )


OPERATIONS = {
    "append": append,
    "append in place": lambda: append("manifest"),
    "append everything": lambda: append(episode=full_episode),
    "create": create,
    "replace_file": replace,
    "repair": mend,
    "cache": build_cache,
}
