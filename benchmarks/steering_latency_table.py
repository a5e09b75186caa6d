"""docs/results/bench_steering_latency.json as Markdown."""

from __future__ import annotations

from typing import Any

VERDICTS = {True: "reached", False: "**missed**", None: "no verdict, the machine was busy"}


def table(found: dict[str, Any]) -> list[str]:
    millions, regret = found["parameters"]["policy"] / 1e6, found["halving_regret"]
    lines = [
        f"Policy of {millions:.1f}M parameters, {found['weights']} weights; {found['threads']} threads; "
        f"arithmetic chosen by measurement: {', '.join(f'{part} {way}' for part, way in found['precision'].items())}.",
        "",
        "| arm | ms per decision | encodes | chunks through the head |",
        "|---|---|---|---|",
    ]
    for name, row in found["latency"].items():
        counts = found["per_decision"].get(name, {"encodes": "", "rows": ""})
        ms = f"{row['ms']:.1f} [{row['ms_low']:.1f}, {row['ms_high']:.1f}]"
        lines.append(f"| {name} | {ms} | {counts['encodes']} | {counts['rows']} |")
    lines += ["", "| ratio | measured | goal | |", "|---|---|---|---|"]
    for row in found["goals"]:
        interval = f"{row['ratio']:.2f} [{row['ratio_low']:.2f}, {row['ratio_high']:.2f}]"
        lines.append(f"| {row['arm']} / {row['against']} | {interval} | {row['goal']:g} | {VERDICTS[row['passed']]} |")
    return [
        *lines,
        "",
        f"Halving against best-of-32 on the same noise: regret {regret['mean']:.2f} (at most {regret['max']:.2f}) "
        f"standard deviations over candidates, the same choice in {regret['same_choice']:.0%} of "
        f"{regret['decisions']} decisions. Packing moves candidates by at most {found['fidelity']['max_dx']:.0e} of a "
        f"range of 2 and leaves {found['fidelity']['same_choice']:.0%} of the choices as they are.",
    ]
