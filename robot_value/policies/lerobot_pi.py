"""LeRobot's pi0 (Black et al. 2024, arXiv 2410.24164) and pi0.5: PaliGemma reads images and text once.

pi0's action expert reads the state itself in every step; pi0.5 finds it in the prompt.
"""

from __future__ import annotations

from typing import Any

from . import lerobot_prefix
from .lerobot_prefix import BLANK_CAMERAS, FORWARD, HISTORY, Prefix, horizon, read, sample

__all__ = ["BLANK_CAMERAS", "HISTORY", "PRIVATE", "encode", "horizon", "sample"]

PRIVATE = lerobot_prefix.PRIVATE | {
    "_preprocess_images": ("batch",),
    "model.embed_prefix": ("images", "img_masks"),
    "model.paligemma_with_expert.paligemma.model.language_model.config": (),
    "model.paligemma_with_expert.forward": FORWARD,
}


def encode(policy: Any, batch: dict[str, Any]) -> Prefix:
    from lerobot.policies.common.vla_utils import make_att_2d_masks, prepare_attention_masks_4d

    model = policy.model
    tokens, there = batch["observation.language.tokens"], batch["observation.language.attention_mask"]
    embedded, mask, causal = model.embed_prefix(*policy._preprocess_images(batch), tokens, there)
    # LeRobot sets this before every prefix: its masks are additive, which other implementations do not take
    model.paligemma_with_expert.paligemma.model.language_model.config._attn_implementation = "eager"
    attention = prepare_attention_masks_4d(make_att_2d_masks(mask, causal))
    state = policy.prepare_state(batch) if hasattr(policy, "prepare_state") else None
    return read(model.paligemma_with_expert.forward, embedded, mask, attention, state)
