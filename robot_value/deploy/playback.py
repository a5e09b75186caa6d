"""A recorded episode as what the topics of a robot would say: per control step, in order. No ROS, no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .. import wire
from ..components import load as load_component
from ..episodes.store import EpisodeStore
from ..replay.logs import Log, SourceLog
from ..resampling import time_of
from ..topics import Numbers, Topics
from ..types import POLICY, Episode
from .compose import write_image, write_numbers


def open_log(path: str | Path, topics: str) -> Log:
    """An episode store, or a bag through the converter with the same YAML of topics. Raises ValueError."""
    path = Path(path)
    if (path / "zarr.json").exists():
        return EpisodeStore.open(path)
    bags = load_component("converters", "rosbag")
    if not path.exists() or not bags.recognises(path):
        raise ValueError(f"{path}: expected an episode store or a bag, got neither")
    return SourceLog(bags.Config(topics=topics).build(path))


class Playback:
    """Steps 0..T-1 of an episode; with a final observation, tick T too."""

    def __init__(self, episode: Episode, topics: Topics, number: int) -> None:
        topics.spec.check(episode.spec, who=f"episode {number}")
        self.episode, self.topics, self.number = episode, topics, number
        seed = episode.provenance.get("seed")
        self.seed = seed if isinstance(seed, int) else number  # as LoggedRobot has it
        self.last = len(episode.states) - 1  # tick
        self._states = _columns(topics)
        self._schema = wire.schema(topics.spec)

    def start(self, now: int) -> dict[str, Any]:
        """The event; `now` in ns."""
        return {"event": "start", "episode": self.number, "seed": self.seed, "task": self.episode.task, "time": now}

    def end(self, now: int) -> dict[str, Any]:
        ended = "success" if self.episode.success else "failure"
        return self.start(now) | {"event": ended if self.episode.terminated else "stop"}

    def observation(self, k: int, make: Callable[[str], Any]) -> Iterator[tuple[str, Any]]:
        """(topic, message) of tick k; `make(type)` gives a new message. Raises MessageError."""
        for topic, entries in self._states.items():
            message = make(next(iter(entries)).type)
            write_numbers(message, {entry: self.episode.states[k, columns] for entry, columns in entries.items()})
            yield topic, message
        for entry in self.topics.cameras:
            message = make(entry.type)
            write_image(message, entry, self.episode.images[entry.camera.name][k])
            yield entry.topic, message

    def executed(self, k: int, seq: int, now: int) -> wire.About:
        """What is said of the command of step k, whose numbers are `episode.actions[k]`."""
        source = POLICY if self.episode.source is None else self.episode.source[k]
        said = wire.POLICY if source == POLICY else wire.HUMAN
        return wire.About(seq, self.number, k, now, now, now, self._schema, said)

    def stamp(self, k: int) -> int:
        """ns since the episode's start."""
        return time_of(self.topics, 0, k)


def _columns(topics: Topics) -> dict[str, dict[Numbers, np.ndarray]]:
    """topic -> entry -> int64[dims], where its numbers are in a state; one topic may have several entries."""
    found: dict[str, dict[Numbers, np.ndarray]] = {}
    at = 0
    for entry in topics.state:
        found.setdefault(entry.topic, {})[entry] = np.arange(at, at + len(entry.names))
        at += len(entry.names)
    return found
