"""Is a replay bound by its models? Share of a pass's wall time that is not theirs, and the time of a whole command.

A low-dimensional set of Lift's shape (19 states, 7 actions, episodes of 30 to 64 steps) is made and kept, with the
demo's flow policy and iql critic (N = 16); weights do not matter here, so both are trained for a few steps. The pass is
timed on the first 300 episodes with nobody else looking; the models' own stages are encode, sample, score and "score
all" (the critic's opinion of what was executed). The whole command, page, tables and every diagnosis included, is timed
on all 1,000 episodes. Gates: at most 10 % of the pass is not the models', at most 180 s for the command on 2 cores.

    python benchmarks/bench_replay.py            # about 5 minutes
    python benchmarks/bench_replay.py --quick    # about 1 minute, 40 episodes
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from robot_value import cli
from robot_value.arms import MAIN
from robot_value.episodes.store import EpisodeStore
from robot_value.evaluate import Arm
from robot_value.playing import Models
from robot_value.replay import run
from robot_value.replay.logs import Ahead, Opener
from robot_value.replay.replayed import Replayed
from robot_value.scenarios import LIFT
from robot_value.types import ActionPart, Episode, Spec

SHARE, SECONDS = 0.10, 180.0  # gates
STATE, ACTION, SHORTEST, LIMIT = 19, 7, 30, 64
PASS = 300  # episodes that the pass is timed on
MODELS = ("encode", "sample", "score", "score all")  # stages of the networks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="40 episodes")
    parser.add_argument("--episodes", type=int, default=1000, help="episodes of the whole command")
    parser.add_argument("--workers", type=int, default=1, help="processes that read episodes")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of torch; 0: all cores but the readers'")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/replay.json"), help="result file")
    options = parser.parse_args()
    episodes = 40 if options.quick else options.episodes
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(options.threads or max(1, cores - options.workers))
    folder = options.out.parent / f"replay_{episodes}"
    make(folder, episodes)
    share = time_pass(folder, min(PASS, episodes), options.workers)
    whole = time_command(folder, options.workers)
    passed = share["not_the_models"] <= SHARE and whole["seconds"] * 1000 / episodes <= SECONDS
    machine = {"cores": cores, "threads": torch.get_num_threads(), "workers": options.workers, "load": os.getloadavg()}
    gates = {"not_the_models": SHARE, "seconds_per_1000_episodes": SECONDS}
    result = {"gates": gates, "passed": passed, "episodes": episodes, **machine, "pass": share, "command": whole}
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"pass: {share['not_the_models']:.1%} of {share['seconds']:.1f} s is not the models'")
    print(f"command: {whole['seconds']:.1f} s for {episodes} episodes")
    print(f"{'PASS' if passed else 'FAIL'}; written to {options.out}")


def make(folder: Path, episodes: int) -> None:
    """Store, policy and critic in `folder`, unless a whole one is there."""
    if (folder / "made").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    with record(folder / "store", episodes):
        pass
    quick = ["--training.steps=20", "--training.progress=false", "--training.tensorboard=false"]
    for which, part in (("policy", LIFT.policy), ("critic", LIFT.critic)):
        flags = [*part.flags(which), f"--training.folder={folder / which}", f"--windowing.horizon={LIFT.horizon}"]
        if cli.main(["train", f"--data={folder / 'store'}", *flags, *quick]):
            sys.exit(f"the {which} could not be trained")
    (folder / "made").touch()


def record(path: Path, episodes: int) -> EpisodeStore:
    """Slow random walks, half of which end in a success."""
    arm = ActionPart("arm", 0, ACTION, "joint", "rad", (-1.0,) * ACTION, (1.0,) * ACTION)
    names, units = tuple(f"s{i}" for i in range(STATE)), ("m",) * STATE
    spec = Spec(parts=(arm,), state_names=names, state_units=units, dt=0.05)
    rng, store = np.random.default_rng(0), EpisodeStore.create(path, spec)
    for seed in range(episodes):
        success = bool(seed % 2)
        steps = int(rng.integers(SHORTEST, LIMIT)) if success else LIMIT
        states = np.cumsum(rng.normal(0, 0.02, (steps + 1, STATE)), 0).astype(np.float32)
        rewards = np.zeros(steps, np.float32)
        rewards[-1] = success
        store.append(
            Episode(
                spec=spec,
                states=states,
                images={},
                actions=rng.uniform(-1, 1, (steps, ACTION)).astype(np.float32),
                rewards=rewards,
                terminated=success,
                truncated=not success,
                success=success,
                provenance={"seed": seed},
            )
        )
    return store


def job_of(folder: Path, episodes: int | None, workers: int) -> run.Job:
    opener = Opener(str(folder / "store"))
    return run.Job(
        opener,
        tuple(opener().names()[:episodes]),
        Models(0, folder / "policy", {MAIN: folder / "critic"}),
        Arm("steered", "softmax_average", {"temperature": 0.5}, 16, critic=MAIN),
        workers=workers,
    )


def time_pass(folder: Path, episodes: int, workers: int) -> dict:
    """Wall time by stage, of a pass that nobody else looks at."""
    job, parts = job_of(folder, episodes, workers), folder / "parts"
    shutil.rmtree(parts, ignore_errors=True)
    log = Ahead.of(job.opener(), job.names, job.batch_size, job.opener, workers)
    with closing(log):
        log.read(job.names[0])  # the reader has started: that is not the pass
        found = run.play(job, log, parts, progress=False).replayed
    return stages(found)


def stages(found: Replayed) -> dict:
    seconds = dict(found.seconds)
    total, models = seconds.pop("total"), sum(found.seconds[name] for name in MODELS)
    seconds["reading and the rest"] = total - sum(seconds.values())
    return {"seconds": total, "not_the_models": 1 - models / total, "decisions": len(found), "stages": seconds}


def time_command(folder: Path, workers: int) -> dict:
    """Everything after the models' checkpoints: pass with onlookers, diagnoses, page and tables."""
    out = folder / "replay"
    shutil.rmtree(out, ignore_errors=True)
    began = time.perf_counter()
    made = run.write(job_of(folder, None, workers), out, progress=False)
    seconds = time.perf_counter() - began
    page = sum(path.stat().st_size for path in out.rglob("*") if path.is_file() and ".parts" not in path.parts)
    passed = json.loads((out / "results.json").read_text())["seconds"]
    return {"seconds": seconds, "pass": passed, "files": [path.name for path in made], "megabytes": page / 1e6}


if __name__ == "__main__":
    main()
