"""LeRobot's SmolVLA (Shukor et al. 2025, arXiv 2506.01844): images, text and state are read once."""

from __future__ import annotations

from typing import Any

from . import lerobot_prefix
from .lerobot_prefix import BLANK_CAMERAS, FORWARD, HISTORY, Prefix, horizon, read, sample

__all__ = ["BLANK_CAMERAS", "HISTORY", "PRIVATE", "encode", "horizon", "refusal", "sample"]

PRIVATE = lerobot_prefix.PRIVATE | {
    "prepare_images": ("batch",),
    "prepare_state": ("batch",),
    "model.embed_prefix": ("images", "img_masks", "lang_tokens", "lang_masks", "state"),
    "model.vlm_with_expert.forward": FORWARD,
}


def refusal(config: Any) -> str:
    """Why this checkpoint cannot be steered; "" where it can."""
    return "adapt_to_pi_aloha bends the actions after sampling" if config.adapt_to_pi_aloha else ""


def encode(policy: Any, batch: dict[str, Any]) -> Prefix:
    from lerobot.policies.common.vla_utils import make_att_2d_masks

    tokens, there = batch["observation.language.tokens"], batch["observation.language.attention_mask"]
    images, masks = policy.prepare_images(batch)
    embedded, mask, causal = policy.model.embed_prefix(images, masks, tokens, there, state=policy.prepare_state(batch))
    return read(policy.model.vlm_with_expert.forward, embedded, mask, make_att_2d_masks(mask, causal))
