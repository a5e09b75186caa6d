"""Who numbers, starts and ends the episodes of an arm, and hands what was recorded to the writer. No ROS, no torch.

    start ──► one Take ──► stop · success · failure · ended ──► closing: what is under way still comes ──► writer
                    └────► discard: nothing is kept

Everything runs in one thread; `poll` every few ms does what time demands.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import wire
from ..episodes.store import EpisodeStore
from ..messages import MessageError
from ..resampling import SECOND, Assembler, Received
from ..topics import Topics
from ..types import Decision
from .album import Album
from .assembling import episodes, lost
from .recording import Controls, Ending, Step, Take
from .store_writer import StoreWriter

GIB = 1 << 30
FINITE = float(np.finfo(np.float32).max)
SETTLE = 0.2  # s after the end in which messages that were sent before it still come


@dataclass(frozen=True)
class Settings:
    steered: bool  # steps are steering's; else ticks of our own
    guarded: bool  # actions are what the guard executed; else what controllers were told
    lockstep: bool
    task: str  # where nobody says another
    seed: int  # of episode 0's scene; episode n has seed + n
    source: str  # whose the actions are, without a guard: wire.HUMAN, wire.POLICY or "expert"
    memory: float  # GiB of pictures that one episode may hold, and that may wait for the disk
    free: float  # GiB that must be free where the store lies
    grace: float  # s to wait for what belongs to an episode that has ended
    shortest: int  # steps
    keep: bool  # false: episodes begin and end, and nothing of them is stored


class EpisodeMaster:
    def __init__(
        self,
        topics: Topics,
        writer: StoreWriter,
        album: Album,
        settings: Settings,
        provenance: Mapping[str, Any],
        announce: Callable[[dict[str, Any]], None],  # an event of `episode`, to all nodes
        closed: Callable[[int, bool], None],  # number of an episode that is over, whether it is kept
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.topics, self.writer, self.album, self.settings = topics, writer, album, settings
        self.provenance, self.announce, self.closed, self.clock = provenance, announce, closed, clock
        self.take: Take | None = None
        self.closing: list[tuple[Take, int]] = []  # (take, ns since when)
        self.number = next_number(writer.store)  # of the next episode
        self.notes: list[str] = []  # what was not recorded as it should have been; to be taken by whoever reports
        self.task = settings.task
        self.human = False
        self.refused = 0  # messages that could not be used
        self.last_refused = ""
        self._grace = settings.grace * (10 if settings.lockstep else 1)  # a lock-step graph is in nobody's hurry
        self._assembler: Assembler | None = None
        self._newest: dict[str, Received] = {}
        self._controls = Controls(topics)
        self._command: wire.Plan | None = None
        self._tick = 0

    # -- what the operator, steering and the robot say -----------------------------------------------------------------

    def start(self) -> str:
        """ "" or why not."""
        if self.take is not None:
            return f"episode {self.take.number} is running; stop, success, failure or discard ends it"
        if reason := self._full():
            return reason
        now, settings = self.clock(), self.settings
        by_step = not settings.guarded or (settings.lockstep and settings.steered)
        seed = settings.seed + self.number
        self.take = Take(self.topics, self.number, seed, self.task, now, by_step, counted=settings.lockstep)
        self.number += 1
        if self._command is not None:
            self.take.put_command(self._command)
        if not settings.steered:
            self._assembler, self._tick = Assembler(self.topics, now), 0
            for topic, received in self._newest.items():
                self._assembler.put(topic, received)
        about = {"event": "start", "episode": self.take.number, "seed": seed, "task": self.task, "time": now}
        self.announce(about)
        return ""

    def end(self, ending: Ending) -> str:
        """ "" or why not."""
        take, self.take = self.take, None
        if take is None:
            return "no episode is running; start one first"
        take.ending = ending
        if ending.event != "ended":  # steering has said so to everybody
            about = {"event": ending.event, "episode": take.number, "seed": take.seed, "task": take.task}
            self.announce(about | {"time": ending.time})
        if ending.event == "discard" or not self.settings.keep:
            self.closed(take.number, False)
        else:
            self.closing.append((take, self.clock()))
        return ""

    def stop(self, event: str, why: str = "") -> str:
        return self.end(Ending(event, self.clock(), why=why))

    def ended(self, episode: int, steps: int, why: str) -> None:
        """Steering has ended its episode."""
        if self.take is not None and self.take.number == episode:
            self.end(Ending("ended", self.clock(), steps, why))

    def put_step(self, step: Step) -> None:
        for take in self._open():
            take.put_step(step, self.album)
            if not self.settings.guarded:
                take.put_controls(step, self._controls, self._source)
        self._succeed()

    def put_image(self, topic: str, received: Received, frame_id: str) -> None:
        self.album.put(topic, received, frame_id)
        for take in self._open():
            if take.missing:
                take.look(self.album)

    def put_input(self, topic: str, received: Received) -> None:
        """For ticks of our own, and for actions without a guard."""
        self._newest[topic] = received
        self._controls.put(topic, received)
        if self._assembler is not None:
            self._assembler.put(topic, received)

    def put_command(self, command: wire.Plan) -> None:
        """What the guard executed."""
        if self.settings.guarded:
            self._command = command
            for take in self._open():
                take.put_command(command)

    def put_plan(self, plan: wire.Plan) -> None:
        """Its steps are those of steering; they are not the ticks of our own."""
        if self.settings.steered:
            for take in self._open():
                take.put_plan(plan)

    def put_decision(self, decision: Decision) -> None:
        if (take := self._talked_about()) is not None:
            take.put_decision(decision)

    def put_reward(self, received: int, reward: float) -> None:
        if not abs(reward) <= FINITE:
            self.refuse(MessageError(f"reward: expected a finite number, got {reward}"))
        elif (take := self._talked_about()) is not None:
            take.rewards.append((received, reward))

    def put_success(self, received: int, success: bool) -> None:
        if self.take is not None and self._talked_about() is self.take:
            self.take.put_success(received, success)
            self._succeed()

    def refuse(self, error: Exception) -> None:
        """A message that cannot be used; what belongs to it is lost."""
        self.refused, self.last_refused = self.refused + 1, str(error)

    # -- what time demands ---------------------------------------------------------------------------------------------

    def poll(self) -> None:
        self._take_ticks()
        self._succeed()
        if self.take is not None and self.take.bytes > self.settings.memory * GIB:
            self._cut(f"its pictures fill {self.settings.memory:g} GiB of memory (parameter `memory`)")
        for take, since in list(self.closing):
            waited = (self.clock() - since) / SECOND
            if waited >= self._grace or (waited >= SETTLE and take.complete()):
                self.closing.remove((take, since))
                self._commit(take)

    def check_disk(self) -> None:
        """Once a second: an episode ends while it can still be written."""
        if self.take is not None and self.free() < self.settings.free:
            self._cut(f"only {self.free():.2f} GiB are free (parameter `free`)")

    def free(self) -> float:
        """GiB on the store's disk; none where it cannot be reached."""
        try:
            return shutil.disk_usage(self.writer.store.path).free / GIB
        except OSError:
            return 0.0

    def finish(self) -> None:
        """The node ends: what is whole is kept, as an episode that was cut off."""
        if self.take is not None:
            self.stop("stop", "the recorder was stopped")
        while self.closing:
            self._commit(self.closing.pop(0)[0])

    def _take_ticks(self) -> None:
        if self._assembler is None or self.take is None:
            return
        while self._assembler.time(self._tick) <= self.clock():
            tick = self._assembler.take(self._tick)
            self._tick += 1
            try:
                self.take.put_tick(tick, self._source)
            except MessageError as error:
                self.refuse(error)

    def _succeed(self) -> None:
        """A success ends the episode when the step that brought it is over, at the latest after `grace`."""
        if self.take is None or self.take.won is None:
            return
        ending, (_, when) = self.take.succeeded(), self.take.won
        if ending is None and self.clock() - when > self._grace * SECOND:
            ending = Ending("success", when)
        if ending is not None:
            self.end(ending)

    def _cut(self, why: str) -> None:
        self.notes.append(f"episode {self.take.number} was ended: {why}")
        self.stop("stop", why)

    def _commit(self, take: Take) -> None:
        kept = episodes(take, self.settings.shortest, self.provenance)
        missing = ", ".join(f"{what} {count} times" for what, count in lost(take).items())
        if not kept or missing:
            into = f"{len(kept)} parts" if kept else f"nothing of {take.length} steps"
            why = f"{missing or 'nothing, too short'}{self._unheard(take)}"
            self.notes.append(f"episode {take.number}: {into} kept; lost: {why}")
        for episode in kept:
            self.writer.put(episode)
        self.closed(take.number, True)

    def _unheard(self, take: Take) -> str:
        """Where commands were expected, if none came."""
        topics = [entry.topic for entry in self.topics.action]
        where = "executed; without a guard set guarded: false" if self.settings.guarded else ", ".join(topics)
        return "" if take.commands else f"; no command came on {where}"

    def _full(self) -> str:
        settings = self.settings
        waiting = self.writer.bytes + sum(take.bytes for take, _ in self.closing)
        if self.writer.error and waiting > settings.memory * GIB:
            return f"{self.writer.waiting} episodes wait for the disk: {self.writer.error}"
        if self.free() < settings.free:
            return f"{self.writer.store.path}: expected {settings.free:g} GiB free, got {self.free():.2f}; make room"
        return ""

    @property
    def _source(self) -> str:
        """Whose an action is, where no guard says it."""
        return wire.HUMAN if self.human else self.settings.source

    def _open(self) -> list[Take]:
        return [take for take, _ in self.closing] + ([self.take] if self.take is not None else [])

    def _talked_about(self) -> Take | None:
        """Whose a message is that names no episode: the last one of which steering has seen something."""
        begun = [take for take in self._open() if take.steps]
        return begun[-1] if begun else self.take if not self.settings.lockstep else None


def next_number(store: EpisodeStore) -> int:
    """Episodes are numbered on over the life of a store, however many parts each became."""
    for name in reversed(store.names()):
        number = store.about(name)["provenance"].get("episode")
        return 1 + (number if isinstance(number, int) else int(name[:8]))
    return 0
