"""The Onlooker that asks every arm what it would have done with the candidates and scores of the moment.

Each arm has its own Steerer's selector and gate, and its own memory: what it "was last told" is what it would have said
itself. Nothing is sampled again, so arms that need other candidates (a proposer, a guide) are not among them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from .. import arms, randomness
from ..evaluate import ACTED, Arm
from ..protocols import ChunkPolicy, Critic
from ..steering.memory import Memory
from ..steering.panel import Contexts
from ..steering.proposal import Proposal
from ..steering.selection import scored
from ..steering.selectors.first import First
from ..steering.settle import Settled, settle
from ..steering.steerer import Steerer, ahead
from ..types import Scores, Situation
from .scribe import Moment

SLOW = ("climb",)  # arms that ask the critic anew, with gradients: about 20 times what scoring the candidates costs


def comparable(n: int, temperature: float, critics: Sequence[str], slow: bool = False) -> list[Arm]:
    """Those of `arms.every` that choose among plain samples, with the critics there are; the slow ones if asked."""
    return [
        arm
        for arm in arms.every(n, temperature, critics)
        if arm.proposer == "samples" and arm.guide is None and (arm.critic is None or arm.critic in critics)
        if slow or arm.name not in SLOW
    ]


@dataclass
class Alternatives:
    """Columns "arm NAME index" int64[B], "... acted" bool[B], "... value" float32[B] and "... chunk" float32[B, k, A].

    Values are the first critic's, whichever critic an arm goes by, so that arms can be compared.
    """

    arms: Mapping[str, Arm]
    steerers: Mapping[str, Steerer]
    memories: dict[str, Memory] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        arms: Sequence[Arm],
        policy: ChunkPolicy,
        critics: Mapping[str, Critic],  # named as in the replay: "main" is the one that steers
        execute: int,
        seed: int = 0,  # of the steerer that is replayed: drawing selectors draw the same
    ) -> Alternatives:
        """Refuses arms whose candidates are not plain samples, and gates that were calibrated for something else."""
        if other := [arm.name for arm in arms if arm.proposer != "samples" or arm.guide is not None]:
            raise ValueError(
                f"arms {', '.join(other)}: expected proposer samples and no guide, as no new candidates are drawn; "
                "replay with that proposer or guide instead"
            )
        return cls(
            {arm.name: arm for arm in arms},
            {arm.name: arm.steerer(policy, critics, execute, seed) for arm in arms},
            {arm.name: Memory() for arm in arms},
        )

    def look(self, moment: Moment) -> dict[str, np.ndarray]:
        if not moment.observation.step.any():  # a wave begins: all its robots are at their first step
            for name, steerer in self.steerers.items():
                steerer.reset()
                self.memories[name].forget()
        proposal = _proposal(moment)
        settled = {name: self._settle(name, moment, proposal) for name in self.arms}
        value = _values(moment, settled)
        columns = {}
        for i, (name, choice) in enumerate(settled.items()):
            columns[f"arm {name} index"] = choice.index.numpy()
            columns[f"arm {name} acted"] = np.isin(choice.reason, ACTED)
            columns[f"arm {name} value"] = value[:, i]
            columns[f"arm {name} chunk"] = choice.chunk[:, : self.steerers[name].execute].numpy()
        return columns

    def _settle(self, name: str, moment: Moment, proposal: Proposal) -> Settled:
        """As Steerer does from its candidates on."""
        arm, steerer, memory = self.arms[name], self.steerers[name], self.memories[name]
        observation, scores = moment.observation, _scores(moment, arm)
        start_step = observation.step + observation.committed
        previous = memory.recall(observation, start_step)
        situation = Situation(
            generators=randomness.Draws(steerer.seed, observation.episode, observation.step, "select"),
            finite=proposal.finite,
            previous=None if previous is None else torch.from_numpy(previous),
            context=_context(moment, arm),
            critic=steerer.critic,
            spec=steerer.policy.spec,
            execute=steerer.execute,
            episode=observation.episode,
            step=start_step,
            **ahead(observation, proposal.chunks.device),
        )
        selection = steerer.selector(proposal.chunks, scores, situation)
        gate = steerer.gate(proposal.chunks, scores, selection, situation)
        usable = scored(scores, situation) if steerer.selector.uses_critic else proposal.finite
        acted = "base" if isinstance(steerer.selector, First) else "chosen"
        settled = settle(proposal, usable, selection, gate, acted, steerer.policy.spec)
        memory.keep(observation, replace(moment.decision, chunk=settled.chunk.numpy()))
        return settled


def _proposal(moment: Moment) -> Proposal:
    chunks = torch.from_numpy(moment.decision.candidates)
    whole = torch.full(chunks.shape[:2], chunks.shape[2])
    return Proposal(chunks, whole, chunks.isfinite().all(3).all(2))


def _scores(moment: Moment, arm: Arm) -> Scores:
    """What the arm's critics have said already."""
    if arm.critic is None:
        unknown = torch.full(moment.decision.candidates.shape[:2], torch.nan)
        return Scores(unknown, unknown, torch.zeros_like(unknown, dtype=torch.bool))
    value, spread = (torch.from_numpy(moment.opinions[arm.critic][key]) for key in ("value", "spread"))
    named = {name: torch.from_numpy(moment.opinions[key]["value"]) for name, key in arm.also.items()}
    known = value.isfinite()
    for other in named.values():
        known = known & other.isfinite()
    return Scores(value, spread, known, named)


def _context(moment: Moment, arm: Arm) -> object:
    if arm.critic is None:
        return None
    if not arm.also:
        return moment.contexts[arm.critic]
    return Contexts(moment.contexts[arm.critic], {name: moment.contexts[key] for name, key in arm.also.items()})


def _values(moment: Moment, settled: Mapping[str, Settled]) -> np.ndarray:
    """float32[B, K], the first critic's; new chunks of all arms are scored in one call. NaN without a critic."""
    index = torch.stack([choice.index for choice in settled.values()], 1)  # int64[B, K]
    if not moment.critics:
        return np.full(index.shape, np.nan, np.float32)
    main = next(iter(moment.critics))
    value = torch.from_numpy(moment.opinions[main]["value"]).gather(1, index.clamp_min(0))
    new = index < 0
    asked = torch.nonzero(new.any(0))[:, 0]
    if len(asked):
        chunks = torch.stack([choice.chunk for choice in settled.values()], 1)[:, asked]  # [B, ., H, A]
        whole = torch.full(chunks.shape[:2], chunks.shape[2])
        said = moment.critics[main].score(moment.contexts[main], chunks, whole)
        value[:, asked] = torch.where(new[:, asked], said.value, value[:, asked])
    return value.numpy()
