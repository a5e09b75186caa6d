"""A result of `bench_steering` as Markdown: harm, every arm by pair, headroom, and success by N."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Result = Mapping[str, Any]


def steering(found: Result) -> list[str]:
    return [*_about(found), "", *_harm(found), "", *_arms(found), "", *_headroom(found), "", *_by_n(found)]


def _about(found: Result) -> list[str]:
    p, machine = found["protocol"], found["machine"]
    missing = [f"{row['pair']}: {', '.join(row['missing'])}" for row in found["rows"] if row["missing"]]
    missing += [f"{pair}: all" for pair in found["unfinished"]]
    n = p["training_seeds"]
    return [
        f"{len(found['rows'])} pairs, {n} training seed{'s' * (n > 1)} each. Recipe everywhere: {p['selector']}, N = "
        f"{p['n']}, temperature {p['temperature']:g}. Gates calibrated on seeds {p['validation_seed']} to "
        f"{p['validation_seed'] + p['validation_episodes'] - 1}; figures from seeds {p['test_seed']} to "
        f"{p['test_seed'] + p['test_episodes'] - 1}, of the table of arms from {p['table_seed']} to "
        f"{p['table_seed'] + p['table_episodes'] - 1}. "
        f"{machine['cores']} cores, GPU: {machine['gpu'] or 'none'}."
        + (f" Not finished: {'; '.join(missing)}." if missing else "")
    ]


def _harm(found: Result) -> list[str]:
    """One row per pair and critic."""
    lines = _head("pair", "critic", "n", "base", "ungated - base", "gated - base", "abstained", "non-inferior (Holm p)")
    for row in found["do_no_harm"]["rows"]:
        cells = [row["pair"], CRITICS[row["critic"]], str(row["n"]), f"{row['base']['success']:.3f}"]
        cells += [_ungated(row), _gap(row["gated"]), f"{row['gated']['abstained']:.0%}"]
        lines.append(_line([*cells, f"{'yes' if row['noninferior'] else '**no**'} ({row['p_holm']:.4f})"]))
    margin, harm = found["do_no_harm"]["margin"], found["do_no_harm"]["rows"]
    gains = [row for row in harm if row["share_of_gain_kept"] is not None]
    kept = [row for row in gains if row["share_of_gain_kept"] >= 0.5]
    safe = sum(row["noninferior"] for row in harm)
    return [
        *lines,
        "",
        f"Margin {100 * margin:g} points: {safe} of {len(harm)} shown non-inferior. Where the ungated gain is "
        f"significant ({len(gains)} of {len(harm)}), the gate keeps at least half of it in {len(kept)}.",
    ]


CRITICS = {"main": "its own", "shuffled": "shuffled rewards", "other": "another task's"}


def _arms(found: Result) -> list[str]:
    rows = [row for row in found["rows"] if "table" not in row["missing"]]
    if not rows:
        return ["No table yet."]
    lines = _head("arm", *(row["pair"] for row in rows), "mean - base", "ms")
    for name in (name for name in rows[0]["arms"] if name != "gated"):  # it has a table of its own
        arms = [row["arms"][name] for row in rows]
        cells = [f"{_marked(arm)}{arm['success']:.2f}" for arm in arms]
        gaps = [arm["minus_base"]["mean"] for arm in arms if arm["minus_base"]]
        ms = [sum(row["latency_ms"][name].values()) for row in rows if name in row["latency_ms"]]
        mean = f"{sum(gaps) / len(gaps):+.3f}" if gaps else ""
        lines.append(_line([name, *cells, mean, f"{sum(ms) / len(ms):.1f}" if ms else ""]))
    n = rows[0]["arms"]["random"]["n"]
    whole = rows[0]["arms"]["base"]["n"]
    return [
        *lines,
        "",
        f"n = {n} per cell, {whole} for base; + and - mark a 95 % interval of the difference to base, paired on the "
        f"cell's {n} seeds, that excludes 0; ms: one robot's decision.",
    ]


def _marked(arm: Result) -> str:
    gap = arm["minus_base"]
    if not gap or gap["ci95"][0] <= 0 <= gap["ci95"][1]:
        return ""
    return "+ " if gap["mean"] > 0 else "- "


def _headroom(found: Result) -> list[str]:
    figures, least = ("base", "selector", "oracle", "pass_at_n"), found["recovered"].get("least_episodes", 0)
    lines = _head("pair", "episodes", "first", "recipe", "best of N", "pass@N", "recovered", "rank corr.", "regret")
    for row in found["rows"]:
        if room := row["headroom"]:
            cells = [row["pair"], str(room["n_episodes"]), *(f"{room[name]:.2f}" for name in figures)]
            known = room["recovered"] is not None and room["n_episodes"] >= least  # one episode's share is no figure
            cells.append(f"{room['recovered']:.2f} {_interval(room['ci95_recovered'])}" if known else "")
            cells.append("" if room["rank_correlation"] is None else f"{room['rank_correlation']:.2f}")
            lines.append(_line([*cells, f"{room['regret']:.2f}"]))
    r = found["recovered"]
    few = r["too_few_episodes"]
    if r["mean"] is None:
        why = f"; {len(few)} pairs have fewer than {r['least_episodes']} episodes" if few else ""
        known = f"No pair is known to have {100 * r['least_headroom']:g} points of headroom{why}"
        return [*lines, "", f"{known}: recovery is **not shown**."]
    verdict = "shown" if r["shown"] else "**not shown**"
    return [
        *lines,
        "",
        f"Mean recovered over the {len(r['pairs'])} pairs with at least {100 * r['least_headroom']:g} points of "
        f"headroom ({len(r['not_used_to_design'])} of them not used to design the recipe): {r['mean']:.2f} "
        f"{_interval(r['ci95'])}; goal {r['goal']:.2f}: {verdict}.",
    ]


def _by_n(found: Result) -> list[str]:
    rows = [row for row in found["rows"] if "success_by_n" in row]
    if not rows:
        return ["No curves yet."]
    counts = [point["candidates"] for point in rows[0]["success_by_n"]["recipe"]]
    lines = _head("pair", "way", *(f"N = {n}" for n in counts))
    for row in rows:
        for way, points in row["success_by_n"].items():
            lines.append(_line([row["pair"], way, *(f"{point['success']:.2f}" for point in points)]))
    n = rows[0]["success_by_n"]["recipe"][0]["n"]
    return [*lines, "", f"n = {n} per point, validation seeds."]


def _ungated(row: Result) -> str:
    if row["ungated"]:
        return _gap(row["ungated"])
    seen = row["ungated_on_validation"]
    return f"({sum(v['gain'] for v in seen) / len(seen):+.3f} on {sum(v['n'] for v in seen)} validation episodes)"


def _gap(gap: Result) -> str:
    return f"{gap['mean']:+.3f} [{gap['ci95'][0]:+.3f}, {gap['ci95'][1]:+.3f}]"


def _interval(ci95: list[float | None]) -> str:
    return "(no bound)" if None in ci95 else f"[{ci95[0]:.2f}, {ci95[1]:.2f}]"


def _head(*names: str) -> list[str]:
    return [_line(names), _line(["---"] * len(names))]


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"
