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
BLOCK = re.compile(r"(<!-- results: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


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
    """The page with every `<!-- results: path -->` block made anew."""

    def block(match: re.Match[str]) -> str:
        return match[1] + table(json.loads((ROOT / match[2]).read_text(encoding="utf-8"))) + match[3]

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


if __name__ == "__main__":
    sys.exit(main())
