"""Training state (optimizer, RNG, sampler position, EMA) as tensors plus JSON, and back exactly; no pickle.

A tree of dicts, lists, tuples, numbers, texts, torch tensors and numpy arrays is split in two: tensors by name, for
safetensors, and a JSON skeleton in which {"$": kind, "v": ...} stands for everything JSON cannot say itself.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def flatten(tree: Any) -> tuple[dict[str, torch.Tensor], Any]:
    """(tensors by path, JSON skeleton) of a nested tree such as `optimizer.state_dict()`."""
    tensors: dict[str, torch.Tensor] = {}
    return tensors, _encode(tree, "root", tensors)


def unflatten(tensors: Mapping[str, torch.Tensor], skeleton: Any) -> Any:
    """The tree that `flatten` took apart: same types, same bits."""
    if isinstance(skeleton, list):
        return [unflatten(tensors, item) for item in skeleton]
    if not isinstance(skeleton, Mapping):
        return skeleton
    kind, value = skeleton["$"], skeleton["v"]
    if kind == "dict":
        return {unflatten(tensors, key): unflatten(tensors, item) for key, item in value}
    if kind == "tuple":
        return tuple(unflatten(tensors, item) for item in value)
    if kind == "float":
        return float(value)
    if kind not in ("tensor", "array", "scalar") or value not in tensors:
        raise ValueError(f"learner state: expected a tensor named {value!r} of a known kind, got kind {kind!r}")
    tensor = tensors[value]
    if kind == "tensor":
        return tensor
    return tensor.numpy() if kind == "array" else tensor.numpy()[()]


def rng_state() -> dict[str, Any]:
    """Where every global generator stands: torch (CPU and each GPU), numpy's and Python's."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": np.random.get_state(legacy=False),
        "python": random.getstate(),
    }


def load_rng_state(state: Mapping[str, Any]) -> None:
    """Put every global generator back to where `rng_state` found it."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    np.random.set_state(state["numpy"])
    random.setstate(state["python"])


def _encode(node: Any, path: str, tensors: dict[str, torch.Tensor]) -> Any:
    if node is None or isinstance(node, str | bool):
        return node
    if isinstance(node, torch.Tensor):
        # Own, contiguous memory: safetensors refuses views that share storage.
        return _store("tensor", node.detach().cpu().contiguous().clone(), path, tensors)
    if isinstance(node, np.generic):
        return _store("scalar", torch.from_numpy(np.array(node)), path, tensors)
    if isinstance(node, np.ndarray):
        return _store("array", torch.from_numpy(np.array(node, order="C")), path, tensors)
    if isinstance(node, int):
        return int(node)
    if isinstance(node, float):
        return node if math.isfinite(node) else {"$": "float", "v": repr(node)}
    if isinstance(node, Mapping):
        items = [
            [_encode(key, f"{path}.{key}", tensors), _encode(v, f"{path}.{key}", tensors)] for key, v in node.items()
        ]
        return {"$": "dict", "v": items}
    if isinstance(node, list | tuple):
        items = [_encode(item, f"{path}.{i}", tensors) for i, item in enumerate(node)]
        return items if isinstance(node, list) else {"$": "tuple", "v": items}
    raise TypeError(
        f"learner state {path}: expected dict, list, number, text, tensor or array, got {type(node).__name__}"
    )


def _store(kind: str, tensor: torch.Tensor, path: str, tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    name = path if path not in tensors else f"{path}#{len(tensors)}"
    tensors[name] = tensor
    return {"$": kind, "v": name}
