"""Fill the result tables of README.md and docs/results/README.md from docs/results/*.json, so that no figure is typed.

python benchmarks/make_tables.py            # rewrite the tables
python benchmarks/make_tables.py --check    # exit code 1 where a page says something else than the files
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs" / "results" / "README.md")
BLOCK = re.compile(r"(<!-- (results|bench): (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing, only compare")
    check = parser.parse_args().check
    stale = [page for page in PAGES if page.read_text(encoding="utf-8") != filled(page)]
    for page in stale:
        if not check:
            page.write_text(filled(page), encoding="utf-8")
        print(f"{page.relative_to(ROOT)}: {'out of date; run benchmarks/make_tables.py' if check else 'rewritten'}")
    return int(check and bool(stale))


def filled(page: Path) -> str:
    """The page with every `<!-- results: path -->` and `<!-- bench: name -->` block made anew."""

    def block(match: re.Match[str]) -> str:
        if match[2] == "bench":
            found = json.loads((ROOT / "docs" / "results" / f"bench_{match[3]}.json").read_text(encoding="utf-8"))
            return match[1] + "\n".join(BENCHES[match[3]](found)) + "\n" + match[4]
        return match[1] + table(json.loads((ROOT / match[3]).read_text(encoding="utf-8"))) + match[4]

    return BLOCK.sub(block, page.read_text(encoding="utf-8"))


def table(results: dict[str, Any]) -> str:
    """Arms, differences and headroom of one results.json as Markdown."""
    against = {d["arm"]: d for d in results["differences"] if d["against"] == "base"}
    lines = ["| arm | success | 95 % interval | minus base | 95 % interval |", "|---|---|---|---|---|"]
    for name, arm in results["arms"].items():
        low, high = arm["ci95"]
        gap = against.get(name)
        difference = f"{gap['mean']:+.3f} | [{gap['ci95'][0]:+.3f}, {gap['ci95'][1]:+.3f}]" if gap else "| "
        bold = "**" if name == results["difference"]["arm"] else ""
        lines.append(f"| {bold}{name}{bold} | {arm['success']:.3f} | [{low:.3f}, {high:.3f}] | {difference} |")
    return "\n".join([*lines, "", *sentences(results), ""])


def sentences(results: dict[str, Any]) -> list[str]:
    seeds, recipe, machine = results["seeds"], results["recipe"], results["machine"]
    n, training = results["arms"][results["difference"]["arm"]]["n"], len(seeds["training"])
    parts = [
        f"`{results['task']}`: {n} episodes per arm ({training} training seed{'s' * (training > 1)} x test seeds "
        f"{seeds['test'][0]}-{seeds['test'][1]}), paired; recipe **{recipe['selector']}, N = {recipe['n']}**, chosen "
        f"on seeds {seeds['validation'][0]}-{seeds['validation'][1]}; {results['wall_seconds'] / 60:.1f} minutes on "
        f"{machine['cores']} cores, GPU: {machine['gpu'] or 'none'}."
    ]
    over = next((d for d in results["differences"] if (d["arm"], d["against"]) == ("softmax_average", "mean")), None)
    if over:
        low, high = over["ci95"]
        parts.append(f"softmax_average minus the critic-free mean: {over['mean']:+.3f} [{low:+.3f}, {high:+.3f}].")
    room = results["headroom"]
    if room:
        parts.append(
            f"Headroom, steered policy going on ({room['n_episodes']} episodes, {room['points']} decisions each, "
            f"{room['rollouts']} rollouts per candidate): first candidate {room['base']:.2f}, chosen "
            f"{room['selector']:.2f}, best of {room['candidates']} {room['oracle']:.2f} (chosen and valued on "
            f"different rollouts) or {room['oracle_without_split']:.2f} (on the same, too high)."
        )
    return [" ".join(parts)]


def act(found: dict[str, Any]) -> list[str]:
    lines = ["| networks | best of 1 | 8 | 32 | 128 | best-of-32 / best-of-1 |", "|---|---|---|---|---|---|"]
    for row in found["sizes"]:
        ms = " | ".join(f"{row['latency'][n]['ms']:.1f} ms" for n in ("1", "8", "32", "128"))
        lines.append(f"| {row['size']} | {ms} | {with_interval(row, 'ratio')}, at most {found['gate']:g} wanted |")
    return lines


def training(found: dict[str, Any]) -> list[str]:
    peak = " and ".join(f"{x:.0f}" for x in found["peak_gflops"])
    lines = [f"Matrix products peak at {peak} GFLOP/s before and after.", ""]
    lines += ["| model | updates/s | share of the peak |", "|---|---|---|"]
    for row in found["rows"]:
        share = "no verdict" if row["share_of_peak"] is None else f"{row['share_of_peak']:.0%}"
        lines.append(f"| {row['name']} | {row['updates_per_s']:.0f} | {share} |")
    return lines


def simulation(found: dict[str, Any]) -> list[str]:
    lines = ["| task | plain robosuite, steps/s | ours | ratio | physics |", "|---|---|---|---|---|"]
    for row in found["rows"]:
        if "plain_steps_per_s" in row:  # other rows are fleets, whose rates depend on the cores
            same = "identical" if row["bit_identical"] else "DIFFERENT"
            rates = f"{row['plain_steps_per_s']:.0f} | {row['ours_steps_per_s']:.0f}"
            lines.append(f"| {row['task']} | {rates} | {with_interval(row, 'ratio')} | {same} |")
    return lines


def sampling(found: dict[str, Any]) -> list[str]:
    readers = ("zarr", "h5py", "lerobot")
    lines = [
        "| data | samples/s | of index_select, all tensors | of index_select, observation + chunk + next only | "
        + " | ".join(f"{reader}, per sample" for reader in readers)
        + " |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        rates, lean = row["samples_per_s"], row["windows_ratio"]
        others = " | ".join(f"{rates[reader]:.0f}" for reader in readers)
        lines.append(
            f"| {row['name']} | {rates['sampler']:.0f} | {with_interval(row, 'ratio')} | {lean[0]:.2f} | {others} |"
        )
    return lines


def experts(found: dict[str, Any]) -> list[str]:
    lines = ["| task | successes | rate | median steps |", "|---|---|---|---|"]
    for row in found["rows"]:
        lines.append(
            f"| {row['task']} | {row['successes']}/{row['episodes']} | {with_interval(row, 'success')} "
            f"| {row['steps_median']:g} |"
        )
    return lines


def ablation(found: dict[str, Any]) -> list[str]:
    lines = ["| default | on | off | difference | 95 % interval | n |", "|---|---|---|---|---|---|"]
    for name, row in found["rows"].items():
        gap = row["difference"]
        lines.append(
            f"| {name} | {row['on']['success']:.2f} | {row['off']['success']:.2f} | {gap['mean']:+.2f} | "
            f"[{gap['ci95'][0]:+.2f}, {gap['ci95'][1]:+.2f}] | {row['on']['n']} |"
        )
    return lines


def with_interval(row: dict[str, Any], name: str) -> str:
    return f"{row[name]:.2f} [{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}]"


BENCHES = {
    "act": act,
    "training": training,
    "simulation": simulation,
    "sampling": sampling,
    "experts": experts,
    "ablation": ablation,
}

if __name__ == "__main__":
    sys.exit(main())
