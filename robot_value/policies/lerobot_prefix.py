"""What SmolVLA, pi0 and pi0.5 share: a vision-language model reads an observation once, as a prefix of tokens.

Its keys and values are what every candidate's denoising attends to, its tokens what a critic may see.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..flow import Guide
from ..types import Seen
from .lerobot_flow import integrate, reversed_time

if TYPE_CHECKING:
    from transformers import DynamicCache

# What every family of these is and calls (see lerobot_vla.py); its file adds what is its own.
HISTORY = False
BLANK_CAMERAS = True
FORWARD = ("attention_mask", "position_ids", "past_key_values", "inputs_embeds", "use_cache")
PRIVATE = {"model.denoise_step": ("prefix_pad_masks", "past_key_values", "x_t", "timestep")}


@dataclass(frozen=True)
class Prefix:
    """An observation as a vision-language model remembers it."""

    mask: Tensor  # bool[B, P], which of the P prefix tokens are there
    layers: tuple[tuple[Tensor, Tensor], ...]  # keys and values [B, heads, P, d] of every layer
    tokens: Tensor  # float32[B, P, D], what the last layer made of them
    state: Tensor | None = None  # float32[B, S'], normalised and padded, where the action expert reads it itself

    @property
    def value(self) -> Seen:
        """What a critic may see."""
        state = self.tokens.new_zeros(len(self.mask), 0) if self.state is None else self.state
        return Seen(state, self.tokens, self.mask)

    def repeat(self, n: int) -> Prefix:
        return self._each(lambda x: x.repeat_interleave(n, 0))

    def select(self, mask: Tensor) -> Prefix:
        return self._each(lambda x: x[mask])

    def memory(self, n: int) -> Prefix:
        """As `repeat`, without the tokens: all that denoising wants."""
        return replace(self, tokens=self.tokens[:, :0]).repeat(n)

    def cache(self) -> DynamicCache:
        """A fresh one: denoising appends to it and crops it again."""
        from transformers import DynamicCache

        cache = DynamicCache()
        for index, (key, value) in enumerate(self.layers):
            cache.update(key, value, index)
        return cache

    def _each(self, change: Callable[[Tensor], Tensor]) -> Prefix:
        layers = tuple((change(key), change(value)) for key, value in self.layers)
        state = None if self.state is None else change(self.state)
        return Prefix(change(self.mask), layers, change(self.tokens), state)


def horizon(config: Any) -> int:
    return config.chunk_size


def read(
    forward: Callable[..., Any],  # of the vision-language model with its action expert
    embedded: Tensor,  # [B, P, D]
    mask: Tensor,  # bool[B, P]
    attention: Tensor,  # who may look at whom, as `forward` wants it
    state: Tensor | None = None,
) -> Prefix:
    (tokens, _), cache = forward(
        attention_mask=attention,
        position_ids=torch.cumsum(mask, 1) - 1,
        past_key_values=None,
        inputs_embeds=[embedded, None],
        use_cache=True,
    )
    layers = tuple((layer.keys, layer.values) for layer in cache.layers)
    return Prefix(mask, layers, tokens.float(), state)


def sample(policy: Any, context: Prefix, noise: Tensor, prefix: Tensor | None, guide: Guide | None) -> Tensor:
    """Chunks [B, n, H, A] in model units."""
    shared, config = context.memory(noise.shape[1]), policy.config
    cache, state = shared.cache(), {} if shared.state is None else {"state": shared.state}

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return policy.model.denoise_step(
            prefix_pad_masks=shared.mask, past_key_values=cache, x_t=x, timestep=t, **state
        )

    steps = config.num_steps if hasattr(config, "num_steps") else config.num_inference_steps
    return integrate(reversed_time(denoise), noise, (config.chunk_size, config.max_action_dim), steps, prefix, guide)
