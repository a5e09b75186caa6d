"""What an action's numbers mean, converted both ways: references, rotation kinds, grippers, several arms.

A pose delta (d, D) moves a pose (p, R) as rotations compose, not as vectors add:
  frame "base":            p' = p + d,    R' = D R      (the delta's axes are the base's)
  frame "tool" or "local": p' = p + R d,  R' = R D      (the delta's axes are the moved frame's own)
Everything else (joints, grippers) adds. Deltas are relative to: "previous" the step before's target, "chunk_start" the
state when the chunk was decided, "current" the state measured at each step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from . import rotations
from .types import ActionPart, Spec, SpecMismatch

if TYPE_CHECKING:
    import torch

LOCAL_FRAMES = ("tool", "local")
FRAMES = ("base", *LOCAL_FRAMES)  # those we can turn into each other


@dataclass(frozen=True)
class _Motion:
    """One part's values: what adds, and what composes."""

    vector: np.ndarray  # float64[..., V], V may be 0
    quaternion: np.ndarray | None  # float64[..., 4] xyzw, None where the part has no rotation


@dataclass(frozen=True)
class _Anchors:
    """Absolute actions that deltas refer to."""

    current: _Motion | None  # [..., 1, .], measured when the chunk was decided
    previous: _Motion | None  # [..., 1, .], the last target before the chunk
    measured: _Motion | None  # [..., H, .], measured as each step begins


def convert(
    chunk: np.ndarray | torch.Tensor,  # [..., H, A], written as `source` says
    source: Spec,
    target: Spec,
    current: np.ndarray | None = None,  # [..., A], the state when the chunk was decided
    previous: np.ndarray | None = None,  # [..., A], the last target before the chunk; `current` where not given
    measured: np.ndarray | None = None,  # [..., H, A], the state as each step begins; only for reference "current"
) -> np.ndarray | torch.Tensor:
    """The same motion [..., H, A'] written as `target` says, in the chunk's dtype (computed in float64, no gradient).

    `current`, `previous` and `measured` are absolute actions otherwise written as `source` says (its units, rotation
    kinds and gripper conventions). Those needed for the references involved must be given. Raises SpecMismatch where
    the two contracts differ in anything that is not a matter of writing, ValueError where numbers are missing or bad.
    """
    _check(source, target)
    values = _as_float64("chunk", chunk, source)
    anchors = {
        "current": None if current is None else _as_float64("current", current, source)[..., None, :],
        "previous": None if previous is None else _as_float64("previous", previous, source)[..., None, :],
        "measured": None if measured is None else _as_float64("measured", measured, source),
    }
    if anchors["previous"] is None:
        anchors["previous"] = anchors["current"]
    if anchors["measured"] is None and values.shape[-2] == 1:
        anchors["measured"] = anchors["current"]
    parts = [_convert_part(values, a, b, anchors) for a, b in zip(source.parts, target.parts, strict=True)]
    result = np.concatenate(parts, -1)
    if isinstance(chunk, np.ndarray):
        return result.astype(np.result_type(chunk.dtype, np.float32))
    return chunk.new_tensor(result)


def _convert_part(values: np.ndarray, source: ActionPart, target: ActionPart, given: dict) -> np.ndarray:
    motion = _read(values[..., source.slice], source)
    if _same_writing(source, target):
        return _write(motion, target)
    anchors = _Anchors(**{key: None if a is None else _read(a[..., source.slice], source) for key, a in given.items()})
    absolute = _translate(_absolute(motion, source, anchors), source, target)
    anchors = _Anchors(**{key: _translate(getattr(anchors, key), source, target) for key in given})
    return _write(_relative(absolute, target, anchors), target)


def _absolute(motion: _Motion, part: ActionPart, anchors: _Anchors) -> _Motion:
    if part.reference == "absolute":
        return motion
    if part.reference != "previous":
        return _apply(_anchor(anchors, part), motion, part)
    reached, steps = _anchor(anchors, part), []
    for h in range(motion.vector.shape[-2]):
        reached = _apply(reached, _steps(motion, slice(h, h + 1)), part)
        steps.append(reached)
    return _join(steps)


