"""Tables of docs/faults.md: what the guard was held to, and every fault, from the result files that there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

FILES = ("faults", "guard", "soak", "restarts", "lifecycle")  # docs/results/<name>.json
Found = Mapping[str, Mapping[str, Any] | None]


def goals(found: Found) -> list[str]:
    """A row per measure: what was asked for, what was measured; a file that is missing is "not run"."""
    lines = ["| measure | goal | measured |", "|---|---|---|"]
    rows = [row for name in FILES for row in (ROWS[name](found[name]) if found[name] else NOT_RUN[name])]
    return [*lines, *(f"| {measure} | {goal} | {value} |" for measure, goal, value in rows)]


def cases(faults: Mapping[str, Any] | None) -> list[str]:
    lines = ["| | fault | survived | reaction p50 / p99 / max, ms | bound, ms | without protection |", "|---" * 6 + "|"]
    return lines + [_case(row) for row in sorted(faults["faults"] if faults else [], key=_order)]


def _order(row: Mapping[str, Any]) -> tuple[int, str]:
    return int(row["id"][1:]), row["part"]


def _case(row: Mapping[str, Any]) -> str:
    name = f"{row['id']} {row['part']}".strip()
    times = "" if row["p50_ms"] is None else f"{row['p50_ms']:.0f} / {row['p99_ms']:.0f} / {row['max_ms']:.0f}"
    bound = "" if row["bound_ms"] is None else f"{row['bound_ms']:.0f}"
    control = {True: "fails", False: "SURVIVES", None: "not tried"}[row["control_fails"]]
    unseen = f", {row['not_seen']} not seen" if row.get("not_seen") else ""
    before = "".join(f"; before {each['passes']} of {each['trials']}" for each in row.get("earlier") or [])
    survived = f"{row['passes']} of {row['trials']}{unseen}{before}"
    return f"| {name} | {row['fault']} | {survived} | {times} | {bound} | {control} |"


def _faults(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    rows = found["faults"]
    survived = sum(row["passes"] == row["trials"] for row in rows)
    controls = sum(row["control_fails"] is True for row in rows)
    tried = sum(row["control_fails"] is not None for row in rows)
    least, trials = min(row["trials"] for row in rows), sum(row["trials"] for row in rows)
    failed = sum(row["trials"] - row["passes"] for row in rows)
    return [
        ("faults survived", "all, at least 20 trials each", f"{survived} of {len(rows)} cases in every trial"),
        ("", "", f"{failed} of {trials} trials failed, at least {least} a case"),
        ("controls that fail, as they must", "all", f"{controls} of {tried} tried, {len(rows)} cases"),
    ]


def _guard(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    rows = []
    if known := found.get("properties"):
        text = f"{known['violations']} of {known['commands']:,} commands, {known['cycles']:,} periods"
        rows.append(("commands out of limits or not finite, random inputs", "0 in 1,000,000 periods", text))
    for each in found.get("reactions", []):
        rows += [_reaction(each, name) for name in REACTIONS if name in each]
        rows += _interval(each) if "interval" in each else []
        checked = each["commands"]
        rows.append((f"commands out of limits, {each['load']}", "0", f"{checked['violations']} of {checked['n']:,}"))
    return rows


REACTIONS = {
    "state_source_killed": ("arm killed: last state to stop", "p99 70 ms, longest 100 ms"),
    "plan_source_killed": ("policy killed: end of the last plan to stop", "p99 70 ms, longest 100 ms"),
    "emergency_stop": ("emergency stop to stop", "p99 20 ms (idle), 40 ms (saturated), longest 60 ms"),
    "reset_to_running": ("reset to running", "5 s"),
}


def _reaction(each: Mapping[str, Any], name: str) -> tuple[str, str, str]:
    (label, goal), s = REACTIONS[name], each[name]
    return f"{label}, {each['load']}", goal, _both(s, _times)


def _interval(each: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    s, goal = each["interval"], "at most 0.1 % (idle), 1 % (saturated), none over 100 ms"
    label = f"intervals over 2 periods, {each['load']}"
    return [(label, goal, _both(s, _late)), ("the same of a process that only sleeps", "", _late(s["bare_sleeper"]))]


def _both(s: Mapping[str, Any], said: Callable[[Mapping[str, Any]], str]) -> str:
    """All of them; and, where the machine stood still at some, the others."""
    if not s["machine_stood_still"] or not s["otherwise"]:
        return said(s)
    return f"{said(s)}; without {s['machine_stood_still']} while the machine stood still {said(s['otherwise'])}"


def _times(s: Mapping[str, Any]) -> str:
    return f"p99 {s['p99_ms']:.0f} ms, longest {s['max_ms']:.0f} ms, n = {s['n']}"


def _late(s: Mapping[str, Any]) -> str:
    return f"{s['beyond']:.2%} of {s['n']:,}, longest {s['max_ms']:.0f} ms"


def _soak(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    slopes = ", ".join(f"{name} {value:+.2f}" for name, value in found["mb_per_hour"].items() if value is not None)
    recovered = f"{found['recovered']} of {found['faults']} in {found['minutes']:.0f} minutes"
    stops = f"{found['false_stops']} in {found['clean_seconds'] / 60:.0f} clean minutes"
    late = f"{found['interval_over_2_periods']:.3%} over 2 periods, longest {found['interval_max_ms']:.0f} ms"
    return [
        ("soak: faults recovered", "all", recovered),
        ("soak: dead nodes", "0", str(len(found["dead_nodes"]))),
        ("soak: false stops", "at most 1 an hour", stops),
        ("soak: memory, MB/h", "below 1", slopes),
        ("soak: intervals", "", late),
    ]


def _restarts(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    longest, off = found["reset_to_motion_s"]["max"], found["first_command_off_rad"]
    text = f"longest {longest:.2f} s, {off:.1e} rad, n = {found['trials']}"
    return [("guard killed and restarted: reset to motion, first command", "5 s, within 1e-3 rad", text)]


def _lifecycle(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    text = f"{len(found['illegal'])} illegal, {found['outside_active']} commands outside ACTIVE, n = {found['steps']:,}"
    return [("random transitions and services", "0 illegal states, 0 commands outside ACTIVE", text)]


Rows = Callable[[Mapping[str, Any]], list[tuple[str, str, str]]]
ROWS: dict[str, Rows] = {
    "faults": _faults,
    "guard": _guard,
    "soak": _soak,
    "restarts": _restarts,
    "lifecycle": _lifecycle,
}
NOT_RUN = {name: [(name, "", "not run")] for name in FILES}
