"""Learning without replay: stream-x (Elsayed, Vasan and Mahmood 2024, arXiv 2410.14606), SARSA(lambda) on chunks.

    delta = R / sigma + discount Q(s', c') - Q(s, c)
    z     <- gamma^k lambda z + grad Q(s, c)                             eligibility trace, 0 where an episode begins
    w     <- w + alpha delta z,  alpha = min(lr, 1 / (kappa max(|delta|, 1) |z|_1))       ObGD: never overshoots

Every executed chunk is learned from once, in order (stream.py), with the newest weights; there is no target network, no
batch, no optimizer state but z. Observations are scaled by statistics that go on from the offline data's. Differences,
named: stream-x has LayerNorm without gains and LeakyReLU, ours are the critic's own; its actor is not here, the frozen
policy proposes and this critic chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import draccus
import numpy as np
import torch
from torch import Tensor, nn

from ..networks.ensemble import EnsembleMLP
from ..normalize import Normalizer, Statistics
from .stream import Transition


@dataclass(frozen=True)
class Streaming:
    """How a critic learns from the newest transition alone."""

    trace: float = 0.8  # lambda, how much of the trace is left one decision later, beside gamma^k; stream-x
    kappa: float = 2.0  # Q(s, c) moves by 1 / kappa of its error at most, with gradients up to 1; stream-x's critics
    lr: float = 1.0  # step size where nothing overshoots; stream-x
    # True: weights drawn anew and sparse, rewards divided by their returns' deviation, as stream-x begins. False goes
    # on from the offline weights, whose values are in the rewards' own unit.
    fresh: bool = False
    sparsity: float = 0.9  # share of every unit's inputs whose weight begins at 0; with fresh, stream-x
    seed: int = 0  # of which weights those are

    def __post_init__(self) -> None:
        if not (0 <= self.trace <= 1 and self.kappa > 0 and self.lr > 0 and 0 <= self.sparsity < 1):
            raise ValueError(f"expected 0 <= trace <= 1, kappa > 0, lr > 0 and 0 <= sparsity < 1, got {self}")


class StreamingLearner:
    """A learner (learners.Part) of a critic; `update` takes a Transition where others take a batch."""

    kind = "critics"

    def __init__(self, critic: nn.Module, config: Streaming) -> None:
        self.model = self.deployed = critic
        self.config, self.settings = config, draccus.encode(config)
        self.weights = [parameter for parameter in critic.parameters() if parameter.requires_grad]
        if config.fresh:
            sparse_(critic, config.sparsity, torch.Generator().manual_seed(config.seed))
        self.traces = [torch.zeros_like(weight) for weight in self.weights]
        scaled = getattr(critic.encoder, "state", None) is not None  # not where it sees through a policy's eyes
        self.seen = Moments.of(critic.statistics["state"]) if scaled else None
        self.returns, self.running = Moments.none(1), 0.0  # of the discounted sum of rewards so far
        self.begun = False  # an episode, and nothing of it was learned yet: its first transition may be refused
        self.before_step: Callable[[Tensor, Tensor], None] | None = None  # (loss, gradient norm); refuses by raising

    @property
    def parts(self) -> dict[str, StreamingLearner]:
        return {"": self}

    def update(self, transition: Transition, generator: torch.Generator) -> dict[str, Tensor]:
        self.model.train()
        self.begun = self.begun or transition.first
        decay = 0.0 if self.begun else self.config.trace * self.model.gamma**self.model.scope
        q = self.value(transition.observation, transition.chunk, generator)
        delta = self.error(transition, q.detach(), generator)
        gradients = torch.autograd.grad(q.sum(), self.weights, materialize_grads=True)
        if self.before_step is not None:
            self.before_step(delta.square(), torch.stack([g.norm() for g in gradients]).norm())
        torch._foreach_mul_(self.traces, decay)
        torch._foreach_add_(self.traces, list(gradients))
        alpha = step_size(delta, self.traces, self.config)
        with torch.no_grad():
            torch._foreach_add_(self.weights, torch._foreach_mul(self.traces, alpha * delta))
        self._count(transition)
        self.model.step += 1
        return {"loss": delta.square(), "td_error": delta.abs(), "q": q.detach()[0], "alpha": alpha}

    def value(self, observation: Any, chunk: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """[1], the way the critic scores."""
        features = self.model.features(observation, generator)
        return self.model.pessimistic(self.model.values(features, self.model.actions.normalize(chunk)))

    @torch.no_grad()
    def error(self, transition: Transition, q: Tensor, generator: torch.Generator | None) -> Tensor:
        """delta []"""
        target = transition.reward / self.sigma
        if transition.following is not None:
            target = target + transition.discount * self.value(*transition.following, generator)[0]
        return target - q[0]

    @torch.no_grad()
    def validate(self, transition: Transition, generator: torch.Generator) -> dict[str, Tensor]:
        """The squared error of a transition that is not learned from."""
        self.model.eval()
        q = self.value(transition.observation, transition.chunk)
        return {"loss": self.error(transition, q, None).square()}

    # -- scaling -----------------------------------------------------------------------------------------------------

    @property
    def sigma(self) -> float:
        """Deviation of the returns so far, 1 until two that differ were seen."""
        deviation = float(self.returns.std[0]) if self.config.fresh else 0.0
        return deviation if deviation > 1e-8 else 1.0

    def _count(self, transition: Transition) -> None:
        """Last of all: a transition that was refused leaves no trace, in no sense of the word."""
        if self.seen is not None:
            self.seen.add(transition.observation.state[0, -1].double().cpu().numpy())
            self._scale_states()
        discount = 0.0 if self.begun else self.model.gamma**self.model.scope
        self.running, self.begun = discount * self.running + transition.reward, False
        self.returns.add(np.array([self.running]))

    def _scale_states(self) -> None:
        statistics = self.seen.statistics()
        self.model.statistics["state"] = statistics  # saved with the checkpoint
        self.model.encoder.state = Normalizer(statistics)

    # -- what a resumed run needs ------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        scaling = {"returns": vars(self.returns), "running": self.running, "begun": self.begun}
        return {"traces": self.traces, "seen": None if self.seen is None else vars(self.seen), **scaling}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.traces = [trace.to(weight) for trace, weight in zip(state["traces"], self.weights, strict=True)]
        self.returns, self.running = Moments(**state["returns"]), state["running"]
        self.begun = state.get("begun", False)  # older checkpoints say nothing of it
        if self.seen is not None:
            self.seen = Moments(**state["seen"])
            self._scale_states()


# alpha = min(lr, 1 / (kappa max(|delta|, 1) |z|_1))
def step_size(delta: Tensor, traces: list[Tensor], config: Streaming) -> Tensor:
    """[]: Q(s, c) moves by about alpha delta |grad Q|^2, which is at most |delta| / kappa."""
    length = torch.stack([trace.abs().sum() for trace in traces]).sum()
    return (config.kappa * delta.abs().clamp_min(1.0) * length).clamp_min(1 / config.lr).reciprocal()


@torch.no_grad()
def sparse_(module: nn.Module, sparsity: float, generator: torch.Generator) -> None:
    """Every unit of every perceptron drawn anew: a share of its inputs begins at 0, and so does its bias."""
    for network in (each for each in module.modules() if isinstance(each, EnsembleMLP)):
        for weight, bias in zip(network.weights, network.biases, strict=True):  # [E, out, in], [E, out]
            bound, dropped = weight.shape[-1] ** -0.5, int(np.ceil(sparsity * weight.shape[-1]))
            order = torch.rand(weight.shape, generator=generator).argsort(-1).argsort(-1)
            drawn = (2 * torch.rand(weight.shape, generator=generator) - 1) * bound
            weight.copy_(torch.where(order < dropped, 0.0, drawn))
            bias.zero_()


@dataclass
class Moments:
    """Mean and deviation of rows that come one by one (Welford 1962), float64[D]."""

    mean: np.ndarray
    squares: np.ndarray  # sum of squared distances from the mean
    low: np.ndarray
    high: np.ndarray
    count: int

    @classmethod
    def of(cls, statistics: Statistics) -> Moments:
        """As if the rows that were measured had come one by one."""
        s, wide = statistics, {name: getattr(statistics, name).astype(np.float64) for name in ("mean", "std")}
        return cls(wide["mean"], wide["std"] ** 2 * s.count, s.low.astype(float), s.high.astype(float), s.count)

    @classmethod
    def none(cls, width: int) -> Moments:
        return cls(np.zeros(width), np.zeros(width), np.full(width, np.inf), np.full(width, -np.inf), 0)

    def add(self, row: np.ndarray) -> None:
        self.count += 1
        before = row - self.mean
        self.mean = self.mean + before / self.count
        self.squares = self.squares + before * (row - self.mean)
        self.low, self.high = np.minimum(self.low, row), np.maximum(self.high, row)

    @property
    def std(self) -> np.ndarray:
        return np.sqrt(self.squares / max(1, self.count))

    def statistics(self) -> Statistics:
        return Statistics(self.mean, self.std, self.low, self.high, self.count)