def _relative(motion: _Motion, part: ActionPart, anchors: _Anchors) -> _Motion:
    """The inverse of `_absolute`."""
    if part.reference == "absolute":
        return motion
    reference = _anchor(anchors, part)
    if part.reference == "previous":
        reference = _join([_like(reference, motion), _steps(motion, slice(None, -1))])
    return _difference(reference, motion, part)


def _apply(reference: _Motion, delta: _Motion, part: ActionPart) -> _Motion:
    if delta.quaternion is None:
        return _Motion(reference.vector + delta.vector, None)
    if part.frame in LOCAL_FRAMES:
        step = rotations.rotate(reference.quaternion, delta.vector) if delta.vector.shape[-1] else delta.vector
        return _Motion(reference.vector + step, rotations.compose(reference.quaternion, delta.quaternion))
    return _Motion(reference.vector + delta.vector, rotations.compose(delta.quaternion, reference.quaternion))


def _difference(reference: _Motion, reached: _Motion, part: ActionPart) -> _Motion:
    """The delta for which `_apply(reference, delta)` is `reached`."""
    step = reached.vector - reference.vector
    if reached.quaternion is None:
        return _Motion(step, None)
    back = rotations.inverse(reference.quaternion)
    if part.frame in LOCAL_FRAMES:
        step = rotations.rotate(back, step) if step.shape[-1] else step
        return _Motion(step, rotations.compose(back, reached.quaternion))
    return _Motion(step, rotations.compose(reached.quaternion, back))


def _translate(motion: _Motion | None, source: ActionPart, target: ActionPart) -> _Motion | None:
    """Absolute gripper positions in the target's convention; everything else is already the same."""
    if motion is None or source.kind != "gripper" or _gripper(source) == _gripper(target):
        return motion
    return _Motion(_from_opening(_to_opening(motion.vector, source), target), motion.quaternion)


def _to_opening(values: np.ndarray, part: ActionPart) -> np.ndarray:
    """0 closed to 1 fully open."""
    low, high = _travel(part)
    share = (values - low) / (high - low)
    return 1 - share if part.sign > 0 else share


def _from_opening(opening: np.ndarray, part: ActionPart) -> np.ndarray:
    low, high = _travel(part)
    return low + (1 - opening if part.sign > 0 else opening) * (high - low)


def _travel(part: ActionPart) -> tuple[np.ndarray, np.ndarray]:
    """The two ends of a gripper's travel: its width where it is given in metres, else its limits."""
    if part.unit == "m" and part.width is not None:
        return np.zeros(1), np.array([part.width])
    return np.array(part.low), np.array(part.high)


def _gripper(part: ActionPart) -> tuple:
    low, high = _travel(part)
    return part.sign, part.unit, tuple(low), tuple(high)


def _read(values: np.ndarray, part: ActionPart) -> _Motion:
    """Split [..., D] into what adds and what composes."""
    if part.kind not in ("rotation", "pose"):
        return _Motion(values, None)
    cut = 3 if part.kind == "pose" else 0
    return _Motion(values[..., :cut], rotations.decode(values[..., cut:], part.rotation))


def _write(motion: _Motion, part: ActionPart) -> np.ndarray:
    if motion.quaternion is None:
        return motion.vector
    return np.concatenate([motion.vector, rotations.encode(motion.quaternion, part.rotation)], -1)


def _same_writing(source: ActionPart, target: ActionPart) -> bool:
    """Whether at most the rotation kind differs, so that no anchor is needed."""
    if (source.reference, _local(source)) != (target.reference, _local(target)):
        return False
    return source.kind != "gripper" or _gripper(source) == _gripper(target)


def _local(part: ActionPart) -> bool:
    return part.reference != "absolute" and part.frame in LOCAL_FRAMES


def _anchor(anchors: _Anchors, part: ActionPart) -> _Motion:
    field = {"chunk_start": "current", "current": "measured", "previous": "previous"}[part.reference]
    anchor = getattr(anchors, field)
    if anchor is None:
        raise ValueError(
            f"action part {part.name!r} with reference {part.reference!r}: expected {field!r}, got nothing"
        )
    return anchor


