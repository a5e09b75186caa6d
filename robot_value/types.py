"""The words every room of robot_value speaks: frozen dataclasses over numpy, importable without torch.

Shape letters: B robots, N candidates, H chunk steps, A action dims, S state dims, O observation steps, E ensemble
members, T episode steps, k executed steps, P pending steps. Batch first: one robot is a batch of one. Units are SI.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

FORMAT_VERSION = 1

REFERENCES = ("absolute", "previous", "current", "chunk_start")
ROTATIONS = ("none", "axis_angle", "quaternion", "6d")
KINDS = ("joint", "position", "rotation", "pose", "gripper", "other")

# Who decided an executed step (Episode.source, Outcome.source).
POLICY, EXPERT, HUMAN = 0, 1, 2
SOURCES = ("policy", "expert", "human")


class SpecMismatch(ValueError):
    """Two parties disagree on what a number means; nothing has moved yet."""


class NoFiniteChunk(RuntimeError):
    """The policy proposed nothing but NaN or infinity for a robot; whoever drives it must stop it."""


@dataclass(frozen=True)
class ActionPart:
    """A named slice of the action vector and what its numbers mean."""

    name: str  # e.g. "arm", "gripper", "left_arm"
    start: int  # first action dim
    stop: int  # one past the last action dim
    kind: str  # one of KINDS
    unit: str  # "rad", "m", "m+rad", "1" (dimensionless)
    low: tuple[float, ...]  # per dim, in `unit`
    high: tuple[float, ...]  # per dim, in `unit`
    reference: str = "absolute"  # absolute, or relative to the previous target / current state / chunk's start
    rotation: str = "none"  # how the rotation inside a "rotation" or "pose" part is written
    frame: str = "base"  # coordinate frame of Cartesian parts
    sign: int = 1  # grippers: +1 means larger closes, -1 means larger opens
    width: float | None = None  # grippers: fully open width in m, where known

    def __post_init__(self) -> None:
        _member("ActionPart.kind", self.kind, KINDS)
        _member("ActionPart.reference", self.reference, REFERENCES)
        _member("ActionPart.rotation", self.rotation, ROTATIONS)
        object.__setattr__(self, "low", tuple(float(x) for x in self.low))
        object.__setattr__(self, "high", tuple(float(x) for x in self.high))
        size = self.stop - self.start
        if size <= 0 or len(self.low) != size or len(self.high) != size:
            raise ValueError(
                f"action part {self.name!r}: dims [{self.start}, {self.stop}) need {max(size, 1)} limits each, "
                f"got low {len(self.low)} and high {len(self.high)}"
            )
        if any(not lo < hi for lo, hi in zip(self.low, self.high, strict=True)):
            raise ValueError(f"action part {self.name!r}: low must be below high, got {self.low} and {self.high}")

    @property
    def slice(self) -> slice:
        return slice(self.start, self.stop)


@dataclass(frozen=True)
class Camera:
    name: str
    height: int  # pixels
    width: int  # pixels
    encoding: str = "rgb8"


@dataclass(frozen=True)
class Spec:
    """The contract between data, checkpoint and robot. `check` refuses a mismatch before anything moves.

    `horizon` and `n_obs_steps` are chosen at training: 0 means "not chosen" (recorded data) and matches any value.
    """

    parts: tuple[ActionPart, ...]
    state_names: tuple[str, ...]
    state_units: tuple[str, ...]
    dt: float  # s per control step
    cameras: tuple[Camera, ...] = ()
    horizon: int = 0  # H, steps in a proposed chunk
    n_obs_steps: int = 0  # O, observations in a history
    language: bool = False  # whether the task text matters
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        ends = [0, *(part.stop for part in self.parts)]
        if not self.parts or any(part.start != end for part, end in zip(self.parts, ends, strict=False)):
            raise ValueError(
                "action parts must cover dims 0..A without gap or overlap, got "
                f"{[(part.name, part.start, part.stop) for part in self.parts]}"
            )
        names = [part.name for part in self.parts]
        if len(set(names)) != len(names):
            raise ValueError(f"action parts: expected different names, got {names}")
        if len(self.state_names) != len(self.state_units):
            raise ValueError(f"{len(self.state_names)} state names but {len(self.state_units)} state units")
        if not self.dt > 0:
            raise ValueError(f"dt must be a positive number of seconds, got {self.dt}")

    @property
    def action_dim(self) -> int:
        return self.parts[-1].stop

    @property
    def state_dim(self) -> int:
        return len(self.state_names)

    @property
    def low(self) -> np.ndarray:
        """float32[A], in the Spec's units."""
        return np.array([x for part in self.parts for x in part.low], np.float32)

    @property
    def high(self) -> np.ndarray:
        """float32[A], in the Spec's units."""
        return np.array([x for part in self.parts for x in part.high], np.float32)

    def choose(self, **chosen: Any) -> Spec:
        """The same contract with e.g. `horizon` or `n_obs_steps` decided."""
        return replace(self, **chosen)

    def differences(self, other: Spec) -> list[str]:
        """One line per field that differs: "field: expected ..., got ..."."""
        mine, theirs = _flat(self), _flat(other)
        lines = []
        for key in sorted(mine.keys() | theirs.keys()):
            expected, got = mine.get(key, "nothing"), theirs.get(key, "nothing")
            chosen_later = key in ("horizon", "n_obs_steps") and 0 in (expected, got)
            if expected != got and not chosen_later and not _close(expected, got):
                lines.append(f"{key}: expected {expected!r}, got {got!r}")
        return lines

    def check(self, other: Spec, who: str = "the other side") -> None:
        """Raise SpecMismatch naming field, expected and got unless `other` fulfils this contract."""
        if lines := self.differences(other):
            raise SpecMismatch(f"{who} does not match: " + "; ".join(lines))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Spec:
        version = data.get("format_version", 0)
        if not isinstance(version, int) or version > FORMAT_VERSION:
            raise ValueError(
                f"spec format_version: expected at most {FORMAT_VERSION}, got {version}; upgrade robot_value"
            )
        known = {f.name for f in fields(cls)}
        if unknown := set(data) - known:
            raise ValueError(f"spec has unknown fields {sorted(unknown)}; known are {sorted(known)}")
        if missing := {"parts", "state_names", "state_units", "dt"} - set(data):
            raise ValueError(f"spec: expected fields {sorted(missing)}, got none; write it with Spec.to_json")
        data = dict(data)
        data["parts"] = tuple(ActionPart(**part) for part in data["parts"])
        data["cameras"] = tuple(Camera(**camera) for camera in data.get("cameras", ()))
        for key in ("state_names", "state_units"):
            data[key] = tuple(data[key])
        return cls(**data)


