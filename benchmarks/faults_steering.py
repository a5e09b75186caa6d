"""Faults of cameras, policy, critic and checkpoints: the real steering node, whose models misbehave on order."""

from __future__ import annotations

import signal
import time
from typing import Any

import numpy as np
from faults_case import Graph, expect
from faults_proxy import changed, dropped, frozen
from faults_rig import SECOND
from faults_steering_rig import EXECUTE, HORIZON, SteeringRig, copied, refused
from ros_graph import until

from robot_value import wire

IMAGE_AGE = 0.2  # s, of the topic file
CHUNK = HORIZON * 0.05  # s
SLACK = 60.0  # ms: a period of the guard, one of the arm, and transport


def ns() -> int:
    return time.monotonic_ns()


def camera_stops(rig: SteeringRig, rng: np.random.Generator) -> float:
    """At most the chunk that was decided on fresh pictures is finished; nothing is decided without."""
    rig.phase(rng)
    rig.images.rule = dropped
    last = rig.images.last
    reaction = not_before(rig, last, IMAGE_AGE, rig.stopped(last, timeout=3.0))
    blind = last + round((IMAGE_AGE + 0.05) * SECOND)
    late = [at for at, _ in rig.chosen(blind + SECOND // 10)]
    expect(not late, f"{len(late)} decisions without a fresh picture")
    rig.images.rule = lambda message: [(0.0, message)]
    back = ns()
    until(lambda: rig.moving(back), 5.0, "motion when the camera is back")
    return reaction


def camera_frozen(rig: SteeringRig, rng: np.random.Generator) -> float:
    """The same pixels with new stamps: a warning, then a stop."""
    rig.phase(rng)
    since = ns()
    rig.images.rule = frozen()
    reaction = not_before(rig, since, 0.9, rig.stopped(since, timeout=4.0))
    rig.warned(since, "equal pictures")
    return reaction


def wrong_frames(rig: SteeringRig, rng: np.random.Generator) -> float:
    """Another encoding, or half a picture: refused and counted, as if the camera had stopped."""
    short = rng.random() < 0.5

    def spoil(message: Any) -> None:
        if short:
            message.data = message.data[: len(message.data) // 2]
        else:
            message.encoding = "bgr8"

    rig.phase(rng)
    last = rig.images.last
    rig.images.rule = changed(spoil)
    reaction = not_before(rig, last, IMAGE_AGE, rig.stopped(last, timeout=3.0))
    rig.warned(last, "refused /front/image_raw")
    return reaction


def some_nan(rig: SteeringRig, rng: np.random.Generator) -> None:
    """Half of the candidates are NaN: the others compete, the arm moves on."""
    rig.order(policy="nan_some")
    since = ns() + SECOND // 10
    time.sleep(0.8)
    decisions = [d for _, d in rig.chosen(since) if np.isnan(d.candidates).any()]  # made after the order
    expect(len(decisions) >= 2, f"{len(decisions)} decisions; {rig.steering.said[-300:]}")
    expect(all(int(d.index[0]) % 2 == 1 and np.isfinite(d.chunk).all() for d in decisions), "NaN was chosen")
    reasons = {d.reason[0] for d in decisions}
    expect(reasons == {"chosen"}, f"expected a choice among the finite ones, got {reasons}")
    rig.undisturbed(since)


def all_nan(rig: SteeringRig, rng: np.random.Generator) -> None:
    """Every candidate is NaN: the arm stops when its plan ends, the node lives."""
    since = ns()
    rig.order(policy="nan")
    rig.stopped(since, timeout=2.0)
    rig.warned(since, "finite chunk")
    expect(rig.steering.popen.poll() is None, "the process ended")


def critic_nan(rig: SteeringRig, rng: np.random.Generator) -> None:
    """No finite score: the plain policy acts, with a warning; some: they compete."""
    for word, wanted in (("nan_some", "chosen"), ("nan", "critic_fallback")):
        rig.order(critic=word)
        since = ns() + SECOND // 10
        time.sleep(0.8)
        decisions = [d for _, d in rig.chosen(since) if np.isnan(d.value).any()]  # made after the order
        expect(decisions and all(d.reason == (wanted,) for d in decisions), f"{word}: {[d.reason for d in decisions]}")
        if word == "nan_some":
            expect(all(int(d.index[0]) % 2 == 1 for d in decisions), "a candidate without a score was chosen")
        rig.undisturbed(since)
    rig.warned(since, "critic_fallback")


def decides_by(rig: SteeringRig, reason: str, **order: str) -> int:
    """Under this order every decision has this reason; since when (ns)."""
    rig.order(**order)
    since = ns() + SECOND // 10
    time.sleep(0.7)
    decisions = [decision for _, decision in rig.chosen(since)][1:]  # the first may have been under way
    expect(decisions and all(d.reason == (reason,) for d in decisions), f"{[d.reason for d in decisions]}")
    return since


def critic_constant(rig: SteeringRig, rng: np.random.Generator) -> None:
    """All candidates alike: the plain policy acts, with a warning."""
    since = decides_by(rig, "low_spread", critic="constant")
    rig.warned(since, "low_spread")


def slow_inference(rig: SteeringRig, rng: np.random.Generator) -> float:
    """Thinking takes 1 s or 2 s: the plan ends, the arm stops; the late chunk is not followed; it goes on after."""
    rig.phase(rng)
    since = ns()
    rig.order(policy=f"sleep {float(rng.choice([1.0, 2.0]))}")
    stopped = rig.first(wire.STOP, since, 2.0)
    rig.order()
    end = rig.plan_ends(before=stopped.ns)
    finished(rig, since, stopped.ns, end)
    until(lambda: rig.moving(stopped.ns), 8.0, lambda: f"motion afterwards, got {rig.said}")
    return max(0.0, (stopped.ns - end) * 1e-6)


def network_fails(rig: SteeringRig, rng: np.random.Generator) -> None:
    """With many candidates, as out of memory: one is asked for instead. With one too: stop, the node lives."""
    since = decides_by(rig, "error_fallback", policy="raise_many")
    rig.undisturbed(since)
    since = ns()
    rig.order(policy="raise")
    rig.stopped(since, timeout=2.0)
    rig.warned(since, "RuntimeError")
    expect(rig.steering.popen.poll() is None, "the process ended")


def killed(rig: SteeringRig, rng: np.random.Generator) -> float:
    """SIGKILL: what was decided is finished, then the arm stops; the next process waits for an episode."""
    rig.phase(rng)
    rig.steering.popen.kill()
    rig.steering.popen.wait()
    dead = ns()
    end = rig.plan_ends(before=dead)
    stopped = rig.first(wire.STOP, dead, 2.0)
    finished(rig, dead, stopped.ns, end)
    rig.steering = rig.start_steering()
    rig.graph.wait_state(rig.steering, timeout=60.0)
    time.sleep(0.3)
    expect(not rig.by(wire.POLICY, stopped.ns + SECOND // 10), "moved without an episode")
    return max(0.0, (stopped.ns - end) * 1e-6)


def deactivated(rig: SteeringRig, rng: np.random.Generator) -> float:
    """While it thinks: returns at once, and what it was thinking is not sent."""
    rig.order(policy="sleep 0.3")
    time.sleep(0.15 + float(rng.uniform(0, 0.3)))
    since = ns()
    expect(rig.graph.change("steering", "deactivate"), "deactivate was refused")
    done = ns()
    time.sleep(0.7)
    late = rig.planned.since(done + 5_000_000)
    expect(rig.graph.change("steering", "activate"), "activate was refused")
    expect(not late, f"{len(late)} plans after deactivate")
    return (done - since) * 1e-6


def paused(rig: SteeringRig, rng: np.random.Generator) -> None:
    """SIGSTOP for 2 s: the arm stops; what is sent afterwards was made from new inputs."""
    rig.phase(rng)
    since = ns()
    rig.steering.send(signal.SIGSTOP)
    try:
        rig.stopped(since, timeout=1.5)
        time.sleep(1.5)
    finally:
        resumed = ns()
        rig.steering.send(signal.SIGCONT)
    until(lambda: rig.moving(resumed), 8.0, lambda: f"motion afterwards, got {rig.said}")


def finished(rig: SteeringRig, since: int, stopped: int, end: int) -> None:
    """The plan was played to its `end` (ns): an earlier stop has another cause."""
    if stopped < end - SECOND // 20:
        rig.calm(since)
        expect(False, f"stopped {(end - stopped) * 1e-6:.0f} ms before the plan had ended: {rig.said}")


def not_before(rig: SteeringRig, since: int, seconds: float, reaction: float) -> float:
    """A stop that comes earlier than this fault can cause has another cause."""
    if reaction < seconds * 1e3:
        rig.calm(since)
    expect(reaction >= seconds * 1e3, f"stopped after {reaction:.0f} ms already: {rig.said}")
    return reaction


def slow_callback(rig: SteeringRig, rng: np.random.Generator) -> float:
    """A callback of steering takes 350 ms each time: the guard is on time, and nothing comes in a burst."""
    rig.steering.end(signal.SIGKILL)
    rig.slow_callback = str(int(rng.integers(1, 4)))  # one of its topics
    try:
        rig.steering = rig.start_steering()
        rig.graph.wait_state(rig.steering, timeout=60.0)
        rig.begin_episode()
        since = ns()
        time.sleep(2.0)
        worst = float(np.diff([since, *(c.ns for c in rig.commands if c.ns > since)]).max() * 1e-6)
        if worst > 100.0:
            rig.calm(since)
        gaps = np.diff([at for at, _ in rig.planned.since(since)]) * 1e-6
        expect((gaps < 5.0).sum() <= 2, f"{(gaps < 5.0).sum()} plans came at once")
        return worst
    finally:
        rig.slow_callback = ""
        rig.steering.end(signal.SIGKILL)


# -- at configure ------------------------------------------------------------------------------------------------------


def damaged_critic(rig: SteeringRig, rng: np.random.Generator) -> float:
    """Missing, cut short, one bit flipped, an empty folder: refused; or unsteered with a warning where allowed."""
    folder = copied(rig.critic, rig.folder / f"damaged_{int(rng.integers(1 << 30))}")
    kind, model = int(rng.integers(4)), folder / "model.safetensors"
    if kind == 0:
        model.unlink()
    elif kind == 1:
        model.write_bytes(model.read_bytes()[:-3])
    elif kind == 2:
        data = bytearray((folder / "config.json").read_bytes())
        data[int(rng.integers(len(data)))] ^= 1
        (folder / "config.json").write_bytes(data)
    else:
        folder = rig.folder / "nothing"
    return refused(rig, rng, "critic", critic=str(folder))


def optional_critic(rig: SteeringRig, rng: np.random.Generator) -> None:
    """A missing critic that is not required: comes up, says so."""
    process = rig.start_steering(name="another", critic=str(rig.folder / "nothing"), critic_required=False)
    try:
        rig.graph.wait_state(process, timeout=60.0)
        expect("the policy acts alone" in process.said, f"says nothing: {process.said[-300:]}")
    finally:
        process.end()


def other_contract(rig: SteeringRig, rng: np.random.Generator) -> float:
    """A policy for degrees, deltas, six joints, another order, another rate: refused, naming both sides."""
    import dataclasses

    import faults_models

    spec = rig.topics.spec.choose(horizon=HORIZON, n_obs_steps=1)
    arm, gripper = spec.parts
    names = spec.state_names
    fewer = dataclasses.replace(arm, stop=6, low=arm.low[:6], high=arm.high[:6])
    wrong = (
        spec.choose(parts=(dataclasses.replace(arm, unit="deg"), gripper)),
        spec.choose(parts=(dataclasses.replace(arm, reference="previous"), gripper)),
        spec.choose(parts=(fewer, dataclasses.replace(gripper, start=6, stop=7))),
        spec.choose(state_names=(names[1], names[0], *names[2:])),
        spec.choose(dt=0.1),
        spec.choose(cameras=()),
    )[int(rng.integers(6))]
    policy = faults_models.save(rig.folder / f"policy_{int(rng.integers(1 << 30))}", wrong, "policy")
    return refused(rig, rng, "expected", "got", policy=str(policy))


def no_statistics(rig: SteeringRig, rng: np.random.Generator) -> float:
    """The policy's statistics are missing, or NaN, with a manifest that says so: refused."""
    import hashlib
    import json

    folder = copied(rig.policy, rig.folder / f"policy_{int(rng.integers(1 << 30))}")
    file, manifest = folder / "statistics.json", folder / "manifest.json"
    data = json.loads(file.read_text())
    if rng.random() < 0.5:
        del data["action"]
    else:
        data["action"]["std"][0] = float("nan")
    file.write_text(json.dumps(data))
    listed = json.loads(manifest.read_text())
    content = file.read_bytes()
    listed["files"]["statistics.json"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest.write_text(json.dumps(listed))
    return refused(rig, rng, "policy", policy=str(folder))


def implausible(rig: SteeringRig, rng: np.random.Generator) -> None:
    """Chunks hundreds of standard deviations away: refused by steering, the arm stops."""
    since = ns()
    rig.order(policy="far")
    rig.stopped(since, timeout=2.0)
    rig.warned(since, "Implausible")
    expect(EXECUTE < HORIZON, "no rest of a chunk")


MOVING, STARTING = "in an episode, at a random moment", "at configure"
CASES = tuple(
    Graph(*case[:8], **({"bound_ms": case[8]} if case[8:] else {}), rig="steering")
    for case in (
        ("F1", "", "the camera stops", MOVING, "the chunk ends, then stops; goes on by itself", camera_stops,
         "inputs never grow old", "steering_ageless_inputs", (IMAGE_AGE + CHUNK + 0.1) * 1e3 + SLACK),
        ("F2", "", "the camera shows one picture for ever", MOVING, "warns, then stops", camera_frozen,
         "pictures are not compared", {"max_frozen": 0.0}, (1.0 + IMAGE_AGE + CHUNK + 0.1) * 1e3 + SLACK),
        ("F3", "nodes", "frames of another encoding, or half", MOVING, "refused and counted, then stops", wrong_frames,
         "frames are taken as they come", "steering_trusts_frames", (IMAGE_AGE + CHUNK + 0.1) * 1e3 + SLACK),
        ("F13", "some candidates", "half of the candidates are NaN", MOVING, "the others compete", some_nan,
         "NaN may be selected", "steering_trusts_scores"),
        ("F13", "all candidates", "every candidate is NaN", MOVING, "stops, the node lives", all_nan,
         "nothing is refused", "steering_trusts_chunks"),
        ("F14", "nodes", "the critic says NaN for some, for all", MOVING, "never selected; plain policy, warning",
         critic_nan, "every candidate may win", "steering_trusts_scores"),
        ("F16", "nodes", "the critic is constant", MOVING, "plain policy, warning", critic_constant,
         "a critic without a preference acts", "steering_indifferent"),
        ("F17", "slow", "a decision takes 1 s or 2 s", MOVING, "stops when the plan ends, goes on afterwards",
         slow_inference, "the last action is held for ever", "guard_endless_plans", SLACK),
        ("F18", "", "exceptions in the network", MOVING, "one candidate; then stops, the node lives", network_fails,
         "exceptions are not caught", "steering_dies_of_errors"),
        ("F19", "", "steering is killed", MOVING, "stops when the plan ends; no motion without an episode", killed,
         "the last action is held for ever", "guard_endless_plans", SLACK),
        ("F25", "", "a callback of steering takes 350 ms", MOVING, "the guard is on time; no burst", slow_callback,
         "the same in the guard's process", "guard_in_one_process", 100.0),
        ("F31", "steering", "deactivated while it thinks", MOVING, "nothing is sent afterwards", deactivated,
         "what was decided is sent", "steering_says_all"),
        ("F35", "steering", "steering is paused for 2 s", MOVING, "stops, then goes on from new inputs", paused,
         "the last action is held for ever", "guard_endless_plans"),
        ("F15", "required", "critic missing, cut short, altered", STARTING, "refused", damaged_critic,
         "a critic is not required", {"critic_required": False}, 60e3),
        ("F15", "optional", "critic missing and not required", STARTING, "unsteered, with a warning", optional_critic,
         "a critic is required", {"critic_required": True}),
        ("F22", "nodes", "units, deltas, dims, order, rate differ", STARTING, "refused, naming both", other_contract,
         "contracts are not compared", "steering_any_contract", 60e3),
        ("F24", "nodes", "statistics missing or NaN", STARTING, "refused", no_statistics,
         "checkpoints are not verified", "steering_any_checkpoint", 60e3),
        ("F22", "plausible", "chunks far outside the data", MOVING, "refused, stops", implausible,
         "any chunk is plausible", "steering_any_chunk"),
    )
)  # fmt: skip