def _steps(motion: _Motion, which: slice) -> _Motion:
    quaternion = None if motion.quaternion is None else motion.quaternion[..., which, :]
    return _Motion(motion.vector[..., which, :], quaternion)


def _join(motions: list[_Motion]) -> _Motion:
    vector = np.concatenate([m.vector for m in motions], -2)
    if motions[0].quaternion is None:
        return _Motion(vector, None)
    return _Motion(vector, np.concatenate([m.quaternion for m in motions], -2))


def _like(anchor: _Motion, motion: _Motion) -> _Motion:
    """The anchor with the motion's leading shape."""
    lead = motion.vector.shape[:-2]
    spread = [
        None if a is None else np.broadcast_to(a, (*lead, *a.shape[-2:])) for a in (anchor.vector, anchor.quaternion)
    ]
    return _Motion(*spread)


def _as_float64(name: str, array: np.ndarray | torch.Tensor, spec: Spec) -> np.ndarray:
    values = array if isinstance(array, np.ndarray) else array.detach().cpu().double().numpy()
    least = 1 if name in ("current", "previous") else 2
    if values.ndim < least or values.shape[-1] != spec.action_dim:
        wanted = ["...", "H", spec.action_dim][2 - least :] if least == 2 else ["...", spec.action_dim]
        raise ValueError(f"{name}: expected {wanted}, got {list(values.shape)}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity; mask such chunks out first")
    return values.astype(np.float64)


def _check(source: Spec, target: Spec) -> None:
    """Refuse what no rewriting can bridge."""
    _same("action parts", tuple(p.name for p in source.parts), tuple(p.name for p in target.parts))
    _same("dt", source.dt, target.dt)
    for a, b in zip(source.parts, target.parts, strict=True):
        _same(f"{a.name}.kind", a.kind, b.kind)
        for part in (a, b):
            _check_size(part)
        if a.kind == "gripper":
            _check_grippers(a, b)
            continue
        _same(f"{a.name}.unit", a.unit, b.unit)
        poses = a.kind in ("rotation", "pose")
        if not poses:
            _same(f"{a.name} dims", a.stop - a.start, b.stop - b.start)
        if not poses or a.frame not in FRAMES or b.frame not in FRAMES:
            _same(f"{a.name}.frame", a.frame, b.frame)
        if not poses and a.frame in LOCAL_FRAMES:  # without the orientation, nobody knows where the tool's axes point
            _same(f"{a.name}.reference", a.reference, b.reference)


def _check_grippers(a: ActionPart, b: ActionPart) -> None:
    """Openings are shares of the travel, so the travel must be one where both sides know it in metres."""
    _same(f"{a.name} dims", a.stop - a.start, b.stop - b.start)
    if {a.unit, b.unit} != {"m", "1"}:
        _same(f"{a.name}.unit", a.unit, b.unit)
    if None not in (a.width, b.width):
        _same(f"{a.name}.width", a.width, b.width)
    if a.unit == b.unit == "m":
        _same(f"{a.name} travel in m", *(tuple(np.ravel(_travel(part)).tolist()) for part in (a, b)))


def _check_size(part: ActionPart) -> None:
    if part.kind in ("rotation", "pose"):
        if part.rotation not in rotations.SIZES:
            raise SpecMismatch(
                f"{part.name}.rotation: expected one of {', '.join(rotations.SIZES)}, got {part.rotation!r}"
            )
        size = rotations.SIZES[part.rotation] + (3 if part.kind == "pose" else 0)
        _same(f"{part.name} dims for {part.rotation}", size, part.stop - part.start)
        if part.reference == "absolute" and part.frame in LOCAL_FRAMES:
            raise SpecMismatch(f"{part.name}.frame: expected a fixed frame for absolute poses, got {part.frame!r}")


def _same(field: str, expected: object, got: object) -> None:
    if expected != got:
        raise SpecMismatch(f"{field}: expected {expected!r}, got {got!r}")
