"""LeRobot's pi0 (Black et al. 2024, arXiv 2410.24164) and pi0.5: PaliGemma reads images and text once.

pi0's action expert reads the state itself in every step; pi0.5 finds it in the prompt.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..flow import Guide
from .lerobot_flow import Prefix, integrate, remembered, reversed_time

HISTORY = False
BLANK_CAMERAS = True
PRIVATE = {
    "_preprocess_images": ("batch",),
    "model.embed_prefix": ("images", "img_masks"),
    "model.denoise_step": ("prefix_pad_masks", "past_key_values", "x_t", "timestep"),
    "model.paligemma_with_expert.paligemma.model.language_model.config": (),
    "model.paligemma_with_expert.forward": (
        "attention_mask",
        "position_ids",
        "past_key_values",
        "inputs_embeds",
        "use_cache",
    ),
}


def horizon(config: Any) -> int:
    return config.chunk_size


def encode(policy: Any, batch: dict[str, Any]) -> Prefix:
    from lerobot.policies.common.vla_utils import make_att_2d_masks, prepare_attention_masks_4d

    model = policy.model
    tokens, there = batch["observation.language.tokens"], batch["observation.language.attention_mask"]
    embedded, mask, causal = model.embed_prefix(*policy._preprocess_images(batch), tokens, there)
    # LeRobot sets this before every prefix: its masks are additive, which other implementations do not take
    model.paligemma_with_expert.paligemma.model.language_model.config._attn_implementation = "eager"
    _, cache = model.paligemma_with_expert.forward(
        attention_mask=prepare_attention_masks_4d(make_att_2d_masks(mask, causal)),
        position_ids=torch.cumsum(mask, 1) - 1,
        past_key_values=None,
        inputs_embeds=[embedded, None],
        use_cache=True,
    )
    state = policy.prepare_state(batch) if hasattr(policy, "prepare_state") else None
    return remembered(mask, cache, state)


def sample(policy: Any, context: Prefix, noise: Tensor, prefix: Tensor | None, guide: Guide | None) -> Tensor:
    """Chunks [B, n, H, A] in model units."""
    shared = context.repeat(noise.shape[1])
    cache, state = shared.cache(), {} if shared.state is None else {"state": shared.state}

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return policy.model.denoise_step(
            prefix_pad_masks=shared.mask, past_key_values=cache, x_t=x, timestep=t, **state
        )

    size = (policy.config.chunk_size, policy.config.max_action_dim)
    return integrate(reversed_time(denoise), noise, size, policy.config.num_inference_steps, prefix, guide)
