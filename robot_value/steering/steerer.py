"""Observation in, Decision out: encode once, propose N chunks (a guide may lead them), score, select, gate.

The unsteered baseline is the same Steerer with n = 1 and no critic: the plain policy is exactly candidate 0.
Non-finite numbers never win, and every row that was not decided as asked says why in `Decision.reason`:

    chosen           the selection was used
    anytime          it was used, but the deadline came first: only the candidates scored until then competed
    base             candidate 0 was asked for (n = 1, or selector `first`)
    shadow, abstained, ...  the gate kept the selection from being used: candidate 0
    critic_fallback  no finite score in this row: candidate 0
    selector_fallback  the selector returned a refused candidate or a non-finite chunk: candidate 0
    policy_fallback  candidate 0 itself is not finite: the first one that is

A row without any finite candidate has no answer: NoFiniteChunk, and the robot stops.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import randomness
from ..networks.packed import Packed
from ..protocols import ChunkPolicy, Critic, Gate, Guide, Proposer, Selector
from ..types import Decision, NoFiniteChunk, Observation, Scores, Situation, Spec
from .anytime import Candidates, by_deadline
from .gates import always
from .memory import Memory
from .proposal import Proposal, Request, propose
from .proposers import samples
from .selection import scored
from .selectors import first
from .settle import settle, steps


class Steerer:
    def __init__(
        self,
        policy: ChunkPolicy,
        critic: Critic | None = None,  # scores every decision where given, whether the selector reads it or not
        selector: Selector | None = None,  # None: first
        gate: Gate | None = None,  # None: always
        n: int = 1,  # N, candidates per decision
        execute: int | None = None,  # k, steps until the next decision; None: the critic's scope, else the horizon
        seed: int = 0,  # key of candidate noise and of selectors' draws
        device: str | torch.device = "cpu",  # where the policy wants its noise
        clock: Callable[[], float] = time.perf_counter,  # s
        proposer: Proposer | None = None,  # None: samples of the policy
        guide: Guide | None = None,  # steps into the policy's sampler
        deadline: float | None = None,  # s per decision; what is scored when the time is up competes
        exact: bool = False,  # candidate 0 costs a call of its own, and is the plain policy's to the bit whatever N is
        precision: str = "off",  # off | auto | float32 | bfloat16: arithmetic of both networks (networks/packed.py)
    ) -> None:
        self.policy, self.critic = policy, critic
        self.selector, self.gate = selector or first.Config().build(), gate or always.Config().build()
        self.proposer, self.guide = proposer or samples.Config().build(), guide
        self.deadline, self.exact, self.precision = deadline, exact, precision
        self.n, self.seed, self.device, self.clock = n, seed, torch.device(device), clock
        horizon = policy.spec.horizon
        self.execute = execute if execute is not None else critic.scope if critic is not None else horizon
        if n < 1 or not 1 <= self.execute <= horizon:
            raise ValueError(
                f"expected n >= 1 and 1 <= execute <= {horizon} (horizon), got n={n}, execute={self.execute}"
            )
        for kind, part in self._parts().items():
            if getattr(part, "uses_critic", False) and critic is None:
                raise ValueError(f"{kind} {_name(part)} chooses by score: expected a critic, got none")
        if deadline is not None:
            self._check_deadline(deadline)
        if critic is not None:
            self._check_critic(critic)
        for part in self._parts().values():
            if hasattr(part, "check"):  # a gate knows what it was calibrated for
                part.check(self, critic)
        self._plain = n == 1 or isinstance(self.selector, first.First)  # candidate 0 is what is asked for
        self._memory, self._next_critic = Memory(), None
        self._packed_policy, self._packed_critic = Packed(policy, precision), Packed(critic, precision)

    def check(self, spec: Spec) -> None:
        """Refuse a robot whose actions or observations mean something else; nothing has moved yet."""
        self.policy.spec.check(spec, "the robot")

    def reset(self, rows: Sequence[int] | None = None) -> None:
        """Forget what `rows` were told. Without rows it is an episode's boundary for all: loaded weights enter."""
        self._memory.forget(rows)
        for part in self._parts().values():
            if hasattr(part, "reset"):
                part.reset(rows)
        if rows is None and self._next_critic is not None:
            self.critic, self._next_critic = self._next_critic, None
            self._packed_critic = Packed(self.critic, self.precision)

    def told(self, observation: Observation, decision: Decision) -> None:
        """Remember this `decision` as what the robots were told, where another one than ours was executed."""
        self._memory.keep(observation, decision)

    def load(self, version: Path) -> None:
        """Read another checkpoint of the critic now; it decides from the next episode's start (`reset()`)."""
        from ..training import load_model

        critic = load_model(version, self.device)
        self._check_critic(critic)
        if hasattr(self.gate, "check"):
            self.gate.check(self, critic)
        self._next_critic = critic

    @torch.no_grad()
    def __call__(self, observation: Observation, active: np.ndarray | None = None) -> Decision:
        """`active` bool[B] (default: all) names the rows that will move; only those need a finite chunk."""
        with self._packed_policy, self._packed_critic:
            return self._decide(observation, active)

    def _decide(self, observation: Observation, active: np.ndarray | None) -> Decision:
        observation.check(self.policy.spec)
        started = self.clock()
        seconds, lap = _stopwatch(self.clock, self.device)
        request = self._request(observation)
        lap("encode")
        candidates = self._candidates(request, started, lap)
        self._refuse(candidates.proposal, observation, active)
        scores, start_step = candidates.scores, observation.step + observation.committed
        proposal = candidates.proposal.from_start(observation.committed)
        situation = self._situation(observation, proposal, request.critic_context, start_step)
        selection = self.selector(proposal.chunks, scores, situation)
        gate = self.gate(proposal.chunks, scores, selection, situation)
        usable = scored(scores, situation) if self.selector.uses_critic else proposal.finite
        acted = "base" if self._plain else "anytime" if candidates.cut else "chosen"
        settled = settle(proposal, usable, selection, gate, acted, self.policy.spec)
        lap("select")
        decision = Decision(
            chunk=settled.chunk.cpu().numpy(),
            execute=steps(proposal, settled.index, self.execute).cpu().numpy(),
            start_step=start_step,
            reason=settled.reason,
            index=settled.index.cpu().numpy(),
            candidates=proposal.chunks.cpu().numpy(),
            value=scores.value.cpu().numpy(),
            spread=scores.spread.cpu().numpy(),
            seconds=seconds,
            seed=self.seed,
            versions=self._versions(),
            committed=observation.committed.copy() if observation.committed.any() else None,
        )
        self._memory.keep(observation, decision)
        return decision

    def _request(self, observation: Observation) -> Request:
        context = self.policy.encode(observation)
        previous = self._memory.recall(observation, observation.step)
        past = self._memory.recall(observation, observation.step - self.policy.spec.horizon)
        return Request(
            policy=self.policy,
            context=context,
            observation=observation,
            n=self.n,
            seed=self.seed,
            device=self.device,
            execute=self.execute,
            critic=self.critic,
            critic_context=None if self.critic is None else self.critic.encode(observation, context),
            previous=None if previous is None else torch.from_numpy(previous).to(self.device),
            past=None if past is None else torch.from_numpy(past).to(self.device),
            guide=self.guide,
            exact=self.exact,
        )

    def _candidates(self, request: Request, started: float, lap: Callable[[str], None]) -> Candidates:
        def block(request: Request) -> tuple[Proposal, Scores]:
            proposal = propose(self.proposer, request)
            lap("sample")
            scores = self._score(request.critic_context, proposal)
            lap("score")
            return proposal, scores

        if self.deadline is None:
            return Candidates(*block(request), cut=False)
        return by_deadline(block, request, self.clock, started + self.deadline)

    def _refuse(self, proposal: Proposal, observation: Observation, active: np.ndarray | None) -> None:
        hopeless = ~proposal.finite.any(1).cpu().numpy()
        rows = np.flatnonzero(hopeless if active is None else hopeless & active)
        if len(rows):
            raise NoFiniteChunk(
                f"robots {rows.tolist()} at step {observation.step[rows].tolist()}: expected a finite chunk among "
                f"{self.n} candidates, got none; stop these robots and check the observation and the policy's weights"
            )

    def _score(self, context: Any, proposal: Proposal) -> Scores:
        if self.critic is None:
            unknown = torch.full_like(proposal.finite, torch.nan, dtype=torch.float32)
            return Scores(unknown, unknown, torch.zeros_like(proposal.finite))
        scores = self.critic.score(context, proposal.filled, proposal.lengths)
        known = scores.scored & proposal.finite
        value, spread = (torch.where(known, score, torch.nan) for score in (scores.value, scores.spread))
        return Scores(value, spread, known, scores.named)

    def _situation(
        self, observation: Observation, proposal: Proposal, critic_context: Any, start_step: np.ndarray
    ) -> Situation:
        previous = self._memory.recall(observation, start_step)
        return Situation(
            generators=randomness.Draws(self.seed, observation.episode, observation.step, "select"),
            finite=proposal.finite,
            previous=None if previous is None else torch.from_numpy(previous).to(proposal.chunks.device),
            context=critic_context,
            critic=self.critic,
            spec=self.policy.spec,
            execute=self.execute,
            episode=observation.episode,
            step=start_step,
            **ahead(observation, proposal.chunks.device),
        )

    def _parts(self) -> dict[str, Any]:
        parts = {"selector": self.selector, "gate": self.gate, "proposer": self.proposer, "guide": self.guide}
        return {kind: part for kind, part in parts.items() if part is not None}

    def _versions(self) -> dict[str, str]:
        parts = {"policy": self.policy, "critic": self.critic, **self._parts()}
        return {name: getattr(part, "version", _name(part)) for name, part in parts.items() if part is not None}

    def _check_deadline(self, deadline: float) -> None:
        if deadline <= 0:
            raise ValueError(f"deadline: expected a time above 0 s, got {deadline}")
        if not self.proposer.anytime or self.guide is not None:
            what = f"guide {_name(self.guide)}" if self.guide is not None else f"proposer {_name(self.proposer)}"
            raise ValueError(f"deadline: {what} sees all candidates at once; expected none, or proposer samples")

    def _check_critic(self, critic: Critic) -> None:
        if not hasattr(critic, "score"):
            raise ValueError(f"expected a critic, got {_name(critic)} without score(); is this a policy's checkpoint?")
        self.policy.spec.check(critic.spec, "the critic")
        if hasattr(critic, "check_policy"):  # it may see through the policy's eyes
            critic.check_policy(self.policy)
        if critic.scope != self.execute:
            raise ValueError(
                f"critic scope: expected the {self.execute} steps that will be executed, got {critic.scope}; "
                f"set execute={critic.scope} or train a critic with scope {self.execute}"
            )


def ahead(observation: Observation, device: torch.device) -> dict[str, torch.Tensor]:
    """What happens before a new chunk begins, for a Situation; nothing on a robot that does not delay decisions."""
    if not observation.committed.any():
        return {}
    return {name: torch.from_numpy(getattr(observation, name)).to(device) for name in ("pending", "committed")}


def _stopwatch(clock: Callable[[], float], device: torch.device) -> tuple[dict[str, float], Callable[[str], None]]:
    """Seconds per stage, and `lap(stage)` which books the time since the last lap."""
    seconds: dict[str, float] = {}
    last = clock()

    def lap(stage: str) -> None:
        nonlocal last
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        now = clock()
        seconds[stage], last = seconds.get(stage, 0.0) + now - last, now

    return seconds, lap


def _name(part: Any) -> str:
    return type(part).__name__
