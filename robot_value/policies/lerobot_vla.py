"""A LeRobot checkpoint as a chunk policy: an observation is encoded once, N candidates share it.

Chunks leave in the Spec's units and inside its limits, through the checkpoint's own postprocessor, once: what a critic
scores is what the robot executes. One file per family beside this one; every other chunk policy is asked again for
every candidate, and those that cannot be steered say why.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint import CheckpointError
from ..flow import Guide
from ..normalize import Statistics
from ..protocols import Context
from ..sampling import TensorObservation, to_tensors
from ..types import Observation, Seen, Spec
from . import lerobot_contract, lerobot_files, lerobot_processors, lerobot_repeat
from ._chunks import check_noise, clip, full_lengths, in_spec_units
from .lerobot_contract import STATE, Contract

FAMILIES = {  # type in config.json -> module here
    "diffusion": "lerobot_diffusion",
    "multi_task_dit": "lerobot_multi_task_dit",
    "smolvla": "lerobot_smolvla",
    "pi0": "lerobot_pi",
    "pi05": "lerobot_pi",
}
UNSTEERABLE = {
    "act": "it has one chunk per observation (its latent is zero when it acts): there is nothing to choose from",
    "vqbet": "it reads its own queue of observations, so that neither a batch nor several candidates reach it",
    "tdmpc": "it plans with a value function of its own, from its own queue, one robot at a time",
    "pi0_fast": "it decodes tokens, greedily unless told otherwise: there is nothing to choose from",
    "gaussian_actor": "it gives single actions, not chunks",
    "lingbot_va": "every chunk changes the video that it remembers, so that it cannot be asked twice",
}


def is_checkpoint(folder: str | Path) -> bool:
    """Whether LeRobot saved it, as a checkpoint's or a run's folder."""
    return lerobot_files.find(Path(folder)) is not None


def load(folder: str | Path, device: str | torch.device = "cpu", spec: Spec | None = None) -> LeRobotPolicy:
    """Raises CheckpointError where the checkpoint is damaged, incomplete, or cannot be steered.

    `spec` (the critic's, say) tells what the numbers mean where nobody has adopted the checkpoint; names must agree.
    """
    where = _found(folder)
    told = spec is None or lerobot_contract.is_there(where)
    return _built(where, lerobot_contract.read(where) if told else Contract(spec, {}), torch.device(device))


def version(folder: str | Path) -> str:
    """As of the policy that `load` would make of it, without making it."""
    where = _found(folder)
    backbone = lerobot_contract.read(where).backbone if lerobot_contract.is_there(where) else ""
    return lerobot_files.named(where, lerobot_processors.document(where, lerobot_files.CONFIG)["type"], backbone)


def adopt(folder: str | Path, spec: Spec, inputs: Mapping[str, tuple[str, ...]], backbone: str = "") -> Contract:
    """Write beside the weights what their numbers mean, if the policy can then be loaded. Raises CheckpointError."""
    where = _found(folder)
    contract = _built(where, Contract(spec, inputs, backbone), torch.device("cpu")).contract
    lerobot_contract.write(where, contract)
    return contract


def _built(where: Path, contract: Contract, device: torch.device) -> LeRobotPolicy:
    config = lerobot_files.settings(where, device, contract.backbone)
    family = _family(config)
    contract = adopted(where, contract, family, config)
    opened = lerobot_files.open_checkpoint(where, config, contract.backbone)
    lerobot_files.guard(opened.policy, family.PRIVATE)
    policy = LeRobotPolicy(family, opened, contract)
    policy.check_units()
    return policy.to(device).eval()


def adopted(where: Path, contract: Contract, family: ModuleType, config: Any) -> Contract:
    """The contract with everything decided that the checkpoint decides: horizon, history and what fills each input."""
    horizon, size = family.horizon(config), tuple(config.output_features["action"].shape)
    if size != (contract.spec.action_dim,):
        raise CheckpointError(f"{where}: the checkpoint has {size[0]} action dims, the spec {contract.spec.action_dim}")
    try:
        inputs = lerobot_contract.matched(
            contract.spec, lerobot_files.shapes(config), contract.inputs, family.BLANK_CAMERAS
        )
    except ValueError as error:
        raise CheckpointError(f"{where}: {error}") from error
    spec = contract.spec.choose(horizon=horizon, n_obs_steps=config.n_obs_steps)
    return replace(contract, spec=spec, inputs=inputs)


@dataclass(frozen=True)
class Affine:
    """spec units = scale * model units + offset, read off the checkpoint's own postprocessor; float32[A]."""

    scale: Tensor
    offset: Tensor

    def normalize(self, x: Tensor) -> Tensor:
        return (x - self.offset) / self.scale

    def unnormalize(self, x: Tensor) -> Tensor:
        return x * self.scale + self.offset


class LeRobotPolicy(nn.Module):
    def __init__(self, family: ModuleType, opened: lerobot_files.Opened, contract: Contract) -> None:
        super().__init__()
        self.model, self.contract, self.spec, self.version = opened.policy, contract, contract.spec, opened.version
        self._family, self._before, self._after = family, opened.before, opened.after
        self.statistics = _statistics(contract, opened)
        self.register_buffer("low", torch.from_numpy(self.spec.low), persistent=False)
        self.register_buffer("high", torch.from_numpy(self.spec.high), persistent=False)

    def encode(self, observation: Observation) -> Context:
        return self.see(to_tensors(self.contract.looked_at(observation), self.low.device))

    @torch.no_grad()
    def see(self, observation: TensorObservation) -> Context:
        """As `encode`, of what was recorded."""
        batch = self._before(self.contract.batch(observation, self._family.HISTORY))
        return self._family.encode(self.model, batch)

    def encoder(self, observation: TensorObservation) -> Tensor | Seen:
        """What a critic sees through these eyes (`encoder.source=policy`): the context's value."""
        context = self.see(observation)
        if not hasattr(context, "value"):
            raise ValueError(
                f"encoder.source=policy: expected a policy that reads an observation once, got LeRobot's "
                f"{self.model.name}, which does so for every candidate; use encoder.source=own"
            )
        return context.value

    @cached_property
    def widths(self) -> tuple[int, int]:
        """Of what `encoder` gives: its vector's, and its tokens' (0: none). Looks once, at nothing."""
        seen = self.encoder(_blank(self.spec).to(self.low.device))
        return (seen.shape[1], 0) if isinstance(seen, Tensor) else (seen.vector.shape[1], seen.tokens.shape[2])

    @torch.no_grad()
    def sample(
        self,
        context: Context,
        n: int,
        noise: Tensor,  # float32[B, n, H, A], standard normal
        prefix: Tensor | None = None,  # float32[B, p, A], spec units
        guide: Guide | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Chunks float32[B, n, H, A] in spec units, NaN where pruned or not finite, and lengths int64[B, n]."""
        check_noise(noise, len(noise), n, self.spec)
        begun = None if prefix is None else self.affine().normalize(prefix.to(self.low))
        guided = None if guide is None else in_spec_units(guide, self.affine())
        x = self._family.sample(self.model, context, noise.to(self.low), begun, guided)
        chunks = clip(self._unnormalized(x), self.low, self.high)
        if prefix is not None:
            known = prefix.to(self.low)[:, None].expand(-1, n, -1, -1)
            chunks = torch.cat([known, chunks[:, :, prefix.shape[1] :]], 2)
        return chunks, full_lengths(chunks)

    def loss(self, batch: Any, generator: torch.Generator | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        raise ValueError("a LeRobot policy is trained by lerobot-train; here its critic is trained")

    def affine(self) -> Affine:
        """What the postprocessor does to every number; refused where it is more than scale and shift."""
        at = [self._unnormalized(torch.full_like(self.low, x)[None, None, None])[0, 0, 0] for x in (0.0, 1.0, 2.0)]
        scale = at[1] - at[0]
        if not torch.allclose(at[2], at[0] + 2 * scale, rtol=1e-4, atol=1e-6) or not (scale > 0).all():
            raise CheckpointError(
                "postprocessor: expected one that scales and shifts; neither prefix nor guide fits it"
            )
        return Affine(scale, at[0])

    def check_units(self) -> None:
        """Refuse degrees for radians: data that are far wider than the limits, or all outside of them."""
        seen = self.statistics.get("action")
        if seen is None:
            return
        low, high = self.spec.low, self.spec.high
        wrong = (seen.high - seen.low > 3 * (high - low)) | (seen.low > high) | (seen.high < low)
        if wrong.any():
            i = int(wrong.argmax())
            raise CheckpointError(
                f"action dim {i}: the checkpoint saw {seen.low[i]:g} to {seen.high[i]:g}, the spec allows "
                f"{low[i]:g} to {high[i]:g}; are the units the same?"
            )

    def _unnormalized(self, x: Tensor) -> Tensor:
        return self._after(x.flatten(0, 1)).to(self.low).view_as(x)


def _found(folder: str | Path) -> Path:
    where = lerobot_files.find(Path(folder))
    if where is None:
        raise CheckpointError(
            f"{folder}: expected a LeRobot checkpoint (config.json with a type), got none; check the path"
        )
    return where


def _blank(spec: Spec) -> TensorObservation:
    rows = (1, spec.n_obs_steps)
    images = {c.name: torch.zeros((*rows, c.height, c.width, 3), dtype=torch.uint8) for c in spec.cameras}
    return TensorObservation(torch.zeros(*rows, spec.state_dim), images, torch.zeros(1, dtype=torch.int64), ("",))


def _family(config: Any) -> ModuleType:
    if config.type in UNSTEERABLE:
        raise CheckpointError(f"LeRobot's {config.type} cannot be steered: {UNSTEERABLE[config.type]}")
    if config.type not in FAMILIES:
        warnings.warn(
            f"LeRobot's {config.type}: encoded again for every candidate; untested with real weights", stacklevel=3
        )
        return lerobot_repeat
    family = importlib.import_module(f".{FAMILIES[config.type]}", __package__)
    if why := getattr(family, "refusal", lambda config: "")(config):
        raise CheckpointError(f"LeRobot's {config.type} with these settings cannot be steered: {why}")
    return family


def _statistics(contract: Contract, opened: lerobot_files.Opened) -> dict[str, Statistics]:
    """Of the training data, in spec units, for whoever judges whether a number is plausible."""
    action = lerobot_processors.statistics(opened.after, "action")
    state = lerobot_processors.statistics(opened.before, STATE)
    found = {} if action is None else {"action": action}
    return found | (
        {"state": state} if state is not None and contract.inputs.get(STATE) == contract.spec.state_names else {}
    )
