"""What training turns: a model with its optimizer and averages behind `update`, `validate` and `state`.

A policy is trained here (AdamW, cosine, clipped gradients, EMA of weights); a critic brings its own `update`; both
together are trained in turn, each asking the other as it is at that moment.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import draccus
import torch
from torch import Tensor, nn

from .mixing import take
from .networks.ema import EMA
from .networks.seeding import normal
from .ranks import average_gradients, shared
from .sampling import ChunkBatch
from .types import Features


@dataclass(frozen=True)
class Optimization:
    """How a policy is trained. A critic's optimizer belongs to its own config."""

    lr: float = 3e-4  # AdamW peak learning rate
    weight_decay: float = 1e-4  # AdamW, decoupled
    warmup: int = 100  # steps of linear warm-up before the cosine to zero
    grad_clip: float = 1.0  # largest gradient norm
    ema: float = 0.999  # decay of the weight average that is deployed; 0 deploys the weights themselves


@dataclass(frozen=True)
class Joint:
    """How a critic and a policy are trained in one run."""

    critic_updates: int = 1  # critic updates per policy update, each with a batch of its own; TD3 2, RLPD and EXPO 20


class Learner(Protocol):
    @property
    def parts(self) -> Mapping[str, Part]:
        """What is saved, by folder below the run's; "" is the run's own."""
        ...

    def update(self, batch: ChunkBatch, generator: torch.Generator) -> dict[str, Tensor]: ...

    def validate(self, batch: ChunkBatch, generator: torch.Generator) -> dict[str, Tensor]: ...


class Part(Learner, Protocol):
    """A learner of one model: a checkpoint."""

    kind: str  # component kind
    model: nn.Module  # what is trained
    deployed: nn.Module  # what is validated and saved
    settings: dict[str, Any]  # JSON values that a continued run must share

    def state(self) -> dict[str, Any]: ...

    def load_state(self, state: Mapping[str, Any]) -> None: ...


