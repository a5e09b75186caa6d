"""LeRobot's SmolVLA (Shukor et al. 2025, arXiv 2506.01844): images, text and state are read once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..flow import Guide
from .lerobot_flow import Prefix, integrate, remembered, reversed_time

HISTORY = False
BLANK_CAMERAS = True
PRIVATE = {
    "prepare_images": ("batch",),
    "prepare_state": ("batch",),
    "model.embed_prefix": ("images", "img_masks", "lang_tokens", "lang_masks", "state"),
    "model.denoise_step": ("prefix_pad_masks", "past_key_values", "x_t", "timestep"),
    "model.vlm_with_expert.forward": (
        "attention_mask",
        "position_ids",
        "past_key_values",
        "inputs_embeds",
        "use_cache",
    ),
}


def horizon(config: Any) -> int:
    return config.chunk_size


def refusal(config: Any) -> str:
    """Why this checkpoint cannot be steered; "" where it can."""
    return "adapt_to_pi_aloha bends the actions after sampling" if config.adapt_to_pi_aloha else ""


def encode(policy: Any, batch: dict[str, Any]) -> Prefix:
    from lerobot.policies.common.vla_utils import make_att_2d_masks

    tokens, there = batch["observation.language.tokens"], batch["observation.language.attention_mask"]
    images, masks = policy.prepare_images(batch)
    embedded, mask, causal = policy.model.embed_prefix(images, masks, tokens, there, state=policy.prepare_state(batch))
    _, cache = policy.model.vlm_with_expert.forward(
        attention_mask=make_att_2d_masks(mask, causal),
        position_ids=torch.cumsum(mask, 1) - 1,
        past_key_values=None,
        inputs_embeds=[embedded, None],
        use_cache=True,
    )
    return remembered(mask, cache)


def sample(policy: Any, context: Prefix, noise: Tensor, prefix: Tensor | None, guide: Guide | None) -> Tensor:
    """Chunks [B, n, H, A] in model units."""
    shared = context.repeat(noise.shape[1])
    cache = shared.cache()

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return policy.model.denoise_step(prefix_pad_masks=shared.mask, past_key_values=cache, x_t=x, timestep=t)

    size = (policy.config.chunk_size, policy.config.max_action_dim)
    return integrate(reversed_time(denoise), noise, size, policy.config.num_steps, prefix, guide)
