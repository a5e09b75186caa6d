"""LeRobot's SmolVLA (Shukor et al. 2025, arXiv 2506.01844): images, text and state are read once.

Every other layer of its action expert attends to the prefix alone, through projections of the prefix' keys and values
that know nothing of the actions. LeRobot makes them anew for each candidate and each denoising step; here they are made
once per observation. Attention itself is torch's fused one, which copies no keys to share them among the heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from ..flow import Guide
from . import lerobot_prefix
from .lerobot_prefix import BLANK_CAMERAS, FORWARD, HISTORY, Prefix, horizon, read

__all__ = ["BLANK_CAMERAS", "HISTORY", "PRIVATE", "encode", "horizon", "refusal", "sample"]

ATTENTION = ("attention_mask", "batch_size", "head_dim", "query_states", "key_states", "value_states")
PRIVATE = lerobot_prefix.PRIVATE | {
    "prepare_images": ("batch",),
    "prepare_state": ("batch",),
    "model.embed_prefix": ("images", "img_masks", "lang_tokens", "lang_masks", "state"),
    "model.vlm_with_expert.forward": FORWARD,
    "model.vlm_with_expert.get_attention_interface": (),
    "model.vlm_with_expert.eager_attention_forward": ATTENTION,
    "model.vlm_with_expert.get_model_layers": ("models",),
    "model.vlm_with_expert.attention_mode": (),
    "model.vlm_with_expert.self_attn_every_n_layers": (),
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


def sample(policy: Any, context: Prefix, noise: Tensor, prefix: Tensor | None, guide: Guide | None) -> Tensor:
    """Chunks [B, n, H, A] in model units."""
    model = policy.model.vlm_with_expert
    with _projected_once(model, context, noise.shape[1]), _fused_attention(model):
        return lerobot_prefix.sample(policy, context, noise, prefix, guide)


@contextmanager
def _projected_once(model: Any, context: Prefix, n: int) -> Iterator[None]:
    """Inside, the cross-attention layers of `model` answer with projections of the prefix, repeated `n` times."""
    projections = []
    try:
        for attention, pair in zip(_cross_attentions(model), context.layers, strict=True):
            for projection, kept in zip((attention.k_proj, attention.v_proj), pair, strict=True) if attention else ():
                _answer(projection, kept.transpose(1, 2).flatten(2), n)
                projections.append(projection)
        yield
    finally:
        for projection in projections:
            del projection.forward  # the class' own again


def _cross_attentions(model: Any) -> Iterator[nn.Module | None]:
    """The expert's attention of every layer; None where it looks at its own tokens, too (as LeRobot's forward asks)."""
    every = model.self_attn_every_n_layers
    for index, layer in enumerate(model.get_model_layers([model.get_vlm_model().text_model, model.lm_expert])[1]):
        own = "cross" not in model.attention_mode or (every > 0 and index % every == 0)
        yield None if own or layer is None else layer.self_attn


def _answer(projection: nn.Module, rows: Tensor, n: int) -> None:
    """`projection` of `rows` [B, P, D], n times each, is what it answers from now on to as many rows."""
    made = projection(rows.to(projection.weight.dtype)).repeat_interleave(n, 0)
    compute = projection.forward

    def forward(x: Tensor) -> Tensor:
        return made if x.shape[:2] == made.shape[:2] else compute(x)

    projection.forward = forward


@contextmanager
def _fused_attention(model: Any) -> Iterator[None]:
    """Inside, `model` attends with one kernel; where it has weights that are not float32, as LeRobot wrote it."""
    model.get_attention_interface = lambda: _attention(model.eager_attention_forward)
    try:
        yield
    finally:
        del model.get_attention_interface


def _attention(eager: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Of queries [B, L, H, d] to keys and values [B, P, G, d] under a mask [B, L, P]: [B, L, H d]."""

    def attend(mask: Tensor, size: int, width: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if not all(x.dtype == torch.float32 for x in (query, key, value)):
            return eager(mask, size, width, query, key, value)  # it computes weights and values in two precisions
        heads = (x.transpose(1, 2) for x in (query, key, value))
        return scaled_dot_product_attention(*heads, mask[:, None], enable_gqa=True).transpose(1, 2).flatten(2)

    return attend