class PolicyLearner:
    kind = "policies"

    def __init__(self, policy: nn.Module, steps: int, optimization: Optimization | None = None) -> None:
        """steps: how long training will be, for the cosine."""
        self.model, self.steps, self.step = policy, steps, 0
        self.optimization = o = optimization or Optimization()
        self.trained = [p for p in policy.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=o.lr, weight_decay=o.weight_decay, fused=True)
        self.before_step: Callable[[Tensor, Tensor], None] | None = None  # (loss, gradient norm); refuses by raising
        self.settings = draccus.encode(o)
        self.ema = EMA(policy, o.ema)
        self.deployed = self.ema.module

    @property
    def parts(self) -> dict[str, Part]:
        return {"": self}

    def update(self, batch: ChunkBatch, generator: torch.Generator) -> dict[str, Tensor]:
        lr = self.optimization.lr * cosine(self.step, self.steps, self.optimization.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.model.train()
        loss, metrics = self.model.loss(batch, generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(self.trained)
        norm = nn.utils.clip_grad_norm_(self.trained, self.optimization.grad_clip)
        if self.before_step is not None:
            self.before_step(loss.detach(), norm.detach())
        self.optimizer.step()
        self.ema.update(self.model, self.step)
        self.step += 1
        return {**metrics, "grad_norm": norm.detach(), "lr": torch.full_like(norm, lr)}

    @torch.no_grad()
    def validate(self, batch: ChunkBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """The loss, and how far one sampled chunk is from the recorded one (mean |error| over the action's std)."""
        loss, metrics = self.deployed.loss(batch, generator)
        return {**metrics, "loss": loss, "action_error": action_error(self.deployed, batch, generator)}

    def state(self) -> dict[str, Any]:
        return {"step": self.step, "model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """`deployed` is loaded by the caller, from the checkpoint's own weights."""
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])


class CriticLearner:
    kind = "critics"

    def __init__(self, critic: nn.Module) -> None:
        self.model = self.deployed = critic
        self.settings = {}  # the model's own config says it all
        critic.make_optimizer()

    @property
    def parts(self) -> dict[str, Part]:
        return {"": self}

    def update(self, batch: ChunkBatch, generator: torch.Generator) -> dict[str, Tensor]:
        self.model.train()
        return self.model.update(batch, generator)

    @torch.no_grad()
    def validate(self, batch: ChunkBatch, generator: torch.Generator) -> dict[str, Tensor]:
        self.model.eval()
        loss, metrics = self.model.loss(batch, generator)
        return {**metrics, "loss": loss}

    def state(self) -> dict[str, Any]:
        return {"optimizer": self.model.optimizer.state_dict()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.model.optimizer.load_state_dict(state["optimizer"])


class JointLearner:
    """A critic and a policy that need each other: the backup values the policy's chunks, the actor climbs the critic.

    The backup samples from the policy's current weights, as Q-chunking, FQL and EXPO do; their average is deployed.
    """

    def __init__(self, critic: CriticLearner, policy: PolicyLearner, joint: Joint | None = None) -> None:
        self.critic, self.policy, self.joint = critic, policy, joint or Joint()
        if self.joint.critic_updates < 1:
            raise ValueError(f"critic_updates: expected at least 1, got {self.joint.critic_updates}")
        if getattr(critic.model, "needs_policy", False):
            critic.model.attach(getattr(policy.model, "target_policy", policy.model))
        if hasattr(policy.model, "attach"):
            policy.model.attach(critic.model)
        for part in self.parts.values():
            part.settings = part.settings | draccus.encode(self.joint)

    @property
    def parts(self) -> dict[str, Part]:
        return {"policy": self.policy, "critic": self.critic}

    def update(self, batch: ChunkBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """One critic update per share of the rows, then one policy update with the last share's (as RLPD)."""
        n = self.joint.critic_updates
        for i in range(n):
            rows = take(batch, slice(i, None, n))  # every n-th, so that a mixture of sources stays one
            metrics = self.critic.update(rows, generator)
        return _together(metrics, self.policy.update(rows, generator))

    @torch.no_grad()
    def validate(self, batch: ChunkBatch, generator: torch.Generator) -> dict[str, Tensor]:
        return _together(self.critic.validate(batch, generator), self.policy.validate(batch, generator))


def _together(critic: dict[str, Tensor], policy: dict[str, Tensor]) -> dict[str, Tensor]:
    """Metrics by "critic_" and "policy_", and the sums that show whether both are still numbers."""
    sums = {name: critic[name] + policy[name] for name in ("loss", "grad_norm") if name in critic}
    named = {f"critic_{name}": value for name, value in critic.items()}
    return sums | named | {f"policy_{name}": value for name, value in policy.items()}


def learner_for(model: nn.Module, steps: int, optimization: Optimization | None = None) -> Learner:
    """The learner a model needs: a critic brings `update`, a policy only `loss`."""
    return CriticLearner(model) if hasattr(model, "update") else PolicyLearner(model, steps, optimization)


def cosine(step: int, steps: int, warmup: int) -> float:
    """Factor on the learning rate: linear from ~0 to 1 in `warmup` steps, then a half cosine to 0 at `steps`."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


def action_error(policy: nn.Module, batch: ChunkBatch, generator: torch.Generator) -> Tensor:
    """Mean over valid steps and dims of |sampled - recorded| / std of the recorded actions."""
    context = Features(policy.encoder(batch.observation))
    noise = normal((len(batch.chunks), 1, *batch.chunks.shape[1:]), batch.chunks.device, generator)
    chunks, _ = policy.sample(context, 1, noise)
    scale = torch.as_tensor(policy.actions.scale, device=chunks.device)
    valid = batch.valid[:, : batch.chunks.shape[1], None].expand_as(batch.chunks)
    return ((chunks[:, 0] - batch.chunks).abs() / scale)[valid].sum() / shared(valid.sum().to(scale))
