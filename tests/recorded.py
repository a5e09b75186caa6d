"""Small recorded episodes for tests: every kind of ending, with and without cameras and decisions."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from robot_value.episodes.cache import Cache
from robot_value.types import ActionPart, Camera, Decision, Episode, Spec


def make_spec(state_dim: int = 3, cameras: tuple[str, ...] = (), **chosen) -> Spec:
    arm = ActionPart("arm", 0, 2, "position", "m", (-1.0, -1.0), (1.0, 1.0), reference="current")
    gripper = ActionPart("gripper", 2, 3, "gripper", "1", (0.0,), (1.0,))
    return Spec(
        parts=(arm, gripper),
        state_names=tuple(f"s{i}" for i in range(state_dim)),
        state_units=("m",) * state_dim,
        dt=0.05,
        cameras=tuple(Camera(name, 4, 5) for name in cameras),
        **chosen,
    )


def make_episode(
    spec: Spec,
    steps: int = 7,
    seed: int = 0,
    final_observed: bool = True,
    terminated: bool = True,
    success: bool | None = True,
    decisions: int = 0,
    **changes,
) -> Episode:
    """Random numbers everywhere, so that a row in the wrong place is a wrong value."""
    rng = np.random.default_rng(seed)
    frames = steps + final_observed
    fields = {
        "spec": spec,
        "states": rng.normal(size=(frames, spec.state_dim)).astype(np.float32),
        "images": {c.name: rng.integers(0, 256, (frames, c.height, c.width, 3), np.uint8) for c in spec.cameras},
        "actions": rng.uniform(-1, 1, (steps, spec.action_dim)).astype(np.float32),
        "rewards": rng.normal(size=steps).astype(np.float32),
        "terminated": terminated,
        "truncated": not terminated,
        "success": success,
        "task": f"task {seed % 2}",
        "decisions": tuple(make_decision(rng, n) for n in range(decisions)),
    }
    return Episode(**(fields | changes))


def make_decision(rng: np.random.Generator, n: int, horizon: int = 4) -> Decision:
    """n candidates; NaN where nothing was scored."""
    return Decision(
        chunk=rng.normal(size=(1, horizon, 3)).astype(np.float32),
        execute=np.array([2]),
        start_step=np.array([2 * n]),
        reason=("chosen" if n else "base",),
        index=np.array([n - 1]),
        candidates=rng.normal(size=(1, n, horizon, 3)).astype(np.float32),
        value=np.full((1, n), np.nan, np.float32),
        spread=np.full((1, n), np.inf, np.float32),
        seconds={"sample": 0.25, "score": float("nan")} if n else {},
        seed=n,
        versions={"critic": "iql 12ab"} if n else {},
    )


def assert_same(a, b) -> None:
    """Equal to the last bit, NaN equal to NaN, through dataclasses, tuples and dicts."""
    assert type(a) is type(b) or isinstance(a, np.ndarray), (type(a), type(b))
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype and a.shape == b.shape, (a.dtype, b.dtype, a.shape, b.shape)
        np.testing.assert_array_equal(a, b)
    elif isinstance(a, Episode | Decision):
        for name, value in vars(a).items():
            assert_same(value, getattr(b, name))
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, tuple | list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert a == b or (a != a and b != b), (a, b)


def memory_cache(episodes: list[Episode]) -> Cache:
    """The cache of these episodes without a store: what `open_cache` would decode, laid end to end."""
    first = episodes[0]
    tasks = list(dict.fromkeys(e.task for e in episodes))
    success = [np.nan if e.success is None else float(e.success) for e in episodes]
    return Cache(
        path=Path("memory"),
        spec=first.spec,
        names=tuple(map(str, range(len(episodes)))),
        hashes=("",) * len(episodes),
        tasks=tuple(tasks),
        state=np.concatenate([e.states for e in episodes]),
        images={name: np.concatenate([e.images[name] for e in episodes]) for name in first.images},
        action=np.concatenate([e.actions for e in episodes]),
        reward=np.concatenate([e.rewards for e in episodes]),
        source=np.concatenate([np.zeros(len(e), np.uint8) for e in episodes]),
        steps=np.array([len(e) for e in episodes]),
        frames=np.array([len(e.states) for e in episodes]),
        terminated=np.array([e.terminated for e in episodes]),
        truncated=np.array([e.truncated for e in episodes]),
        success=np.array(success, np.float32),
        task=np.array([tasks.index(e.task) for e in episodes]),
    )
