"""What do N candidates of a SmolVLA cost when they share one reading of the observation, instead of N?

    python benchmarks/bench_vla_best_of_n.py             # real layer shapes, random weights; some 25 minutes
    python benchmarks/bench_vla_best_of_n.py --quick     # two thin layers: does it run, not how fast

"shared" encodes once and denoises N chunks against the repeated keys and values (robot_value/policies/lerobot_smolvla);
"naive" is LeRobot's predict_action_chunk on the observation N times over, with the same noise. They take turns in one
process, at N = 8 for longer. Gate: shared is at least 2.5 times as fast at N = 8 (lower end of the interval), and reads
every picture once.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import tiny_lerobot as tiny
from blocks import Arm, interleave, median_ms, ratio

from robot_value.policies import lerobot_smolvla
from robot_value.policies.lerobot_noise import around
from robot_value.provenance import provenance
from robot_value.results import plain, write_atomic

GATE, GATE_N, CANDIDATES = 2.5, 8, (1, 4, 8, 16)
# SmolVLM2-500M as SmolVLA cuts it: 16 of its 32 language layers, SigLIP at 512 px, 64 tokens per picture
TEXT = {"hidden_size": 960, "intermediate_size": 2560, "num_hidden_layers": 16}
TEXT |= {"num_attention_heads": 15, "num_key_value_heads": 5, "head_dim": 64}
VISION = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
VISION |= {"image_size": 512, "patch_size": 16}
ACTION_DIM, STATE_DIM, TOKENS = 7, 8, 48


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two thin layers")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads of torch; 0: its own choice")
    parser.add_argument("--minutes", type=float, default=12, help="of turns at N = 8, what the gate asks for")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/vla_best_of_n.json"), help="result file")
    options = parser.parse_args()
    began = time.monotonic()
    torch.set_num_threads(options.threads or torch.get_num_threads())
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        policy = build(Path(folder), options.quick)
    parameters = sum(p.numel() for p in policy.parameters())
    print(f"SmolVLA of {parameters / 1e6:.1f}M parameters, {torch.get_num_threads()} threads", flush=True)
    minutes = 0 if options.quick else options.minutes
    rows = [compare(policy, n, 60 * minutes if n == GATE_N else 0) for n in CANDIDATES]
    result = verdict(rows, options.quick) | {"parameters": parameters, "threads": torch.get_num_threads(), "rows": rows}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(options.out, json.dumps(plain(result | provenance(began)), indent=2) + "\n")
    print(f"{result['verdict']}; written to {options.out}")


def build(folder: Path, quick: bool) -> Any:
    """A random policy, in evaluation mode."""
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
    from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy

    text, vision, scale = (tiny.TEXT, tiny.VISION, 2) if quick else (TEXT, VISION, 4)
    pixels = vision["image_size"]
    inputs = {"observation.state": PolicyFeature(FeatureType.STATE, (STATE_DIM,))}
    inputs["observation.images.top"] = PolicyFeature(FeatureType.VISUAL, (3, pixels, pixels))
    config = SmolVLAConfig(
        input_features=inputs,
        output_features={"action": PolicyFeature(FeatureType.ACTION, (ACTION_DIM,))},
        vlm_model_name=str(tiny.vlm(folder, text, vision, scale)),
        load_vlm_weights=False,
        num_vlm_layers=text["num_hidden_layers"],
        resize_imgs_with_padding=(pixels, pixels),
        device="cpu",
        push_to_hub=False,
    )
    return SmolVLAPolicy(config).float().eval()


def observed(policy: Any) -> dict[str, torch.Tensor]:
    """One observation as the preprocessor hands it on: one picture, a prompt of 48 tokens, the state."""
    height, width = policy.config.input_features["observation.images.top"].shape[1:]
    return {
        "observation.images.top": torch.rand(1, 3, height, width),
        "observation.state": torch.randn(1, STATE_DIM),
        "observation.language.tokens": torch.randint(8, 200, (1, TOKENS)),
        "observation.language.attention_mask": torch.ones(1, TOKENS, dtype=torch.bool),
    }


@torch.inference_mode()
def compare(policy: Any, n: int, seconds: float) -> dict[str, Any]:
    config, batch = policy.config, observed(policy)
    draws = torch.randn(1, n, config.chunk_size, ACTION_DIM)
    copies = {key: value.repeat_interleave(n, 0) for key, value in batch.items()}
    whole = around(draws, config.chunk_size, config.max_action_dim).flatten(0, 1)

    def shared() -> torch.Tensor:
        return lerobot_smolvla.sample(policy, lerobot_smolvla.encode(policy, batch), draws, None, None)[0]

    def naive() -> torch.Tensor:
        return policy.predict_action_chunk(dict(copies), noise=whole)

    context = lerobot_smolvla.encode(policy, batch)
    arms = {
        "shared": Arm(shared),
        "naive": Arm(naive),
        "encode": Arm(lambda: lerobot_smolvla.encode(policy, batch)),
        "denoise": Arm(lambda: lerobot_smolvla.sample(policy, context, draws, None, None)),
    }
    interleave(arms, seconds)
    speedup = ratio(arms["naive"], arms["shared"])
    row = {
        "n": n,
        "speedup": speedup,
        "trusted": arms["shared"].trusted and arms["naive"].trusted,
        "largest_difference": float((shared() - naive()).abs().max()),
        "pictures_encoded": {name: pictures(policy, arms[name].run) for name in ("shared", "naive")},
        "ms": {name: median_ms(arm) for name, arm in arms.items()},
    }
    times = "  ".join(f"{name} {row['ms'][name]['ms'] / 1e3:.3f} s" for name in arms)
    print(
        f"N = {n:2}: {times}  speedup {speedup[0]:.2f} [{speedup[1]:.2f}, {speedup[2]:.2f}]  largest difference "
        f"{row['largest_difference']:.1e}  pictures read {row['pictures_encoded']}",
        flush=True,
    )
    return row


def pictures(policy: Any, run: Any) -> int:
    """How many pictures the vision tower reads in one call."""
    seen: list[int] = []
    tower = policy.model.vlm_with_expert.get_vlm_model().vision_model
    hook = tower.register_forward_hook(lambda module, args, kwargs, out: seen.append(len(out[0])), with_kwargs=True)
    run()
    hook.remove()
    return sum(seen)


def verdict(rows: list[dict[str, Any]], quick: bool) -> dict[str, Any]:
    """PASS or FAIL on real shapes only."""
    row = next(row for row in rows if row["n"] == GATE_N)
    once = all(row["pictures_encoded"]["shared"] == 1 and row["largest_difference"] < 1e-5 for row in rows)
    if not once:
        said = "FAIL: candidates differ or a picture was read twice"
    elif quick:
        said = "quick: candidates agree and every picture was read once; no verdict on speed"
    elif not row["trusted"]:
        said = "NO VERDICT on speed, the machine was busy"
    else:
        said = "PASS" if row["speedup"][1] >= GATE else "FAIL"
    return {"gate": GATE, "gate_n": GATE_N, "verdict": said, "passed": {"PASS": True, "FAIL": False}.get(said[:4])}


if __name__ == "__main__":
    main()
