"""The Watcher that turns a pass over a log into a Replayed: all critics' opinions of all candidates and of the log.

Onlookers see every moment while models and contexts are at hand, and add columns of their own.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from ..episode_builder import of_row
from ..loop import run_episodes
from ..protocols import ChunkPolicy, Critic, Watcher
from ..steering.steerer import Steerer
from ..types import Decision, Episode, Observation, Outcome
from .logged_robot import LoggedRobot, Playing, differences
from .replayed import LoggedEpisode, Opinion, Replayed


@dataclass(frozen=True)
class Moment:
    """One decision of B robots, with everything that was at hand. Rows that rest are among them; `live` says which."""

    observation: Observation
    decision: Decision
    logged: torch.Tensor  # float32[B, H, A]
    length: torch.Tensor  # int64[B]
    opinions: Mapping[str, dict[str, np.ndarray]]  # critic -> Opinion's fields, a row per robot
    critics: Mapping[str, Critic]
    contexts: Mapping[str, Any]  # critic -> the encoded observation
    playing: Sequence[Playing]  # B
    live: np.ndarray  # bool[B]


class Onlooker(Protocol):
    def look(self, moment: Moment) -> dict[str, np.ndarray]:
        """Columns [B, ...]; the same ones every time."""
        ...


@dataclass
class Scribe:
    """`critics`: the first one steers, and has scored the candidates already."""

    robot: LoggedRobot
    policy: ChunkPolicy
    critics: Mapping[str, Critic]
    gamma: float
    onlookers: Sequence[Onlooker] = ()
    wants_episodes = False
    kept: list[dict[str, np.ndarray]] = field(default_factory=list)  # per batch of decisions, live rows only
    episodes: dict[int, LoggedEpisode] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    unequal: list[str] = field(default_factory=list)
    compared: int = 0

    @torch.no_grad()
    def on_decision(self, observation: Observation, decision: Decision, outcome: Outcome) -> None:
        began = time.perf_counter()
        moment = self._moment(observation, decision, outcome)
        for stage, seconds in decision.seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
        scored = time.perf_counter()
        extra = [each.look(moment) for each in self.onlookers]
        columns = {f"column {k}": v for found in extra for k, v in found.items()}
        columns |= {f"{c} {k}": v for c, fields in moment.opinions.items() for k, v in fields.items()}
        columns |= {
            "episode": np.array([playing.number for playing in moment.playing]),
            "step": observation.step,
            "logged": moment.logged.numpy(),
            "length": moment.length.numpy(),
            "candidates": decision.candidates,
            "chosen": decision.chunk,
            "index": decision.index,
            "reason": np.array(decision.reason),
        }
        self.kept.append({name: np.asarray(column)[moment.live] for name, column in columns.items()})
        self._compare(moment)
        for row in np.flatnonzero(moment.live):
            self.episodes.setdefault(moment.playing[row].number, _facts(self.robot, moment.playing[row]))
        self._spend("score all", scored - began)
        self._spend("onlookers and books", time.perf_counter() - scored)

    def on_episode(self, episode: Episode) -> None:
        """Nothing: the log has them."""

    def replayed(self, steerer: Steerer) -> Replayed:
        """Rows of an episode together, in time."""
        table = {name: np.concatenate([batch[name] for batch in self.kept]) for name in self.kept[0]}
        order = np.lexsort((table["step"], table["episode"]))
        table = {name: column[order] for name, column in table.items()}
        numbers = sorted(self.episodes)
        opinions = {
            name: Opinion(
                **{field_name: table.pop(f"{name} {field_name}") for field_name in Opinion.__dataclass_fields__}
            )
            for name in self.critics
        }
        columns = {name.removeprefix("column "): table.pop(name) for name in list(table) if name.startswith("column ")}
        table["episode"] = np.searchsorted(numbers, table["episode"])
        return Replayed(
            spec=self.robot.spec,
            horizon=steerer.policy.spec.horizon,
            execute=steerer.execute,
            gamma=self.gamma,
            episodes=tuple(self.episodes[number] for number in numbers),
            opinions=opinions,
            columns=columns,
            seconds=dict(self.seconds),
            unequal=tuple(self.unequal),
            compared=self.compared,
            **table,
        )

    def _moment(self, observation: Observation, decision: Decision, outcome: Outcome) -> Moment:
        horizon = decision.chunk.shape[1]
        starts = zip(self.robot.rows, decision.start_step.tolist(), strict=True)
        found = [playing.chunk(start, horizon) for playing, start in starts]
        logged = torch.from_numpy(np.stack([chunk for chunk, _ in found]))
        length = torch.tensor([n for _, n in found])
        chosen, opinions, contexts = torch.from_numpy(decision.chunk), {}, {}
        seen = self.policy.encode(observation) if self.critics else None  # a critic may see through the policy's eyes
        for i, (name, critic) in enumerate(self.critics.items()):
            contexts[name] = critic.encode(observation, seen)
            extra = torch.stack([logged, chosen], 1)  # [B, 2, H, A]
            full = torch.full((len(extra), 1), horizon)
            lengths = torch.cat([length[:, None], full], 1)
            if i:  # the first one's opinion of the candidates is in the decision
                candidates = torch.from_numpy(decision.candidates)
                known = candidates.isfinite().flatten(2).all(2)
                extra = torch.cat([candidates.nan_to_num(), extra], 1)
                lengths = torch.cat([full.expand(-1, candidates.shape[1]), lengths], 1)
            scores = critic.score(contexts[name], extra, lengths)
            value, spread = scores.value.numpy(), scores.spread.numpy()
            of_candidates = [decision.value, decision.spread]
            if i:
                of_candidates = [np.where(known, each[:, :-2], np.nan) for each in (value, spread)]
            opinions[name] = {
                "value": of_candidates[0],
                "spread": of_candidates[1],
                "logged_value": value[:, -2],
                "logged_spread": spread[:, -2],
                "chosen_value": value[:, -1],
            }
        return Moment(
            observation, decision, logged, length, opinions, self.critics, contexts, self.robot.rows,
            outcome.executed_valid.any(1),
        )  # fmt: skip

    def _compare(self, moment: Moment) -> None:
        """With the decisions that the recorder logged at the same steps."""
        for row in np.flatnonzero(moment.live):
            playing, t = moment.playing[row], int(moment.observation.step[row])
            for logged, made in zip(playing.episode.decisions, playing.made, strict=True):
                if made == t and logged.start_step[0] <= len(playing.episode):  # else its promises are not in the log
                    self.compared += 1
                    if line := differences(logged, of_row(moment.decision, row)):
                        self.unequal.append(f"{self.robot.names[playing.number]} step {t}: {line}")

    def _spend(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds


def replay(
    robot: LoggedRobot,
    steerer: Steerer,
    critics: Mapping[str, Critic] | None = None,  # further ones, whose opinions are asked
    gamma: float = 0.98,
    onlookers: Sequence[Onlooker] = (),
    progress: bool = True,
    numbers: Sequence[int] | None = None,  # of the episodes, in the robot's `names`; None: all
    watchers: Sequence[Watcher] = (),  # who else looks on
) -> Replayed:
    """Every episode of the robot's log once. The steerer's own critic, if it has one, is called "main"."""
    began = time.perf_counter()
    numbers = range(len(robot.names)) if numbers is None else numbers
    if not len(numbers):
        raise ValueError("expected episodes to replay, got none; is the dataset empty?")
    own = {} if steerer.critic is None else {"main": steerer.critic}
    scribe = Scribe(robot, steerer.policy, own | dict(critics or {}), gamma, onlookers)
    run_episodes(robot, steerer, watchers=(scribe, *watchers), seeds=numbers, progress=progress)
    scribe.seconds["total"] = time.perf_counter() - began
    return scribe.replayed(steerer)


def _facts(robot: LoggedRobot, playing: Playing) -> LoggedEpisode:
    episode = playing.episode
    return LoggedEpisode(
        name=robot.names[playing.number],
        steps=len(episode),
        success=episode.success,
        terminated=episode.terminated,
        unstable=bool(episode.provenance.get("unstable", False)),
        task=episode.task,
        rewards=episode.rewards,
    )
