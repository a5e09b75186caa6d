"""Whole updates of Q-chunking and QC-FQL, packed and plain, against their JAX reference in the same run.

An update is what one training step does: sample 256 windows, loss, gradients, clipping, Adam and averages of critic and
policy (4 x 512 each, 10 flow steps, 32 candidates for QC). The reference (github.com/ColinQiyangLi/qc, agents/acfql.py)
is given by path and runs in its own process and Python; all arms take turns in short blocks, and ratios are to the
faster of the references given. Shares of the machine's own matrix-product peak count only where the probes before and
after agree. Beside every speed stands what the arithmetic changes in the choice among candidates (critic_fidelity.py).

    python benchmarks/bench_critic_updates.py --quick                                       # ours only, about 2 minutes
    python benchmarks/bench_critic_updates.py --reference QC --reference-python PYTHON ...  # about 10 minutes
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

from bench_training import AGREE, count, peak
from blocks import Arm, interleave, median_ms, ratio
from critic_cases import CASES, PRECISIONS, WIDTH, Case, chosen, overheads, trained_fidelity, update_of
from critic_fidelity import structured_cache
from jax_process import JaxProcess

from robot_value.episodes.cache import Cache
from robot_value.networks.matmul import best_mode, matmul
from robot_value.networks.packed import DTYPES
from robot_value.provenance import provenance

PEAK_SHARE = 0.70  # goal: of the float32 peak, for QC in float32, at least


def main() -> None:
    options, started = parse(), time.monotonic()
    torch.set_num_threads(options.threads)
    mode, before = best_mode(options.threads), peaks()
    with tempfile.TemporaryDirectory() as folder, matmul(mode):
        cache = structured_cache(Path(folder))
        faithful = trained_fidelity(cache, 40 if options.quick else 300)
        rows = [measure(case, cache, options, faithful) for case in CASES[:: 2 if options.quick else 1]]
        overhead, auto = overheads(cache, Path(folder), 4 if options.quick else 20), chosen(cache)
    after = peaks()
    valid = all(abs(after[name] - before[name]) <= AGREE * max(after[name], before[name]) for name in before)
    add_shares(rows, {name: max(before[name], after[name]) for name in before}, valid)
    result = provenance(started) | {
        "threads": options.threads,
        "matmul": mode,
        "valid": valid,
        "fidelity": faithful,
        "auto": auto,
    }
    result |= {"peak_gflops": [before, after], "rows": rows, "overhead": overhead}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    report(result)
    print(f"written to {options.out}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="K = 2 only, fewer blocks")
    parser.add_argument("--seconds", type=float, default=None, help="time spent on each case, s")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads, on both sides")
    parser.add_argument("--reference", type=Path, default=None, help="checkout of the JAX reference")
    parser.add_argument(
        "--reference-python", nargs="*", default=[], help="its interpreters, e.g. pinned and newest jax"
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/critic_updates.json"), help="result file")
    options = parser.parse_args()
    if bool(options.reference) != bool(options.reference_python):
        parser.error("--reference and --reference-python: expected both or none")
    return options


# Against the reference ----------------------------------------------------------------------------------------------


def measure(case: Case, cache: Cache, options: argparse.Namespace, faithful: dict) -> dict:
    updates = {precision: update_of(case, cache, precision) for precision in PRECISIONS}
    flop = count(updates["off"])  # packed products are invisible to the counter, and as many
    with references(case, options) as processes:
        arms = {precision: Arm(update) for precision, update in updates.items()}
        arms |= {f"jax {p.version}": Arm(p.update, cpu=p.cpu_seconds) for p in processes}
        interleave(arms, options.seconds or (10 if options.quick else 80), block=0.5)
    theirs = [arm for name, arm in arms.items() if name not in PRECISIONS]
    row = {"name": case.name, "members": case.members, "flop_per_update": flop}
    row["arms"] = {name: median_ms(arm) | {"trusted": arm.trusted} for name, arm in arms.items()}
    if theirs:
        baseline = min(theirs, key=lambda arm: float(sorted(arm.seconds)[len(arm.seconds) // 2]))
        row["to_reference"] = {p: verdict(baseline, arms[p], case.goals.get(p)) for p in PRECISIONS}
    row["to_plain"] = {p: verdict(arms["off"], arms[p], None) for p in PRECISIONS[1:]}
    row["fidelity"] = {precision: faithful[precision] for precision in PRECISIONS[1:]}
    return row


@contextmanager
def references(case: Case, options: argparse.Namespace) -> Iterator[list[JaxProcess]]:
    processes = []
    try:
        for python in options.reference_python:
            where = python, options.reference, case.actor_type, case.members, options.threads
            processes.append(JaxProcess(*where))
        yield processes
    finally:
        for process in processes:
            process.close()


def verdict(slow: Arm, fast: Arm, goal: float | None) -> dict[str, float | bool | None]:
    """How many times as fast; a goal is passed where the interval's lower end reaches it, on clean blocks only."""
    middle, low, high = ratio(slow, fast)
    trusted = slow.trusted and fast.trusted
    passed = low >= goal if trusted and goal is not None else None
    return {"ratio": middle, "low": low, "high": high, "goal": goal, "passed": passed, "trusted": trusted}


