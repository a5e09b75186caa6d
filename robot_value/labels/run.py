"""Label a whole store: fit the labeler, label what is missing, and say in numbers what that changed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count
from typing import Any

from .. import components
from ..episodes.errors import StoreError
from ..episodes.manifest import canonical, sha256
from ..episodes.store import EpisodeStore
from ..types import Episode
from .effects import Effects, measure
from .encoding import Origin
from .labels import Labels
from .root import names, refuse_other, safe_name
from .store import LabelStore


@dataclass
class View:
    """A store's episodes as a labeler sees them: without images unless it asks, through the base labels if any."""

    store: EpisodeStore
    names: tuple[str, ...]
    base: LabelStore | None
    images: bool
    asked: bool = False  # has the labeler asked for the whole dataset

    def fingerprint(self) -> str:
        """Changes with every episode and with every one of its base labels."""
        base = [self.base.hash(name) if self.base else "" for name in self.names]
        return sha256(canonical([(n, self.store.manifest_hash(n), b) for n, b in zip(self.names, base, strict=True)]))

    def read(self, name: str) -> tuple[Episode, Labels]:
        base = self.base.read(name) if self.base else Labels()
        return base.on(self.store.read(name, images=self.images, decisions=False)), base

    def episodes(self) -> Iterator[tuple[str, Episode]]:
        self.asked = True
        return ((name, self.read(name)[0]) for name in self.names)


@dataclass(frozen=True)
class Labelled:
    """What a run of `data label` did."""

    name: str
    labelled: int  # episodes
    there: int  # episodes that an earlier run had labelled
    effects: Effects  # over all of them

    def to_text(self) -> str:
        head = f"labels {self.name}: {self.labelled} episodes labelled, {self.there} were already"
        return f"{head}\n{self.effects.to_text()}\ntrain with --windowing.labels={self.name}"


def label(
    store: EpisodeStore,
    labeler: str,  # component name, or dotted module
    config: Any,  # its Config
    name: str,
    base: str = "",  # labels that the labeler sees in place of the recording, and that stay where it says nothing
    fresh: bool = False,  # where the name is taken, take name-2, name-3, ...
    progress: bool = True,
) -> Labelled:
    """Labels are never rewritten: run it again to go on, or to label new episodes. Raises StoreError, ValueError."""
    from tqdm import tqdm

    taken = names(store)
    name = _free(name, taken) if fresh else safe_name(name)
    images = bool(getattr(components.load("labelers", labeler), "IMAGES", False))
    view = View(store, tuple(store.names()), LabelStore.open(store, base) if base else None, images)
    if not view.names:
        raise StoreError(f"{store.path} holds no episodes yet; append some before labelling")
    settings = json.loads(canonical(asdict(config)))
    there = LabelStore.open(store, name) if name in taken else None
    fingerprint = view.fingerprint()
    if there:
        refuse_other(name, there.origin, Origin(labeler, settings, base, there.origin.dataset and fingerprint))
    known = set(there.episodes()) if there else set()
    todo = [each for each in view.names if each not in known]
    if todo:
        model = config.build()
        model.fit(view.episodes)
        origin = Origin(labeler, settings, base, fingerprint if view.asked else "")
        with LabelStore.create(store, name, origin) as labels:
            for each in tqdm(todo, "labelling", unit="episode", disable=not progress):
                episode, seen = view.read(each)
                labels.write(each, model.label(each, episode).over(seen))
    return Labelled(name, len(todo), len(view.names) - len(todo), measure(store, name))


def _free(name: str, taken: list[str]) -> str:
    tries = (safe_name(f"{name}-{i}" if i > 1 else name) for i in count(1))
    return next(each for each in tries if each not in taken)
