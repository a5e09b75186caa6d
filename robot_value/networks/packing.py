"""Networks over a packed copy of their weights: oneDNN's blocked layout, the bias and GELU fused into the product.
Image encoders get channels-last weights, as their images come, so that nothing is copied between layers.

In bfloat16 only hidden layers are rounded: the first and the last layer stay float32, because candidates of one
observation differ by little, and so does what a transformer adds its layers' outputs to.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from .chunk_head import Block, ChunkMLP, ChunkTransformer, DiTBlock, Layer, time_features
from .ensemble import EnsembleMLP, each_own
from .images import ImageEncoder

ROWS = 512  # what the blocked layout is made for; a tile of candidates has 512 to 2048

Part = EnsembleMLP | ChunkMLP | ChunkTransformer | ImageEncoder
_GELU = ("gelu", [], "none")  # fused into the product; "none" is the exact one, by erf
_PLAIN = ("none", [], "")
_gelu_ = torch.ops.aten.gelu_  # in place: no fresh megabyte per layer


def pack(part: Part, dtype: torch.dtype) -> Callable[..., Tensor]:
    """What `part.forward` computes, without gradients, from the weights of this moment. About 0.3 ms per megabyte."""
    if isinstance(part, ChunkTransformer):
        return functools.partial(part.through, [_dit_block(block, dtype) for block in part.blocks])
    if isinstance(part, ImageEncoder):
        return _image_encoder(part, dtype)
    return _ensemble(part, dtype) if isinstance(part, EnsembleMLP) else _chunk_mlp(part, dtype)


def _ensemble(net: EnsembleMLP, dtype: torch.dtype) -> Layer:
    members = [_member(net, e, dtype) for e in range(net.members)]
    return lambda x: torch.stack([f(own) for f, own in zip(members, each_own(x, net.members), strict=True)])


def _member(net: EnsembleMLP, e: int, dtype: torch.dtype) -> Layer:
    stacks = (net.weights, net.biases, net.gains, net.shifts)
    weights, biases, gains, shifts = ([p[e].detach() for p in stack] for stack in stacks)
    dtypes = [torch.float32, *[dtype] * len(weights)][: len(weights) - 1]  # of the hidden layers
    norms = [(g.to(d), s.to(d)) for g, s, d in zip(gains, shifts, dtypes, strict=False)]
    hidden = [_linear(w, b, d, gelu=not norms) for w, b, d in zip(weights[:-1], biases[:-1], dtypes, strict=True)]
    output = _linear(weights[-1], biases[-1], torch.float32)

    def forward(x: Tensor) -> Tensor:
        for i, layer in enumerate(hidden):
            x = layer(x)
            if norms:
                x = _gelu_(F.layer_norm(x, x.shape[-1:], *norms[i]))
        return output(x)

    return forward


def _chunk_mlp(net: ChunkMLP, dtype: torch.dtype) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    first = _blocked(net.input.weight, torch.float32)
    hidden = [_linear(layer.weight, layer.bias, dtype, gelu=True) for layer in net.hidden]
    output = _linear(net.output.weight, net.output.bias, torch.float32)

    def forward(x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        times = net.time(time_features(t))  # [1 or C, width]
        if len(times) == len(condition) == 1:
            y = torch.ops.mkldnn._linear_pointwise(x.flatten(1), first, (condition + times)[0], *_GELU)
        else:
            bias, own = (times[0], condition) if len(t) == 1 else (None, condition + times)
            y = torch.ops.mkldnn._linear_pointwise(x.flatten(1), first, bias, *_PLAIN)
            y.unflatten(0, (len(own), -1)).add_(own[:, None])
            y = _gelu_(y)
        for layer in hidden:
            y = layer(y)
        return output(y).unflatten(1, net.shape)

    return forward


def _dit_block(net: DiTBlock, dtype: torch.dtype) -> Block:
    qkv, out, down = (_linear(layer.weight, layer.bias, dtype) for layer in (net.qkv, net.out, net.down))
    up = _linear(net.up.weight, net.up.bias, dtype, gelu=True)
    return lambda y, c: net.through(y, c, qkv, out, up, down)


def _image_encoder(net: ImageEncoder, dtype: torch.dtype) -> Layer:
    twin = copy.deepcopy(net).to(memory_format=torch.channels_last)
    vars(twin).pop("forward", None)
    blocks = twin.blocks.to(dtype)
    return functools.partial(twin.through, lambda x: blocks(x.to(dtype)).to(x.dtype))


def _linear(weight: Tensor, bias: Tensor, dtype: torch.dtype, gelu: bool = False) -> Layer:
    blocked, bias = _blocked(weight, dtype), bias.detach().to(dtype)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x.to(dtype), blocked, bias, *(_GELU if gelu else _PLAIN))


def _blocked(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(dtype), ROWS)