# Peaks --------------------------------------------------------------------------------------------------------------


def peaks(seconds: float = 1.0) -> dict[str, float]:
    """GFLOP/s of the fastest products of this machine, by precision; packed ones included."""
    best = {"float32": peak(seconds) / 1e9, "bfloat16": 0.0}
    for name, dtype in DTYPES.items():
        for rows in (512, 2048):
            x, weight = torch.randn(rows, WIDTH).to(dtype), torch.randn(WIDTH, WIDTH).to(dtype)
            weight = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
            deadline = time.perf_counter() + seconds / 2
            while time.perf_counter() < deadline:
                start = time.perf_counter()
                torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
                best[name] = max(best[name], 2e-9 * rows * WIDTH**2 / (time.perf_counter() - start))
    return best


def add_shares(rows: list[dict], best: dict[str, float], valid: bool) -> None:
    """Each of our arms' share of its precision's peak; QC in float32 has a goal."""
    for row in rows:
        for precision in PRECISIONS:
            arm = row["arms"][precision]
            share = row["flop_per_update"] / (1e6 * arm["ms"]) / best["float32" if precision == "off" else precision]
            arm["share_of_peak"] = share if valid and arm["trusted"] else None
            if precision == "float32" and row["name"].startswith("QC best"):
                arm["passed"] = arm["share_of_peak"] and share >= PEAK_SHARE


def report(result: dict) -> None:
    print(f"{result['machine']['processor']}, {result['threads']} threads; peaks {result['peak_gflops']}")
    for row in result["rows"]:
        print(f"{row['name']}, K={row['members']}: {row['flop_per_update'] / 1e9:.1f} GFLOP per update")
        for name, arm in row["arms"].items():
            line = f"  {name}: {1e3 / arm['ms']:.2f} updates/s"
            if share := arm.get("share_of_peak"):
                line += f", {100 * share:.0f} % of the peak"
            if name in row.get("to_reference", {}):
                line += ", {ratio:.2f} [{low:.2f}, {high:.2f}] x JAX (goal {goal}: {passed})".format(
                    **row["to_reference"][name]
                )
            print(line + ("" if arm["trusted"] else "  (machine busy, no verdict)"))
    for precision, changes in result["fidelity"].items():
        print(f"fidelity {precision}: " + ", ".join(f"{k} {v}" for k, v in changes.items()))
    print("auto takes: " + ", ".join(f"{k} {v}" for k, v in result["auto"].items()))
    print("not products, of a QC-FQL update: " + ", ".join(f"{k} {v}" for k, v in result["overhead"].items()))


if __name__ == "__main__":
    main()
