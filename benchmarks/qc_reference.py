"""The JAX reference of Q-chunking as a process that can be timed: "8" on stdin makes 8 updates, seconds come back.

    PYTHON qc_reference.py CHECKOUT best-of-n|distill-ddpg MEMBERS

CHECKOUT is a clone of github.com/ColinQiyangLi/qc; PYTHON has jax, flax, optax, distrax and ml_collections. The update
is compiled before the first line is read, and every answer waits for the arrays to be ready.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType

import jax
import numpy as np

BATCH, STATE, ACTION, HORIZON = 256, 28, 5, 5  # as in bench_critic_updates


def main(checkout: str, actor_type: str, members: str) -> None:
    acfql = module(Path(checkout))
    config = acfql.get_config()
    config.actor_type, config.num_qs, config.horizon_length = actor_type, int(members), HORIZON
    data = batch()
    agent = acfql.ACFQLAgent.create(0, data["observations"][0], data["actions"][0, 0], config)
    for _ in range(3):
        agent, metrics = jax.block_until_ready(agent.update(data))
    finite = all(bool(np.isfinite(value)) for value in metrics.values())
    print(jax.__version__ if finite else "not finite", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        for _ in range(int(line)):
            agent, _ = agent.update(data)
        jax.block_until_ready(agent.network.params)
        print(time.perf_counter() - start, flush=True)


def module(checkout: Path) -> ModuleType:
    """agents/acfql.py by its path: importing the package would also ask for everything the other agents need."""
    sys.path.insert(0, str(checkout))
    spec = importlib.util.spec_from_file_location("acfql", checkout / "agents" / "acfql.py")
    acfql = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(acfql)
    return acfql


def batch() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "observations": rng.standard_normal((BATCH, STATE)).astype(np.float32),
        "next_observations": rng.standard_normal((BATCH, HORIZON, STATE)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (BATCH, HORIZON, ACTION)).astype(np.float32),
        "rewards": rng.uniform(0, 1, (BATCH, HORIZON)).astype(np.float32),
        "masks": np.ones((BATCH, HORIZON), np.float32),
        "valid": np.ones((BATCH, HORIZON), np.float32),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
