"""An arm behind topics as a Robot of the one loop: plans go out, ticks come in, the loop never knows the difference.

sync     the arm rests at a plan's end while the next decision is made; the grid of ticks goes on from its beginning
ahead    decisions are made while the arm moves (ThinkAhead and a splicing follower); plans carry the chunk's rest
shadow   somebody else moves the arm: everything is decided and logged, no plan is ever sent

No rclpy in here: messages come in as objects and leave through an Outbox. Callbacks run in one thread, the loop in
another. Inputs that are stale end the steps of a decision: the plan runs out, the guard stops the arm, and the loop
goes on from the first fresh inputs, at the step that the clock says. A human who takes over is waited for.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from robot_value import wire
from robot_value.deploy.steps_taken import StepsTaken
from robot_value.deploy.ticking import Doorman, Ended, Live, Lockstep, Start, Told, Turn, aging, spline_velocities
from robot_value.messages import MessageError
from robot_value.protocols import ChunkFollower
from robot_value.resampling import SECOND, Received, Tick
from robot_value.safety import is_twist
from robot_value.topics import Topics
from robot_value.types import HUMAN, POLICY, Decision, Observation, Outcome

SYNC, AHEAD, SHADOW = "sync", "ahead", "shadow"
REMEMBERED = 4096  # commands of the guard
TOGETHER = 100  # control steps of a human that are told at once
AGAIN = SECOND // 5  # ns, until a lock-step plan is sent again that may have met a guard which still obeyed a human


class Outbox(Protocol):
    """Where the robot's words go; whoever gives it may close it at any time."""

    def plan(self, plan: wire.Plan) -> None: ...

    def step(self, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None: ...

    def decision(self, decision: Decision) -> None: ...

    def ended(self, episode: int, steps: int, why: str) -> None: ...


@dataclass(frozen=True)
class Driving:
    mode: str = SYNC  # sync, ahead or shadow
    lockstep: bool = False  # ticks by the frames' numbers instead of the clock; never on a real arm
    lead: float = 0.005  # s from sending a plan to its beginning, after a pause
    max_age: float = 0.5  # s; a decision that took longer is about a world that was, and is not executed
    longest: float = 1.9  # s that a plan may last; below what the guard accepts
    patience: float = 5.0  # s without fresh inputs until the episode is ended
    max_steps: int = 0  # control steps until an episode is ended; 0: never
    lag: int = 0  # L of ThinkAhead, control steps
    max_frozen: float = 0.0  # s that a camera may show the same picture; 0: for ever

    def __post_init__(self) -> None:
        if self.mode not in (SYNC, AHEAD, SHADOW):
            raise ValueError(f"mode: expected {SYNC}, {AHEAD} or {SHADOW}, got {self.mode!r}")

    def check(self, execute: int, dt: float) -> None:
        """Raises ValueError where a decision's steps last longer than a plan may: the arm would never move."""
        most = int(self.longest / dt + 1e-6)
        if self.mode == SYNC and not self.lockstep and execute > most:
            raise ValueError(
                f"execute: expected at most {most} steps, {self.longest:g} s (`longest`), got {execute}; the guard "
                "refuses plans beyond its max_horizon: execute fewer steps, or raise max_horizon and then `longest`"
            )


class ArmRobot:
    batch_size = 1

    def __init__(
        self,
        topics: Topics,
        outbox: Outbox,
        driving: Driving,
        n_obs_steps: int = 1,
        clock: Callable[[], int] = time.monotonic_ns,
        wall: Callable[[], int] = time.time_ns,
    ) -> None:
        self.topics, self.outbox, self.driving, self.clock, self.wall = topics, outbox, driving, clock, wall
        self.spec = topics.spec.choose(n_obs_steps=n_obs_steps)
        self.names = [name for entry in topics.action for name in entry.names]
        self.turn = Turn(clock)
        self.ticks = (Lockstep if driving.lockstep else Live)(topics, self.turn)
        self.doorman = Doorman(0.0 if driving.lockstep else driving.max_frozen)
        self.counts: Counter[str] = Counter()  # late, missed, stale, plans, decisions, unreadable commands
        self.ages: dict[str, float] = {}  # topic -> s, at the newest tick
        self.stale: dict[str, str] = {}  # why the newest tick could not be used
        self._entries = {entry.topic: entry for entry in topics.observed}
        self._aging = aging(topics)
        self._schema, self._seq = wire.schema(topics.spec), 0
        # A twist is a velocity, as true in a moment as now; other increments would be applied again.
        self._lasting = all(part.reference == "absolute" or is_twist(part) for part in topics.parts)
        self._commands: deque[tuple[wire.About, np.ndarray]] = deque(maxlen=REMEMBERED)
        self._human, self._releases, self._released = False, 0, 0
        self._start: Start | None = None
        self._step = -1

    # -- messages, in the thread of the callbacks ----------------------------------------------------------------------

    def receive(self, topic: str, message: Any) -> None:
        """A message of an observed topic; what cannot be used is counted by the doorman."""
        now, header = self.clock(), getattr(message, "header", None)
        stamp = 0 if header is None else header.stamp.sec * SECOND + header.stamp.nanosec
        stamp = stamp if self.driving.lockstep else stamp or self.wall()
        received = Received(now, stamp, lambda: message)
        wall = stamp if self.driving.lockstep else self.wall()
        if self.doorman.admits(self._entries[topic], message, received, wall):
            self.ticks.put(topic, received, "" if header is None else header.frame_id)

    def executed(self, message: Any) -> None:
        """A command that the guard has published."""
        try:
            command = wire.parse_plan(message, self.names)
        except wire.WireError:
            self.counts["unreadable commands"] += 1
            return
        with self.turn.changed:
            self._commands.append((command.about, command.actions[0].astype(np.float32)))
            self.turn.changed.notify_all()

    def intervention(self, human: bool) -> None:
        """A human wants the arm, or gives it back."""
        with self.turn.changed:
            if self._human and not human:
                self._releases, self._released = self._releases + 1, self.clock()
            self._human = human
            self.turn.changed.notify_all()

    # -- Robot, in the thread of the loop ------------------------------------------------------------------------------

    def play(self, start: Start) -> None:
        """The episode that the next `reset` begins."""
        self._start = start

    def reset(self, tasks: Sequence[str], seeds: Sequence[int], rows: Sequence[int] | None = None) -> Observation:
        """Waits for inputs that are newer than the start. Raises Ended."""
        if self._start is None:
            raise ValueError("reset: expected a started episode, got none; call play(start) first")
        size = self.spec.n_obs_steps or 1
        self._told, self._published = Told(self.spec.action_dim), (0, np.zeros((0, self.spec.action_dim), np.float32))
        self._history: deque[tuple[np.ndarray, dict[str, np.ndarray]]] = deque(maxlen=size)
        self._observed: dict[int, int] = {}  # step -> ns, when the oldest of its inputs was received
        self._chunk: np.ndarray | None = None  # of the latest decision
        self._coming: list[tuple[int, np.ndarray, int]] = []  # first step, actions, observed: not begun yet
        self._step = -1
        self._look(lambda: self.ticks.begin(self._start, self.driving.patience))
        return self._observe()

    def execute(self, decision: Decision, follower: ChunkFollower) -> Outcome:
        steps, why = StepsTaken(self.spec), ""
        try:
            if int(decision.execute[0]):
                self._note(decision)
                self._execute(decision, follower, steps)
                self._check_length()
        except Ended as ended:
            why = str(ended)
            self.give_up(why)
        return steps.outcome(self._observe(), why)

    def give_up(self, why: str) -> None:
        """Say that the episode is over, where nobody else has."""
        if self._start is not None and self.turn.current is self._start:
            self.outbox.ended(self._start.episode, max(self._step, 0), why)
            self.turn.end(why, self._start.episode)

    def close(self) -> None:
        self.turn.end("closed")

    # -- control steps -------------------------------------------------------------------------------------------------

    def _execute(self, decision: Decision, follower: ChunkFollower, steps: StepsTaken) -> None:
        if self._too_old():
            return self._resume("late")
        end, releases = min(self._step + int(decision.execute[0]), self._last), self._releases
        waits = self.driving.mode == SYNC  # others go on beside the human
        self._set_grid()
        while self._step < end and not (waits and (self._owned or self._releases != releases)):
            commanded = self._tell(decision, follower)
            if not self._advance(steps, commanded, releases):
                return
        while self._step < self._last and len(steps.states) < TOGETHER:
            if not (waits and self._owned) and not self.ticks.there(self._step + 1):
                return
            if not self._advance(steps, None, self._releases):
                return

    @property
    def _owned(self) -> bool:
        """A human has the arm; or had it when the newest inputs came, and the guard refuses plans made from those."""
        then = self._released + round(SECOND * self.spec.dt)
        return self._human or (not self.driving.lockstep and self._observed[self._step] <= then)

    def _too_old(self) -> bool:
        age = self.clock() - self._observed[self._step]
        return self.driving.mode == SYNC and not self.driving.lockstep and age > self.driving.max_age * SECOND

    def _set_grid(self) -> None:
        """Where a decision took long, the next step begins now: it could not begin earlier."""
        if self.driving.lockstep:
            return
        behind = (self.clock() - self.ticks.time(self._step)) * self.topics.rate / SECOND  # steps
        if self.driving.mode == SHADOW:
            if behind > 1:  # the arm has moved on without us
                self._resume("missed")
        elif self.driving.mode == SYNC or behind > 0.5:
            self.counts["missed"] += self.driving.mode == AHEAD
            self.ticks.restart(self._step, self.clock() + round(self.driving.lead * SECOND))

    def _tell(self, decision: Decision, follower: ChunkFollower) -> np.ndarray:
        """float32[A] of this step. A plan is sent where it says something that the last one did not."""
        step, offset = self._step, self._step - decision.start_step
        if self.driving.mode == SHADOW:
            return decision.chunk[0, min(int(offset[0]), decision.chunk.shape[1] - 1)]
        for first, actions, observed in [each for each in self._coming if each[0] <= step]:
            self._told.book(first, actions, observed)
        self._coming = [each for each in self._coming if each[0] > step]
        plan, observed = self._told.ahead(step)
        if not getattr(follower, "open_loop", False):
            plan = np.concatenate([follower.action(self._observe(), decision, np.maximum(offset, 0)), plan[1:]])
            plan = plan[: self._ahead()]
        since, published = self._published
        if not np.array_equal(plan, published[step - since :]):
            self._published = step, plan
            self._send(plan, observed)
        return plan[0]

    def _ahead(self) -> int:
        """Steps that a plan for a follower who looks may have: increments must not go on by themselves."""
        if self.driving.lockstep or (self.driving.mode == AHEAD and not self._lasting):
            return 1
        return max(1, int(self.driving.longest / self.spec.dt))

    def _note(self, decision: Decision) -> None:
        """A decision is logged once, and booked for the steps that it is about."""
        if self.driving.mode != AHEAD:
            self._published = self._step, np.zeros((0, self.spec.action_dim), np.float32)
        if decision.chunk is self._chunk:
            return
        self.driving.check(int(decision.execute[0]), self.spec.dt)
        self._chunk = decision.chunk
        self.counts["decisions"] += 1
        self.outbox.decision(decision)
        start, wanted = int(decision.start_step[0]), int(decision.execute[0])
        meant = decision.chunk.shape[1] if self.driving.mode == AHEAD else wanted
        actions = decision.chunk[0, : max(0, min(meant, self._last - start))]
        seen = [ns for step, ns in self._observed.items() if step >= start - self.driving.lag]
        self._coming.append((start, actions, min(seen)))

    def _send(self, actions: np.ndarray, observed: int) -> None:
        self._seq += 1
        self.counts["plans"] += 1
        begin = 0 if self.driving.lockstep else self.ticks.time(self._step)
        observed = self.clock() if self.driving.lockstep else observed  # without a clock nothing is old
        about = wire.About(self._seq, self._start.episode, self._step, begin, observed, self.clock(), self._schema)
        points, dt = actions.astype(np.float64), self.spec.dt
        velocities = spline_velocities(points, dt, self._last_command()) if self._lasting else None
        self.outbox.plan(wire.Plan(about, points, velocities, dt))

    def _last_command(self) -> np.ndarray | None:
        return self._commands[-1][1] if self._commands else None

    def _advance(self, steps: StepsTaken, commanded: np.ndarray | None, releases: int) -> bool:
        """One control step; False where the decision is over: it could not be seen how the step ended."""
        step = self._step
        tick = self._next_tick(step + 1, releases)
        if tick is None:
            return False
        try:
            if tick.stale:
                raise MessageError(", ".join(f"{topic}: {why}" for topic, why in tick.stale.items()))
            action, source = self._action(step, tick.time)
            self._see(tick)
        except MessageError as error:
            self.stale = tick.stale or {"unreadable": str(error)}
            self._resume("stale")
            return False
        state, images = self._history[-1]
        steps.add(state, images, action, action if commanded is None else commanded, source)
        return True

    def _next_tick(self, step: int, releases: int) -> Tick | None:
        """None where a human gave the arm back: what was planned before is void, and the arm may wait for a plan."""
        while True:
            again = self.clock() + AGAIN if self._releases else None
            tick = self.ticks.take(step, lambda: self._releases != releases, again)
            if tick is not None or self._releases != releases:
                return tick
            since, plan = self._published
            if not self._human and len(plan := plan[self._step - since :]):
                self._send(plan, self._observed[self._step])

    def _resume(self, count: str) -> None:
        """Go on from the first fresh inputs; the history begins again, for nobody saw the steps between."""
        self.counts[count] += 1
        self._history.clear()
        self._told, self._coming, self._chunk = Told(self.spec.action_dim), [], None
        self._look(self._next_fresh)

    def _look(self, tick: Callable[[], Tick]) -> None:
        """See the first tick that can be read. Raises Ended after `patience` seconds of others."""
        give_up = self.clock() + round(self.driving.patience * SECOND)
        while True:
            try:
                return self._see(tick())
            except MessageError as error:
                self.stale = {"unreadable": str(error)}
                if self.clock() > give_up or self.driving.lockstep:
                    raise Ended(f"no usable inputs: {error}") from error
                tick = self._next_fresh

    def _next_fresh(self) -> Tick:
        return self.ticks.resume(self._step + 1, self.driving.patience)

    @property
    def _last(self) -> int:
        """Control steps that the episode may have."""
        return self.driving.max_steps or 1 << 62

    def _check_length(self) -> None:
        if self._step >= self._last:
            raise Ended("max_steps")

    # -- what is seen --------------------------------------------------------------------------------------------------

    def _see(self, tick: Tick) -> None:
        state, images = tick.state(self.topics), tick.images(self.topics)
        used = {topic: received for topic, received in tick.used.items() if topic in self._entries}
        self._step, self._now = tick.step, tick.time
        self._history.append((state, images))
        oldest = min(received.time for topic, received in used.items() if topic in self._aging)
        self._observed = {step: ns for step, ns in self._observed.items() if step > tick.step - 256} | {
            tick.step: oldest
        }
        self.ages = {topic: (self.clock() - received.time) / SECOND for topic, received in used.items()}
        self.stale = {}
        self.outbox.step(self._about_step(used), {"state": state})

    def _about_step(self, used: Mapping[str, Received]) -> dict[str, Any]:
        frames = {e.camera.name: used[e.topic].open().header.frame_id for e in self.topics.cameras}
        return {
            "episode": self._start.episode,
            "step": self._step,
            "time": self._now,
            "used": {topic: _name_of(received, self._entries[topic]) for topic, received in used.items()},
            "frames": frames,
        }

    def _observe(self) -> Observation:
        history = [self._history[0]] * (self._history.maxlen - len(self._history)) + list(self._history)
        return Observation(
            state=np.stack([state for state, _ in history])[None],
            images={
                camera.name: np.stack([images[camera.name] for _, images in history])[None]
                for camera in self.spec.cameras
            },
            task=(self._start.task,),
            time=np.array([self._now / SECOND]),
            step=np.array([self._step], np.int64),
            episode=np.array([self._start.seed], np.int64),
            pending=np.zeros((1, 0, self.spec.action_dim), np.float32),
            committed=np.zeros(1, np.int64),
        )

    def _action(self, step: int, until: int) -> tuple[np.ndarray, int]:
        """float32[A] that was executed in `step`, and whose it was; NaN where the guard said nothing."""
        if self.driving.lockstep:
            mine = (self._start.episode, step)
            self.turn.until(lambda: self._of_step(mine) is not None, self._start)
            found = self._of_step(mine)
        else:
            with self.turn.changed:
                found = next((each for each in reversed(self._commands) if each[0].start <= until), None)
        if found is None:
            return np.full(self.spec.action_dim, np.nan, np.float32), POLICY
        return found[1], HUMAN if found[0].source == wire.HUMAN else POLICY

    def _of_step(self, mine: tuple[int, int]) -> tuple[wire.About, np.ndarray] | None:
        return next((each for each in reversed(self._commands) if (each[0].episode, each[0].step) == mine), None)


def _name_of(received: Received, entry: Any) -> int:
    """The header's stamp, by which others find the very message; its receive time where it has none."""
    header = getattr(received.open(), "header", None)
    if header is None:
        return received.time
    return header.stamp.sec * SECOND + header.stamp.nanosec