@dataclass(frozen=True)
class Observation:
    """What B robots see now, with O steps of history stacked at control rate by the Robot (oldest first)."""

    state: np.ndarray  # float32[B, O, S], spec units
    images: dict[str, np.ndarray]  # camera name -> uint8[B, O, h, w, 3]
    task: tuple[str, ...]  # B texts
    time: np.ndarray  # float64[B], s, monotonic
    step: np.ndarray  # int64[B], control steps since reset
    episode: np.ndarray  # int64[B], key of the episode's randomness (the seed in simulation, a counter on an arm)
    pending: np.ndarray  # float32[B, P, A], actions already decided and not yet executed, spec units
    committed: np.ndarray  # int64[B], how many of `pending` will be executed before a new decision can take effect
    goal: Observation | None = None  # of B robots; its last frame is what models with `encoder.goal` are steered to

    @property
    def batch_size(self) -> int:
        return len(self.state)

    def rows(self, rows: Sequence[int] | np.ndarray) -> Observation:
        """The chosen robots only."""
        index = np.arange(self.batch_size)[np.asarray(rows) if len(rows) else slice(0)]
        return Observation(
            state=self.state[index],
            images={name: image[index] for name, image in self.images.items()},
            task=tuple(self.task[i] for i in index),
            time=self.time[index],
            step=self.step[index],
            episode=self.episode[index],
            pending=self.pending[index],
            committed=self.committed[index],
            goal=None if self.goal is None else self.goal.rows(index),
        )

    def check(self, spec: Spec) -> None:
        """Raise ValueError with expected and got where a shape or dtype breaks the contract."""
        batch, history = self.batch_size, spec.n_obs_steps or self.state.shape[1]
        _expect("state", self.state, np.float32, (batch, history, spec.state_dim))
        for camera in spec.cameras:
            if camera.name not in self.images:
                raise ValueError(f"images: expected camera {camera.name!r}, got {sorted(self.images)}")
            shape = (batch, history, camera.height, camera.width, 3)
            _expect(f"images[{camera.name!r}]", self.images[camera.name], np.uint8, shape)
        if self.goal is not None:
            if self.goal.batch_size != batch:
                raise ValueError(f"goal: expected one per robot ({batch}), got {self.goal.batch_size}")
            self.goal.check(spec.choose(n_obs_steps=0))  # any history: the last frame counts


