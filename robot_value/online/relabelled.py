"""Labels of the offline data, said anew while own episodes come in: ExPLORe's optimism ends where the robot has been.

Labeler and settings are those that made the labels; it is fitted on the offline and the own episodes together, then
says again what each offline episode pays. The labels on disk stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import draccus

from .. import components
from ..episodes.cache import Cache
from ..episodes.store import EpisodeStore
from ..labels.cached import CacheLabels, lay_out, read_labels
from ..labels.run import View
from ..labels.store import LabelStore
from ..types import Episode


@dataclass
class Relabelled:
    """`labels` is what holds now, of the whole cache."""

    data: EpisodeStore
    cache: Cache
    name: str  # of the labels
    own: Callable[[str, bool], Episode]  # an own episode by its name, with or without images

    def __post_init__(self) -> None:
        self.labels: CacheLabels = read_labels(self.data, self.name, self.cache)

    def refit(self, names: Sequence[str]) -> None:
        """`names`: own episodes that are known. Equal data, equal labels: a resumed run fits again."""
        origin = LabelStore.open(self.data, self.name).origin
        module = components.load("labelers", origin.labeler)
        labeler, images = draccus.decode(module.Config, origin.config).build(), bool(getattr(module, "IMAGES", False))
        base = LabelStore.open(self.data, origin.base) if origin.base else None
        view = View(self.data, self.cache.names, base, images)

        def episodes() -> Iterator[tuple[str, Episode]]:
            yield from view.episodes()
            yield from ((f"own {name}", self.own(name, images)) for name in names)

        labeler.fit(episodes)
        seen = ((name, *view.read(name)) for name in self.cache.names)
        said = [labeler.label(name, episode).over(below) for name, episode, below in seen]
        # A sampler's saved place goes on with other rewards: they are labels of the same name and origin.
        self.labels = lay_out(self.name, self.labels.hash, said, self.cache)
