"""Several critics as one: the main one's value, and every other one's value as a named score.

Selectors that weigh more than value (risk, familiarity, preference) read `scores.named`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ..protocols import ChunkPolicy, Context, Critic
from ..types import Observation, Scores


@dataclass(frozen=True)
class Contexts:
    """One context per critic."""

    main: Context
    named: Mapping[str, Context]

    def repeat(self, n: int) -> Contexts:
        return Contexts(self.main.repeat(n), {name: context.repeat(n) for name, context in self.named.items()})

    def select(self, mask: torch.Tensor) -> Contexts:
        return Contexts(self.main.select(mask), {name: context.select(mask) for name, context in self.named.items()})


class Panel:
    """A Critic. All members must score the same leading steps of the same robot's chunks."""

    def __init__(self, main: Critic, named: Mapping[str, Critic]) -> None:
        for name, critic in named.items():
            main.spec.check(critic.spec, f"the critic for {name!r}")
            if critic.scope != main.scope:
                raise ValueError(
                    f"critic for {name!r}: expected scope {main.scope} as the main critic's, got {critic.scope}; "
                    f"train it with --critic.scope={main.scope}"
                )
        self.main, self.named = main, dict(named)
        self.spec, self.scope = main.spec, main.scope

    @property
    def version(self) -> str:
        parts = {"": self.main, **self.named}
        return ", ".join(f"{name} {_version(part)}".strip() for name, part in parts.items())

    def encode(self, observation: Observation, policy_context: Context | None = None) -> Contexts:
        named = {name: critic.encode(observation, policy_context) for name, critic in self.named.items()}
        return Contexts(self.main.encode(observation, policy_context), named)

    def score(self, context: Contexts, chunks: torch.Tensor, lengths: torch.Tensor | None = None) -> Scores:
        """The main critic's scores; candidates that another critic did not score are not scored."""
        scores = self.main.score(context.main, chunks, lengths)
        named, known = dict(scores.named), scores.scored
        for name, critic in self.named.items():
            other = critic.score(context.named[name], chunks, lengths)
            named[name], known = other.value, known & other.scored
        return Scores(scores.value, scores.spread, known, named)

    def score_noise(self, context: Contexts, noise: torch.Tensor, time: torch.Tensor | None = None) -> Scores:
        if not hasattr(self.main, "score_noise"):
            raise ValueError(f"score_noise: expected a main critic of noise, got {_version(self.main)}")
        return self.main.score_noise(context.main, noise, time)

    def check_policy(self, policy: ChunkPolicy) -> None:
        for critic in (self.main, *self.named.values()):
            if hasattr(critic, "check_policy"):
                critic.check_policy(policy)


def _version(critic: Any) -> str:
    return getattr(critic, "version", type(critic).__name__)