@dataclass(frozen=True)
class Decision:
    """What B robots were told to do, and everything needed to understand why."""

    chunk: np.ndarray  # float32[B, H, A], spec units
    execute: np.ndarray  # int64[B], steps of `chunk` to execute before the next decision is due
    start_step: np.ndarray  # int64[B], control step at which chunk[:, 0] applies
    reason: tuple[str, ...]  # per robot: "chosen", "base", "shadow", "abstained", "critic_fallback", ...
    index: np.ndarray  # int64[B], selected candidate; -1 where the chunk is a new one
    candidates: np.ndarray  # float32[B, N, H, A]; N may be 0 where nothing was logged
    value: np.ndarray  # float32[B, N], the critic's score; NaN where not scored
    spread: np.ndarray  # float32[B, N], the critic's uncertainty; NaN where not scored
    seconds: dict[str, float] = field(default_factory=dict)  # stage -> s for the whole batch
    seed: int = 0
    versions: dict[str, str] = field(default_factory=dict)  # component -> name and checkpoint hash
    committed: np.ndarray | None = None  # int64[B], of the observation it was made from; None: 0

    @property
    def made_at(self) -> np.ndarray:
        """int64[B], control step of the observation it was made from."""
        return self.start_step if self.committed is None else self.start_step - self.committed


@dataclass(frozen=True)
class Outcome:
    """What happened until the next decision became due, at control rate. Rows shorter than k are padded."""

    observation: Observation  # the next decision's observation
    states: np.ndarray  # float32[B, k, S], after each executed step
    # camera name -> uint8[B, k, h, w, 3], after each executed step; empty where nobody asked for them (loop.pictures)
    images: dict[str, np.ndarray]
    executed: np.ndarray  # float32[B, k, A], what the robot really did
    commanded: np.ndarray  # float32[B, k, A], what it was told
    executed_valid: np.ndarray  # bool[B, k]
    rewards: np.ndarray  # float32[B, k]
    source: np.ndarray  # uint8[B, k], index into SOURCES
    terminated: np.ndarray  # bool[B], the task ended (success or failure)
    truncated: np.ndarray  # bool[B], time ran out or the episode became unusable
    success: np.ndarray  # bool[B], the task's own signal, latched over the episode
    unstable: np.ndarray  # bool[B], the simulator warned or its clock went backwards

    @property
    def done(self) -> np.ndarray:
        return self.terminated | self.truncated


@dataclass(frozen=True)
class Episode:
    """One recorded episode. A frame is never invented: without a final observation, T states belong to T actions."""

    spec: Spec
    states: np.ndarray  # float32[T+1 or T, S], spec units
    images: dict[str, np.ndarray]  # camera name -> uint8[T+1 or T, h, w, 3]
    actions: np.ndarray  # float32[T, A], executed, spec units
    rewards: np.ndarray  # float32[T]
    terminated: bool
    truncated: bool
    success: bool | None  # None where nobody knows
    task: str = ""
    commanded: np.ndarray | None = None  # float32[T, A], where it differs from `actions`
    source: np.ndarray | None = None  # uint8[T], index into SOURCES; None means all policy
    decisions: tuple[Decision, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)  # seed, quality, latents, recorder, ...; JSON values
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        steps, spec = len(self.actions), self.spec
        _expect("actions", self.actions, np.float32, (steps, spec.action_dim))
        _expect("rewards", self.rewards, np.float32, (steps,))
        if steps == 0:
            raise ValueError("an episode needs at least one action, got none")
        if len(self.states) not in (steps, steps + 1):
            raise ValueError(
                f"states: expected {steps} or {steps + 1} rows for {steps} actions, got {len(self.states)}"
            )
        _expect("states", self.states, np.float32, (len(self.states), spec.state_dim))
        names = {camera.name for camera in spec.cameras}
        if names != set(self.images):
            raise ValueError(f"images: expected cameras {sorted(names)}, got {sorted(self.images)}")
        for camera in spec.cameras:
            shape = (len(self.states), camera.height, camera.width, 3)
            _expect(f"images[{camera.name!r}]", self.images[camera.name], np.uint8, shape)
        if self.commanded is not None:
            _expect("commanded", self.commanded, np.float32, (steps, spec.action_dim))
        if self.source is not None:
            _expect("source", self.source, np.uint8, (steps,))

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def final_observed(self) -> bool:
        return len(self.states) == len(self.actions) + 1

    @property
    def dt(self) -> float:
        return self.spec.dt


@dataclass(frozen=True)
class Scores:
    """A critic's opinion on B x N candidates; larger is better."""

    value: torch.Tensor  # float32[B, N]
    spread: torch.Tensor  # float32[B, N], std over the ensemble
    scored: torch.Tensor  # bool[B, N], False where time ran out before scoring
    named: Mapping[str, torch.Tensor] = field(default_factory=dict)  # extra scores, e.g. feasibility, [B, N]


@dataclass(frozen=True)
class Selection:
    """What a selector picked: a candidate's index, or a new chunk where index is -1."""

    index: torch.Tensor  # int64[B]; -1 where `chunk` is not one of the candidates
    chunk: torch.Tensor  # float32[B, H, A]
    weights: torch.Tensor  # float32[B, N], sums to 1


