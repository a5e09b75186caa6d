"""Updates per second of the demo's policy and critic, and their share of this machine's own matrix-product peak.

The peak is the fastest float32 product seen in this run, probed before and after; where the two probes differ by more
than 10 % the machine was not the same throughout and the shares are void. Updates are whole training steps: sampling
windows from a decoded cache, loss, gradients, clipping, optimizer, averages. Policy and critic take turns.

    python benchmarks/bench_training.py            # about 1 minute
    python benchmarks/bench_training.py --quick    # about 20 seconds
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent))

from blocks import Arm, interleave, median_ms

from robot_value.critics import iql
from robot_value.episodes.cache import Cache, open_cache
from robot_value.episodes.store import EpisodeStore
from robot_value.learners import learner_for
from robot_value.networks.matmul import MODES, TOLERANCE, best_mode, matmul, relative_error
from robot_value.normalize import fit_statistics
from robot_value.policies import flow
from robot_value.sampling import ChunkSampler
from robot_value.types import ActionPart, Episode, Spec

AGREE = 0.1  # largest relative difference between the two probes of the peak
BATCH, HORIZON, STATE, ACTION = 256, 8, 28, 7
COMPONENTS = {
    "flow policy 3x256": flow.Config(),
    "IQL critic 3x256, K=4, target q": iql.Config(),
    "IQL critic 3x256, K=4, target v": iql.Config(target="v"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer blocks")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads of torch")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/training.json"), help="result file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    mode = best_mode(options.threads)
    before = peak()
    with tempfile.TemporaryDirectory() as folder, matmul(mode):
        cache = toy_cache(Path(folder))
        updates = {name: update_of(component, cache) for name, component in COMPONENTS.items()}
        flops = {name: count(update) for name, update in updates.items()}
        arms = {name: Arm(update) for name, update in updates.items()}
        interleave(arms, 15 if options.quick else 50)
    after = peak()
    valid = abs(after - before) <= AGREE * max(before, after)
    rows = [row(name, arm, flops[name], max(before, after), valid) for name, arm in arms.items()]
    result = {"threads": options.threads, "matmul": mode, "peak_gflops": [before / 1e9, after / 1e9], "valid": valid}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result | {"rows": rows}, indent=2) + "\n")
    print(f"peak {before / 1e9:.0f} GF/s before, {after / 1e9:.0f} after: {'agree' if valid else 'VOID, machine busy'}")
    print(f"written to {options.out}")


def row(name: str, arm: Arm, flop: int, peak_flops: float, valid: bool) -> dict:
    timing = median_ms(arm)
    rate = 1e3 / timing["ms"]
    share = flop * rate / peak_flops
    print(f"{name}: {rate:.0f} updates/s, {flop / 1e6:.0f} MFLOP each, {100 * share:.0f} % of the peak")
    verdict = {"share_of_peak": share if valid and arm.trusted else None}
    return {"name": name, "updates_per_s": rate, "flop_per_update": flop, **timing, **verdict}


def peak(seconds: float = 2.0) -> float:
    """FLOP/s of the fastest float32 product, over shapes and over the modes that keep float32's precision."""
    best = 0.0
    for mode in MODES:
        with matmul(mode):
            if relative_error() >= TOLERANCE:
                continue
            for rows, width in ((2048, 512), (4096, 256)):
                x, w = torch.randn(rows, width), torch.randn(width, width)
                deadline = time.perf_counter() + seconds / 4
                while time.perf_counter() < deadline:
                    start = time.perf_counter()
                    torch.nn.functional.linear(x, w)
                    best = max(best, 2 * rows * width**2 / (time.perf_counter() - start))
    return best


def update_of(component: flow.Config | iql.Config, cache: Cache):
    spec = cache.spec.choose(horizon=HORIZON, n_obs_steps=1)
    model = component.build(spec, fit_statistics({"state": cache.state, "action": cache.action}))
    learner = learner_for(model, steps=6000)
    sampler = ChunkSampler(cache, HORIZON, 1, (HORIZON,), batch_size=BATCH)
    generator = torch.Generator().manual_seed(0)
    return lambda: learner.update(sampler.sample(), generator)


def count(update) -> int:
    """FLOP of the matrix products of one update, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        update()
    return counter.get_total_flops()


def toy_cache(folder: Path, episodes: int = 50, steps: int = 80) -> Cache:
    rng = np.random.default_rng(0)
    arm = ActionPart("arm", 0, ACTION, "other", "1", (-1.0,) * ACTION, (1.0,) * ACTION)
    spec = Spec((arm,), tuple(f"s{i}" for i in range(STATE)), ("1",) * STATE, dt=0.05)
    with EpisodeStore.create(folder / "store", spec) as store:
        for i in range(episodes):
            rewards = np.zeros(steps, np.float32)
            rewards[-1] = success = i % 2 == 0
            states = rng.standard_normal((steps + 1, STATE)).astype(np.float32)
            actions = rng.uniform(-1, 1, (steps, ACTION)).astype(np.float32)
            store.append(Episode(spec, states, {}, actions, rewards, success, not success, success))
        return open_cache(store, progress=False)


if __name__ == "__main__":
    main()
