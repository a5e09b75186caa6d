"""What does a critic's training cost through a SmolVLA's eyes: looking at every batch, or once beside the data?

    python benchmarks/bench_features.py             # real layer shapes, random weights; needs 8 GB of RAM
    python benchmarks/bench_features.py --quick     # two thin layers: does it run, not how fast

Two episodes of random frames are encoded by `data features`; an IQL critic on the mean of the tokens is then updated
from what was written and, in turns, by running the frozen policy on the frames of every batch. No gate: a ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import tiny_lerobot as tiny
from bench_vla_best_of_n import TEXT, VISION
from blocks import Arm, interleave, median_ms, ratio
from recorded import make_episode

from robot_value.critics import iql
from robot_value.episodes.cache import open_cache
from robot_value.episodes.store import EpisodeStore
from robot_value.features.cached import RecordedEyes, find, read_features
from robot_value.features.run import encode_store
from robot_value.networks.observation import EncoderConfig
from robot_value.networks.policy_features import seen_through
from robot_value.normalize import fit_statistics
from robot_value.policies import lerobot_vla
from robot_value.provenance import provenance
from robot_value.results import plain, write_atomic
from robot_value.sampling import ChunkSampler
from robot_value.types import Camera

EPISODES, STEPS = 2, 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two thin layers")
    parser.add_argument("--batch", type=int, default=8, help="windows per update")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of torch; 0: its own choice")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/features.json"), help="result file")
    options = parser.parse_args()
    began = time.monotonic()
    torch.set_num_threads(options.threads or torch.get_num_threads())
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), options.quick, options.batch)
    result |= {"quick": options.quick, "batch": options.batch, "threads": torch.get_num_threads()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(options.out, json.dumps(plain(result | provenance(began)), indent=2) + "\n")
    print(f"written to {options.out}")


def measure(folder: Path, quick: bool, batch: int) -> dict[str, Any]:
    policy = build(folder / "smolvla", quick)
    store = recorded(folder / "data", policy.spec)
    done = encode_store(store, policy, batch_size=batch, progress=False)
    print(done.to_text(), flush=True)
    cache = open_cache(store, progress=False)
    features = read_features(store, find(store, policy.version, "mean"), cache)
    arms = {
        "written": updates(RecordedEyes(features), cache, batch, features),
        "looking": updates(policy, cache, batch),
    }
    interleave(arms, 0.0)
    per_s = {name: 1000 / median_ms(arm)["ms"] for name, arm in arms.items()}
    gain = ratio(arms["looking"], arms["written"])
    rates = f"{per_s['written']:.3g} from what was written, {per_s['looking']:.3g} looking"
    trusted = all(arm.trusted for arm in arms.values())
    busy = "" if trusted else " (the machine was busy)"
    print(f"updates of {batch} windows per s: {rates}; {gain[0]:.3g} times [{gain[1]:.3g}, {gain[2]:.3g}]{busy}")
    return {
        "parameters": sum(p.numel() for p in policy.parameters()),
        "ms_per_frame": 1000 * done.seconds / done.frames,
        "bytes_per_frame": done.nbytes / done.frames,
        "updates_per_s": per_s,
        "speedup": gain,
        "trusted": trusted,
    }


def build(folder: Path, quick: bool) -> lerobot_vla.LeRobotPolicy:
    """A random checkpoint, saved and loaded as a user's."""
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig

    text, vision, scale = (tiny.TEXT, tiny.VISION, 2) if quick else (TEXT, VISION, 4)
    pixels, given = vision["image_size"], tiny.features(("top",))
    given["input_features"]["observation.images.top"] = PolicyFeature(FeatureType.VISUAL, (3, pixels, pixels))
    config = SmolVLAConfig(
        **given,
        vlm_model_name=str(tiny.vlm(folder / "vlm", text, vision, scale)),
        load_vlm_weights=False,
        num_vlm_layers=text["num_hidden_layers"],
        resize_imgs_with_padding=(pixels, pixels),
        chunk_size=5,
        n_action_steps=5,
        device="cpu",
        push_to_hub=False,
    )
    tiny.save(config, folder)
    lerobot_vla.adopt(folder, replace(tiny.spec(), cameras=(Camera("top", pixels, pixels),)), {}, "vlm")
    return lerobot_vla.load(folder)


def recorded(folder: Path, spec: Any) -> EpisodeStore:
    """Random frames."""
    with EpisodeStore.create(folder, spec) as store:
        for i in range(EPISODES):
            store.append(make_episode(store.spec, STEPS, seed=i, task=tiny.SENTENCES[i % 2]))
    return EpisodeStore.open(folder)


def updates(policy: Any, cache: Any, batch: int, features: Any = None) -> Arm:
    """One update of a critic that sees through these eyes, on a new batch each time."""
    config = iql.Config(encoder=seen_through(EncoderConfig(source="policy", projection=(256,)), policy))
    critic = config.build(policy.spec, fit_statistics({"state": cache.state, "action": cache.action}))
    critic.attach(policy)
    shown = cache if features is None else replace(cache, images={})
    horizon, history = policy.spec.horizon, policy.spec.n_obs_steps
    sampler = ChunkSampler(shown, horizon, history, critic.offsets, batch_size=batch, features=features)
    return Arm(lambda: critic.update(sampler.sample()))


if __name__ == "__main__":
    main()