@dataclass(frozen=True)
class Situation:
    """What a selector or gate may look at beside candidates and scores."""

    generators: Sequence[np.random.Generator]  # B keyed generators, one per robot
    finite: torch.Tensor  # bool[B, N], candidates that may be selected at all
    previous: torch.Tensor | None = None  # float32[B, H, A], what the last decision meant for these steps, or NaN
    context: Any = None  # the critic's Context
    critic: Any = None
    spec: Spec | None = None  # limits give distances a scale, parts say where rotations are; None: neither is known
    execute: int | None = None  # k, leading steps of a chunk that will be executed; None: all of them
    episode: np.ndarray | None = None  # int64[B], key of each robot's episode
    step: np.ndarray | None = None  # int64[B], control steps since reset
    # A robot that delays decisions executes the first `committed` of `pending` before a chunk begins, and `context` is
    # of the observation before them: whoever asks the critic again puts them in front (selection.from_observation).
    pending: torch.Tensor | None = None  # float32[B, P, A], spec units
    committed: torch.Tensor | None = None  # int64[B]; None: chunks begin with the observation


@dataclass(frozen=True)
class Steering:
    """What a guide feeds back into a sampler, per candidate."""

    gradient: torch.Tensor | None = None  # float32[B, N, H, A], of a value, per spec unit; added to the velocity
    displacement: torch.Tensor | None = None  # float32[B, N, H, A], spec units per flow time; added to the velocity
    pull_back: bool = False  # the displacement d goes through the network first: J^T d, J = d x_hat / d x
    keep: torch.Tensor | None = None  # bool[B, N]
    resample: torch.Tensor | None = None  # int64[B, N], parent of each particle
    noise: torch.Tensor | None = None  # float32[B, N, H, A], standard normal, mixed in after resampling
    churn: torch.Tensor | None = None  # float32[B, N] in [0, 1], how much of x's own noise it replaces


@dataclass(frozen=True)
class Features:
    """The plain Context: an observation encoded into one tensor, rows first."""

    value: torch.Tensor  # float32[B, ...]

    def repeat(self, n: int) -> Features:
        """Each row n times, neighbours together: [B * n, ...]."""
        return Features(self.value.repeat_interleave(n, 0))

    def select(self, mask: torch.Tensor) -> Features:
        return Features(self.value[mask])


@dataclass(frozen=True)
class Seen:
    """What a policy made of B observations, for a critic to read: a vector, tokens, or both."""

    vector: torch.Tensor  # float32[B, V]; V may be 0
    tokens: torch.Tensor  # float32[B, P, D]; P may be 0
    mask: torch.Tensor  # bool[B, P], which tokens are there

    def to(self, device: torch.device | str) -> Seen:
        return Seen(self.vector.to(device), self.tokens.to(device), self.mask.to(device))

    def padded(self, length: int) -> Seen:
        """With `length` tokens, of which the last are not there."""
        rows, there, width = self.tokens.shape
        tokens, mask = self.tokens.new_zeros(rows, length, width), self.mask.new_zeros(rows, length)
        tokens[:, :there], mask[:, :there] = self.tokens, self.mask
        return Seen(self.vector, tokens, mask)


def _member(what: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{what}: expected one of {', '.join(allowed)}, got {value!r}")


def _expect(name: str, array: np.ndarray, dtype: Any, shape: tuple[int, ...]) -> None:
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(
            f"{name}: expected {np.dtype(dtype).name}{list(shape)}, got {array.dtype.name}{list(array.shape)}"
        )


def _flat(spec: Spec) -> dict[str, Any]:
    """Every leaf of the contract under a readable name, e.g. "arm.unit" or "camera wrist.height"."""
    flat: dict[str, Any] = {f"{part.name}.{key}": value for part in spec.parts for key, value in asdict(part).items()}
    flat |= {f"camera {c.name}.{key}": value for c in spec.cameras for key, value in asdict(c).items()}
    flat |= {key: value for key, value in asdict(spec).items() if key not in ("parts", "cameras")}
    flat["action parts"] = tuple(part.name for part in spec.parts)
    flat["cameras"] = tuple(camera.name for camera in spec.cameras)
    return flat


def _close(expected: Any, got: Any) -> bool:
    """Limits and periods that differ only by float32 rounding are the same number."""
    a, b = np.asarray(expected), np.asarray(got)
    numbers = a.dtype.kind in "if" and b.dtype.kind in "if"  # never texts: joints called "1" and "01" differ
    return numbers and a.shape == b.shape and np.allclose(a, b, rtol=1e-6, atol=0)
