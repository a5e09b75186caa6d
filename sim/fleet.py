"""B simulated robots behind the Robot protocol, played on W worker processes that hold one compiled model each.

Row b lives in worker b mod W. A worker plays one row's whole block of control steps before it switches rows, so the
switch (save_state, load_state) is paid once per decision; the answers hold every frame, at control rate.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from robot_value.protocols import ChunkFollower
from robot_value.types import EXPERT, HUMAN, POLICY, Decision, Observation, Outcome

from .fleet_ledger import Ledger
from .fleet_link import FleetError, Link, LocalLink, ProcessLink, close_all
from .fleet_rows import DRIVERS, Played
from .simulator import Simulator

__all__ = ["Fleet", "FleetError", "SimulatorConfig"]


class SimulatorConfig(Protocol):
    """Picklable, importable from a module: it is sent to the workers."""

    def simulator(self) -> Simulator: ...


Parts = list[list[Played]]  # per row, in order


class Fleet:
    """A Robot and a Snapshot. `workers=0` plays everything in this process; more workers than rows are not started.

    With `driver="expert"` the simulator's scripted expert acts at every control step and the decisions' chunks are
    ignored (their `execute` is not); what was drawn for its episode is in `latents[row]`. With `driver="shared"` it
    does so in the rows that `hand_over` names, as the human who takes over; the others follow their decisions.

    With `every_picture = False` cameras are rendered only for what a decision or a follower sees: `Outcome.images` is
    empty, and the pictures of a row that is done may be older than its state.
    """

    every_picture = True

    def __init__(
        self,
        config: SimulatorConfig,
        batch_size: int,
        workers: int = 0,
        n_obs_steps: int = 1,
        driver: str = "policy",
    ) -> None:
        if batch_size < 1 or workers < 0 or n_obs_steps < 1:
            raise ValueError(
                "a fleet needs batch_size >= 1, workers >= 0 and n_obs_steps >= 1, got "
                f"{batch_size}, {workers} and {n_obs_steps}"
            )
        if driver not in DRIVERS:
            raise ValueError(f"driver: expected one of {', '.join(DRIVERS)}, got {driver!r}")
        self.batch_size, self._driver = batch_size, driver
        self._links: list[Link] = []
        self._finalizer = weakref.finalize(self, close_all, self._links)
        try:
            for index in range(min(workers, batch_size)):
                self._links.append(ProcessLink(f"fleet worker {index}", config, driver))
            if not workers:
                self._links.append(LocalLink(config, driver))
            hello = [link.receive() for link in self._links][0][0]  # noqa: RUF015  every worker answers
        except BaseException:
            self.close()
            raise
        self.spec = hello.spec.choose(n_obs_steps=n_obs_steps)
        self.tasks, self.max_steps, self.provenance = hello.tasks, hello.max_steps, hello.provenance
        self._ledger = Ledger(self.spec, batch_size, n_obs_steps, hello.max_steps)
        self._expert = np.full(batch_size, driver == "expert")  # rows that the expert drives
        self._teacher = HUMAN if driver == "shared" else EXPERT  # what its steps are called

    @property
    def latents(self) -> list[dict[str, Any]]:
        """Per row: what its expert drew for this episode (JSON values)."""
        return self._ledger.latents

    def reset(self, tasks: Sequence[str], seeds: Sequence[int], rows: Sequence[int] | None = None) -> Observation:
        rows = self._rows(rows)
        if not len(tasks) == len(seeds) == len(rows):
            raise ValueError(f"reset: expected {len(rows)} tasks and seeds, got {len(tasks)} and {len(seeds)}")
        texts = [task or self.tasks[0] for task in tasks]  # "" is the default
        calls = {row: ("reset", row, text, int(seed)) for row, text, seed in zip(rows, texts, seeds, strict=True)}
        for row, (frame, latents) in self._call(calls).items():
            _, _, task, seed = calls[row]
            self._ledger.begin(row, task, seed, frame, latents)
        self._expert[rows] = self._driver == "expert"
        return self._ledger.observation()

    def hand_over(self, human: np.ndarray) -> None:
        """bool[B]: rows that the expert drives from now on; one that it did not drive before is begun anew."""
        if self._driver != "shared" or human.shape != (self.batch_size,):
            raise ValueError(
                f"hand_over: expected driver='shared' and bool[{self.batch_size}], got driver={self._driver!r} and "
                f"{list(human.shape)}"
            )
        self._call({int(row): ("take_over", int(row)) for row in np.flatnonzero(human & ~self._expert)})
        self._expert = human.copy()

    def execute(self, decision: Decision, follower: ChunkFollower | None = None) -> Outcome:
        """`follower=None` or one that declares `open_loop = True` plays the chunk as it is: one message per worker."""
        steps = np.minimum(decision.execute, self._ledger.left())
        if (steps < 0).any():
            raise ValueError(f"execute: expected no negative number of steps, got {decision.execute.tolist()}")
        parts: Parts = [[] for _ in range(self.batch_size)]
        driven = {int(row): (int(steps[row]), None) for row in np.flatnonzero(self._expert & (steps > 0))}
        told = np.where(self._expert, 0, steps)
        if follower is None or getattr(follower, "open_loop", False):
            self._play(parts, driven | self._blocks(decision, told))
        else:
            if driven:
                self._play(parts, driven)
            self._follow(parts, decision, follower, told)
        return self._outcome(parts)

    def save_state(self) -> list[Mapping[str, Any]]:
        """Per row, picklable; any row of any fleet with the same config can load it. Rows never reset are None."""
        started = [row for row in range(self.batch_size) if self._ledger.task[row]]
        saved = self._call({row: ("save", row) for row in started})
        return [
            {"worker": saved[row], "ledger": self._ledger.save(row)} if row in saved else None
            for row in range(self.batch_size)
        ]

    def load_state(self, states: Sequence[Mapping[str, Any]], rows: Sequence[int] | None = None) -> Observation:
        rows = self._rows(rows)
        if len(states) != len(rows):
            raise ValueError(f"load_state: expected {len(rows)} states for rows {rows}, got {len(states)}")
        self._call({row: ("load", row, state["worker"]) for row, state in zip(rows, states, strict=True)})
        for row, state in zip(rows, states, strict=True):
            self._ledger.load(row, state["ledger"])
        return self._ledger.observation()

    def close(self) -> None:
        """Ends every worker; calling it again does nothing."""
        close_all(self._links)

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _follow(self, parts: Parts, decision: Decision, follower: ChunkFollower, steps: np.ndarray) -> None:
        """A follower that looks at every observation costs a round trip per control step."""
        for done in range(int(steps.max(initial=0))):
            observation = self._ledger.observation()
            offset = np.clip(observation.step - decision.start_step, 0, decision.chunk.shape[1] - 1)
            actions = np.asarray(follower.action(observation, decision, offset), np.float32)
            active = np.flatnonzero((steps > done) & ~self._ledger.done)
            self._play(parts, {int(row): (1, actions[row : row + 1]) for row in active})

    def _blocks(self, decision: Decision, steps: np.ndarray) -> dict[int, tuple[int, np.ndarray]]:
        blocks = {}
        for row in np.flatnonzero(steps):
            first = int(self._ledger.step[row] - decision.start_step[row])
            block = np.asarray(decision.chunk[row, max(first, 0) : first + steps[row]], np.float32)
            if first < 0 or len(block) < steps[row]:
                raise ValueError(
                    f"robot {row} is at step {self._ledger.step[row]} and is to execute {steps[row]} actions, but its "
                    f"chunk of {decision.chunk.shape[1]} begins at step {decision.start_step[row]}"
                )
            blocks[int(row)] = (int(steps[row]), block)
        return blocks

    def _play(self, parts: Parts, blocks: Mapping[int, tuple[int, np.ndarray | None]]) -> None:
        for row, (_, actions) in blocks.items():
            if actions is None:
                continue
            if actions.shape[1:] != (self.spec.action_dim,) or not np.isfinite(actions).all():
                raise ValueError(
                    f"robot {row}: expected {self.spec.action_dim} finite numbers per action, got {actions}"
                )
        pictures = None if self.every_picture else self.spec.n_obs_steps
        calls = {row: ("play", row, k, a, pictures) for row, (k, a) in blocks.items()}
        for row, played in self._call(calls).items():
            parts[row].append(played)
            self._ledger.add(row, played)

    def _call(self, calls: Mapping[int, tuple]) -> dict[int, Any]:
        """One call per row, all workers at once. Any failure closes the fleet: its rows are no longer known."""
        if not self._links:
            raise FleetError("this fleet is closed; build a new one")
        rows = [[row for row in calls if row % len(self._links) == index] for index in range(len(self._links))]
        try:
            for link, mine in zip(self._links, rows, strict=True):
                link.send([calls[row] for row in mine])
            answers = [link.receive() for link in self._links]
        except BaseException:
            self.close()
            raise
        return {
            row: answer for mine, got in zip(rows, answers, strict=True) for row, answer in zip(mine, got, strict=True)
        }

    def _rows(self, rows: Sequence[int] | None) -> list[int]:
        rows = list(range(self.batch_size)) if rows is None else [int(row) for row in rows]
        if any(not 0 <= row < self.batch_size for row in rows) or len(set(rows)) != len(rows):
            raise ValueError(f"rows: expected distinct numbers in [0, {self.batch_size}), got {rows}")
        return rows

    def _outcome(self, parts: Parts) -> Outcome:
        """Rows shorter than the longest are padded: states and images by the latest, the rest by zeros."""
        ledger, batch = self._ledger, self.batch_size
        k = max((sum(len(p.actions) for p in part) for part in parts), default=0)
        valid = np.zeros((batch, k), bool)
        executed, commanded = (np.zeros((batch, k, self.spec.action_dim), np.float32) for _ in range(2))
        rewards = np.zeros((batch, k), np.float32)
        states = np.repeat(ledger.state[:, -1:], k, 1)
        pictured = ledger.images if self.every_picture else {}
        images = {name: np.repeat(image[:, -1:], k, 1) for name, image in pictured.items()}
        for row, part in enumerate(parts):
            begin = 0
            for played in part:
                span = slice(begin, begin := begin + len(played.actions))
                valid[row, span], rewards[row, span] = True, played.rewards
                executed[row, span], commanded[row, span] = played.actions, played.commanded
                states[row, span] = played.states
                for name, image in images.items():
                    image[row, span] = played.images[name]
        return Outcome(
            observation=ledger.observation(),
            states=states,
            images=images,
            executed=executed,
            commanded=commanded,
            executed_valid=valid,
            rewards=rewards,
            source=np.where(self._expert, self._teacher, POLICY).astype(np.uint8)[:, None].repeat(k, 1),
            terminated=ledger.terminated.copy(),
            truncated=ledger.truncated.copy(),
            success=ledger.success.copy(),
            unstable=ledger.unstable.copy(),
        )
