"""Fill the result tables of README.md, docs/results and docs/algorithms from docs/results/*.json: no figure is typed.

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

import online_table
import safety_table
from interventions_table import interventions
from ogbench_table import measured, ogbench
from steering_latency_table import table as steering_latency
from steering_study_table import steering

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"
FOLDERS = tuple(ROOT / "docs" / name for name in ("tutorials", "algorithms", "online", "replay", "steering"))
PAGES = (
    ROOT / "README.md",
    ROOT / "docs" / "faults.md",
    ROOT / "docs" / "lerobot.md",
    ROOT / "docs" / "serving.md",
    RESULTS / "README.md",
    *(page for folder in FOLDERS for page in sorted(folder.glob("*.md"))),
)
KINDS = "results|bench|ogbench|measured|online|steering|safety"
BLOCK = re.compile(rf"(<!-- ({KINDS}): (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


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
    """The page with every block (results, ogbench, steering: path; bench: name; measured: component) made anew."""

    def block(match: re.Match[str]) -> str:
        if match[2] == "measured":
            return match[1] + "\n".join(measured(match[3], _read(RESULTS / "ogbench.json"))) + "\n" + match[4]
        if match[2] == "safety":
            return match[1] + "\n".join(safety(match[3])) + "\n" + match[4]
        if match[2] == "bench":
            found = _read(RESULTS / f"bench_{match[3]}.json")
            return match[1] + "\n".join(BENCHES[match[3]](found)) + "\n" + match[4]
        if match[2] == "online":
            return match[1] + "\n".join(online_table.table(_read(ROOT / match[3]))) + "\n" + match[4]
        if match[2] == "steering":
            return match[1] + "\n".join(steering(_read(ROOT / match[3]))) + "\n" + match[4]
        found = _read(ROOT / match[3])
        return match[1] + ("\n".join(ogbench(found)) if match[2] == "ogbench" else table(found)) + match[4]

    return BLOCK.sub(block, page.read_text(encoding="utf-8"))


def safety(which: str) -> list[str]:
    """goals | cases"""
    files = {name: RESULTS / f"{name}.json" for name in safety_table.FILES}
    found = {name: _read(path) if path.exists() else None for name, path in files.items()}
    return safety_table.goals(found) if which == "goals" else safety_table.cases(found["faults"])


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


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
    readers = ("pool", "h5py", "tensorstore", "zarr", "lerobot")
    lines = [
        "| data | samples/s | of index_select, all tensors | of index_select, observation + chunk + next only | "
        + " | ".join("episode pool" if reader == "pool" else f"{reader}, per sample" for reader in readers)
        + " |",
        "|---" * (4 + len(readers)) + "|",
    ]
    for row in found["rows"]:
        rates, lean = row["samples_per_s"], row["windows_ratio"]
        others = " | ".join(f"{rates[reader]:.0f}" for reader in readers)
        lines.append(
            f"| {row['name']} | {rates['sampler']:.0f} | {with_interval(row, 'ratio')} | {lean[0]:.2f} | {others} |"
        )
    return lines


def conversion(found: dict[str, Any]) -> list[str]:
    rates, low, high = found["frames_per_s"], found["ratio_low"], found["ratio_high"]
    return [
        "| decoder alone | converting | of the decoder | appending alone |",
        "|---|---|---|---|",
        f"| {rates['decoder']:.0f} frames/s | {rates['convert']:.0f} | {found['ratio']:.2f} [{low:.2f}, {high:.2f}], "
        f"{'reached' if found['passed'] else 'missed'} {found['gate']:g} | {rates['append']:.0f} |",
    ]


def durability(found: dict[str, Any]) -> list[str]:
    lines = ["| what was done | trials | lost or unnoticed | rate below (95 %) |", "|---|---|---|---|"]
    for row in (*found["rows"], *found["controls"]):
        bound = f"{row['rate_below']:.4f}" if row["rate_below"] else ""
        lines.append(f"| {row['what']} | {row['trials']} | {row['losses']} | {bound} |")
    return lines


def vla_best_of_n(found: dict[str, Any]) -> list[str]:
    lines = [
        "| N | shared, s | naive, s | reading, s | denoising, s | naive / shared | pictures | largest difference |",
        "|---" * 8 + "|",
    ]
    for row in found["rows"]:
        seconds = " | ".join(f"{row['ms'][arm]['ms'] / 1e3:.2f}" for arm in ("shared", "naive", "encode", "denoise"))
        (mean, low, high), read = row["speedup"], row["pictures_encoded"]
        lines.append(
            f"| {row['n']} | {seconds} | {mean:.2f} [{low:.2f}, {high:.2f}] | {read['shared']} and {read['naive']} | "
            f"{row['largest_difference']:.1e} |"
        )
    size = f"SmolVLA of {found['parameters'] / 1e6:.0f} million parameters, {found['threads']} threads"
    return [*lines, "", f"{size}. Gate, {found['gate']:g} at N = {found['gate_n']}: {found['verdict']}."]


def features(found: dict[str, Any]) -> list[str]:
    (mean, low, high), per_s = found["speedup"], found["updates_per_s"]
    busy = "" if found["trusted"] else ", beside other work"
    size = f"SmolVLA of {found['parameters'] / 1e6:.0f} million parameters, {found['threads']} threads{busy}"
    return [
        "| reading a frame, once | kept of it | updates/s, looking at every batch | from what was written | ratio |",
        "|---" * 5 + "|",
        f"| {found['ms_per_frame'] / 1e3:.2f} s | {found['bytes_per_frame']:,.0f} bytes | {per_s['looking']:.3f} | "
        f"{per_s['written']:.1f} | {mean:,.0f} [{low:,.0f}, {high:,.0f}] |",
        "",
        f"{size}; an IQL critic on the mean of its tokens, {found['batch']} windows per update.",
    ]


def server(found: dict[str, Any]) -> list[str]:
    sent, kills = found["hostile"], found["kills"]
    (before, after), held = sent["memory_mb"], kills["held_seconds"]
    wrong, asked = sent["wrong_honest_answers"], sent["honest_answers"]
    return [
        "| what was done | n | crashes | executions of the canary | wrong answers | |",
        "|---|---|---|---|---|---|",
        f"| hostile requests | {sent['requests']:,} | {sent['crashes']} | {sent['executions']} | {wrong} of {asked} "
        f"honest ones in between | resident {before:.0f} MB before, {after:.0f} MB after |",
        f"| SIGKILLs with a robot at work | {kills['kills']} | | | {kills['wrong_decisions']} of "
        f"{kills['decisions']:,} decisions | the robot held for {held['median']:.1f} s, at most {held['max']:.1f} s |",
    ]


def online_overhead(found: dict[str, Any]) -> list[str]:
    speed, books, cores = found["speed"], found["bookkeeping"], found["cores"]
    low, high = speed["ci95"]
    return [
        "| what | goal | measured |",
        "|---|---|---|",
        f"| updates/s beside the robot, of the learner alone | at least {speed['goal']:g} | {speed['of_alone']:.2f} "
        f"[{low:.2f}, {high:.2f}] |",
        f"| bookkeeping | at most {books['goal']:.0%} of the wall time | {books['share']:.1%} |",
        f"| cores busy | at least {cores['goal']:g} of {found['machine']['cores']} | {cores['busy']:.2f} |",
        "",
        f"`{found['algorithm']}` on Lift, {found['rounds']} rounds; the robot worked during {found['overlapped']:.0%} "
        f"of the learning; {found['updates_per_second']['beside']:.0f} updates/s.",
    ]


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


ARITHMETIC = {"off": "float32", "float32": "float32, packed", "bfloat16": "bfloat16 candidates"}


def critic_updates(found: dict[str, Any]) -> list[str]:
    head = "update | arithmetic | updates/s | times the faster JAX | times plain | of peak | argmax kept | mean regret"
    lines = [f"| {head} |", "|---|---|---|---|---|---|---|---|"]
    for row in found["rows"]:
        for precision, arm in row["arms"].items():
            share, changes = arm.get("share_of_peak"), row["fidelity"].get(precision, {})
            cells = [
                f"{row['name']}, K = {row['members']}",
                {"off": "float32", "float32": "float32, packed", "bfloat16": "bfloat16 candidates"}.get(
                    precision, precision
                ),
                f"{1e3 / arm['ms']:.2f}",
                _ratio(row.get("to_reference", {}).get(precision)),
                _ratio(row["to_plain"].get(precision)),
                f"{share:.0%}" if share else "",
                f"{changes['argmax_agreement']:.3f}" if changes else "",
                f"{changes['mean_regret']:.4f}" if changes else "",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def ope(found: dict[str, Any]) -> list[str]:
    """Per policy over its logs; then the two figures that were asked for."""
    lines = [
        "| policy | rolled out | estimate (mean over logs) | intervals that hold | support |",
        "|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(row["policy"] for row in found["rows"]):
        rows = [row for row in found["rows"] if row["policy"] == name]
        estimate, support = (sum(row[key] for row in rows) / len(rows) for key in ("estimate", "support"))
        held = f"{sum(row['held'] for row in rows)}/{len(rows)}"
        lines.append(f"| {name} | {rows[0]['truth']:.2f} | {estimate:.2f} | {held} | {support:.2f} |")
    rank, held, allowing = found["spearman"], found["coverage"], found["coverage_allowing_for_error_of_truth"]
    said = (
        f"Spearman {_interval(rank)} over {rank['policies']} policies (asked for: 0.8). 95 % intervals hold the "
        f"rolled-out rate in {_interval(held)} of {held['n']} (0.9), in {_interval(allowing)} where the rolled-out "
        f"rate's own error is allowed for. Mean absolute error {found['mean_absolute_error']:.2f}."
    )
    return [*lines, "", said]


def _interval(found: dict[str, Any]) -> str:
    return f"{found['mean']:.2f} [{found['ci95'][0]:.2f}, {found['ci95'][1]:.2f}]"


def planted_bugs(found: dict[str, Any]) -> list[str]:
    """Precision / recall per log and bug; held-out logs first, those of the round before last."""
    rows = [(row, "held out" if row["held_out"] else "development") for row in found["rows"]]
    rows.sort(key=lambda labelled: labelled[1] != "held out")
    rows += [(row, "held out in round 1") for row in found["earlier"]["rows"]] if found["earlier"] else []
    bugs = list(dict.fromkeys(row["bug"] for row, _ in rows))
    heads = ["log", *("none: warnings per 100 episodes" if bug == "none" else bug for bug in bugs)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for log, label in dict.fromkeys((row["log"], label) for row, label in rows):
        cells = {row["bug"]: _found(row) for row, of in rows if (row["log"], of) == (log, label)}
        lines.append(f"| {' | '.join([f'{log}, {label}', *(cells.get(bug, '') for bug in bugs)])} |")
    return lines


def _found(row: dict[str, Any]) -> str:
    """Bold where it is less than was asked."""
    if row["bug"] == "none":
        text = f"{row['per_100']:.1f}"
    else:
        text = " / ".join(f"{row[name]['mean']:.2f}" if row[name] else "-" for name in ("precision", "recall"))
    return text if row["passed"] else f"**{text}**"


def _ratio(verdict: dict[str, Any] | None) -> str:
    """ "1.10 [1.08, 1.12], missed 1.2": a goal is reached by the lower end, on undisturbed blocks only."""
    if verdict is None:
        return ""
    text = f"{verdict['ratio']:.2f} [{verdict['low']:.2f}, {verdict['high']:.2f}]"
    if not verdict["trusted"]:
        return f"{text}, no verdict"
    if verdict["goal"] is None:
        return text
    return f"{text}, {'reached' if verdict['passed'] else 'missed'} {verdict['goal']:g}"


def with_interval(row: dict[str, Any], name: str) -> str:
    return f"{row[name]:.2f} [{row[f'{name}_low']:.2f}, {row[f'{name}_high']:.2f}]"


BENCHES = {
    "act": act,
    "training": training,
    "simulation": simulation,
    "sampling": sampling,
    "conversion": conversion,
    "durability": durability,
    "experts": experts,
    "planted_bugs": planted_bugs,
    "ope": ope,
    "ablation": ablation,
    "critic_updates": critic_updates,
    "steering_latency": steering_latency,
    "vla_best_of_n": vla_best_of_n,
    "features": features,
    "interventions": interventions,
    "server": server,
    "online_overhead": online_overhead,
}

if __name__ == "__main__":
    sys.exit(main())
