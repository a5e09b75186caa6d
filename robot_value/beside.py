"""Several writers of one store: each has a store of its own beside it, whose episodes it adopts in the end.

A store has one writer. An episode is safe as soon as it is in any of them, and there once, wherever this is cut off.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from pathlib import Path

from .collect import open_store
from .episodes.edit import adopt
from .episodes.store import EpisodeStore


def beside(store: Path, name: str) -> Path:
    """Where one of several actors appends."""
    return _folder(store) / name


def gather(path: Path, recorded: Callable[[Path], Mapping[Hashable, str]]) -> None:
    """The store adopts what is beside it, by name. `recorded` tells of a store: what an episode is -> its name."""
    if not (folder := _folder(path)).exists():
        return
    known = dict(recorded(path))
    for own in sorted(folder.iterdir()):
        if (own / "zarr.json").exists():
            with EpisodeStore.open(own, "a") as source, open_store(path, source.spec) as target:
                for key, name in recorded(own).items():
                    if key not in known:
                        known[key] = adopt(target, source, name)
                (own / "zarr.json").unlink()  # no store any more, from here on
        shutil.rmtree(own)
    with suppress(OSError):
        folder.rmdir()


def _folder(store: Path) -> Path:
    return store.with_name(f"{store.name}.actors")
