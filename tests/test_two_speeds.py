"""Two speeds: nobody waits for a thought while there is something to execute, and System 1 finishes what was chosen."""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from contracts import check_follower
from fakes import HomingPolicy, PointMass, observation, point_spec
from learning_fakes import TASKS, statistics
from learning_fakes import spec as learning_spec

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import bench_two_speeds as bench

from robot_value import checkpoint
from robot_value.flow import SAMPLERS, from_time
from robot_value.loop import run_episodes
from robot_value.policies import flow
from robot_value.steering.followers import blend, fast, splice
from robot_value.steering.steerer import Steerer
from robot_value.steering.two_speeds import ThinkAhead
from robot_value.types import Camera, SpecMismatch

SPEC = point_spec(horizon=8)


def at(step: int, batch: int = 1, episode: int = 100):
    return observation(SPEC, batch, seed=step, step=np.full(batch, step), episode=np.full(batch, episode))


@dataclass
class Slow:
    """A Steerer whose decisions finish when the test allows it; it says what it was asked."""

    inner: Steerer
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    asked: list = field(default_factory=list)
    threads: set = field(default_factory=set)

    def __call__(self, seen, active=None):
        assert self.go.acquire(timeout=5), "the test forgot to let a decision finish"
        self.asked.append(seen)
        self.threads.add(threading.get_ident())
        return self.inner(seen, active)

    def __getattr__(self, name):
        return getattr(self.inner, name)


@pytest.fixture
def think_ahead():
    """Makers of (ThinkAhead, Slow); threads end with the test."""
    made = []

    def make(free: int = 0, **options):
        slow = Slow(Steerer(HomingPolicy(SPEC), execute=4))
        made.append((ThinkAhead(slow, **options), slow))
        slow.go.release(free or 1)
        return made[-1]

    yield make
    for thinker, slow in made:
        slow.go.release(1000)
        thinker.close()


def finish_one(thinker: ThinkAhead, slow: Slow) -> None:
    """Let the thought in the making end."""
    slow.go.release()
    deadline = time.monotonic() + 5
    while not thinker._thinking.done() and time.monotonic() < deadline:
        time.sleep(1e-3)


# Asynchronous ---------------------------------------------------------------------------------------------------------


def test_the_robot_goes_on_with_the_chunk_in_force_while_the_next_decision_is_made(think_ahead):
    # mutation: wait for the thought in every call -> the second call blocks until the semaphore times out
    thinker, slow = think_ahead()
    first = thinker(at(0))
    assert first.start_step.tolist() == [0] and first.execute.tolist() == [1]
    for step in (1, 2, 3):
        assert thinker(at(step)).chunk is first.chunk
    finish_one(thinker, slow)
    second = thinker(at(4))
    assert [seen.step[0] for seen in slow.asked] == [0, 1], "handed over at step 1, when the thread was free"
    assert second.start_step.tolist() == [1], "it is about step 1; the splice enters it at index 3"
    assert thinker.rates.waits == 0 and threading.get_ident() not in slow.threads and len(slow.threads) == 1


def test_the_thread_is_handed_the_newest_observation_and_nothing_queues(think_ahead):
    thinker, slow = think_ahead()
    for step in (0, 1, 2, 3):
        thinker(at(step))
    finish_one(thinker, slow)  # the one of step 1
    thinker(at(4))
    finish_one(thinker, slow)
    thinker(at(5))
    assert [seen.step[0] for seen in slow.asked] == [0, 1, 4]


def test_it_waits_only_when_the_chunk_would_run_out_and_says_so(think_ahead):
    thinker, slow = think_ahead()
    for step in range(8):  # the whole horizon
        assert thinker(at(step)).start_step.tolist() == [0]
    assert thinker.rates.waits == 0
    threading.Timer(0.05, slow.go.release).start()
    assert thinker(at(8)).start_step.tolist() == [1], "the thought of step 1 covers step 8: its last one"
    assert thinker.rates.waits == 1 and thinker.rates.waited >= 0.04


def test_a_chunk_is_played_no_further_than_it_means_something(think_ahead):
    # mutation: reach = horizon always
    thinker, slow = think_ahead()
    lengths = torch.full((1, 1), 3)
    plain = slow.inner.policy.sample
    slow.inner.policy.sample = lambda *args, **more: (plain(*args, **more)[0], lengths)
    assert [thinker(at(step)).execute.tolist() for step in range(3)] == [[1]] * 3
    threading.Timer(0.05, slow.go.release, [2]).start()  # not before it waits
    assert thinker(at(3)).start_step.tolist() == [1] and thinker.rates.waits == 1
    assert thinker(at(4)).start_step.tolist()[0] >= 3


def test_with_lag_the_policy_is_told_what_will_be_executed_and_the_decision_starts_after_it(think_ahead):
    # mutation: pending from the latest chunk's beginning instead of from the observation's step
    thinker, slow = think_ahead(lag=2)
    first = thinker(at(0))
    thinker(at(1))
    finish_one(thinker, slow)
    second = thinker(at(3))
    told = slow.asked[1]
    assert told.committed.tolist() == [2]
    np.testing.assert_array_equal(told.pending[0], first.chunk[0, 1:3])
    assert second.start_step.tolist() == [3]
    finish_one(thinker, slow)
    np.testing.assert_array_equal(slow.asked[2].pending[0], second.chunk[0, 0:2])


def test_an_error_of_the_thread_surfaces_at_the_next_call_and_does_not_stick(think_ahead):
    thinker, slow = think_ahead()
    thinker(at(0))
    encode, slow.inner.policy.encode = slow.inner.policy.encode, lambda seen: 1 / 0
    thinker(at(1))
    finish_one(thinker, slow)
    with pytest.raises(ZeroDivisionError):
        thinker(at(2))
    slow.inner.policy.encode = encode
    thinker(at(2))
    finish_one(thinker, slow)
    assert thinker(at(3)).start_step.tolist() == [2]


def test_after_a_reset_nothing_of_the_last_episode_is_used(think_ahead):
    # mutation: keep `latest` and `_recent` in reset -> the old chunk covers step 0 of the next episode
    thinker, slow = think_ahead()
    old = thinker(at(0))
    thinker(at(1))
    slow.go.release(2)
    thinker.reset()
    new = thinker(at(0))
    assert new.chunk is not old.chunk and slow.asked[-1].step[0] == 0 and thinker.rates.waits == 0
    slow.go.release()
    thinker.reset([0])
    slow.go.release()
    assert thinker(at(0)).chunk is not new.chunk, "equal to the last bit, and still a decision of its own"


def test_rates_are_counted_on_the_clock_it_is_given():
    now, steerer = [5.0], Steerer(HomingPolicy(SPEC))
    encode = steerer.policy.encode
    steerer.policy.encode = lambda seen: now.append(now[-1] + 0.25) or encode(seen)  # thinking takes 0.25 s
    thinker = ThinkAhead(steerer, every=8, clock=lambda: now[-1])
    with pytest.raises(ValueError, match="expected at least one finished decision"):
        _ = thinker.rates
    thinker(at(0))
    rates = thinker.rates
    assert (rates.decisions, rates.per_second, rates.thinking) == (1, 4.0, 0.25)
    assert (rates.waits, rates.age_p50, rates.age_p95) == (0, 0.0, 0.0)
    thinker.close()


def test_what_cannot_work_is_refused_before_anything_moves(think_ahead):
    for options in ({"lag": 8}, {"lag": -1}, {"every": 0}, {"lag": 5, "lockstep": True}):
        with pytest.raises(ValueError, match=r"expected lag >= 0, every >= 1 and lag \+ steps between calls <= 8"):
            think_ahead(**options)
    thinker, _ = think_ahead()
    delayed = replace(at(0), pending=np.zeros((1, 2, 2), np.float32), committed=np.array([2]))
    with pytest.raises(ValueError, match="committed: expected 0 pending steps"):
        thinker(delayed)
    with pytest.raises(SpecMismatch):
        thinker.check(learning_spec())


def test_after_close_its_thread_is_gone():
    before = threading.active_count()
    thinker = ThinkAhead(Steerer(HomingPolicy(SPEC)))
    thinker(at(0))
    assert threading.active_count() == before + 1
    thinker.close()
    assert threading.active_count() == before


def test_a_free_running_thinker_drives_the_loop_without_gap_or_repetition():
    thinker = ThinkAhead(Steerer(HomingPolicy(SPEC, scale=0.05), execute=4), lag=1)
    summaries = run_episodes(PointMass(2, max_steps=80), thinker, splice.Config().build(), seeds=[1, 2, 3])
    thinker.close()
    assert all(s.success for s in summaries)
    assert thinker.rates.decisions > 5 and thinker.rates.age_p95 < SPEC.horizon


# In lockstep ----------------------------------------------------------------------------------------------------------


def play(steerer, follower):
    robot, executed = PointMass(3, max_steps=20), []

    class Tape:
        wants_episodes = False

        def on_decision(self, seen, decision, outcome):
            executed.append(outcome.executed[outcome.executed_valid])

    summaries = run_episodes(robot, steerer, follower, [Tape()], seeds=[1, 2, 3])
    return summaries, np.concatenate(executed)


def test_in_lockstep_without_lag_it_is_the_steerer():
    plain = Steerer(HomingPolicy(SPEC), execute=4)
    thinker = ThinkAhead(Steerer(HomingPolicy(SPEC), execute=4), lockstep=True)
    expected, actual = play(plain, None), play(thinker, splice.Config().build())
    thinker.close()
    assert actual[0] == expected[0]
    np.testing.assert_array_equal(actual[1], expected[1])


@pytest.mark.parametrize("lag", [1, 4])
def test_in_lockstep_a_lag_repeats_bit_for_bit_and_the_old_chunk_bridges_it(lag):
    runs = []
    for _ in range(2):
        thinker = ThinkAhead(Steerer(HomingPolicy(SPEC), execute=4, seed=7), lag=lag, lockstep=True)
        runs.append(play(thinker, splice.Config().build()))
        thinker.close()
    np.testing.assert_array_equal(runs[0][1], runs[1][1])
    thinker = ThinkAhead(Steerer(HomingPolicy(SPEC), execute=4), lag=lag, lockstep=True)
    follower, seen, decisions = splice.Config().build(), [at(0), at(4)], []
    for step in range(8):
        if step % 4 == 0:
            decisions.append(thinker(seen[step // 4]))
        action = follower.action(at(step), decisions[-1], np.zeros(1, np.int64))
        owner = decisions[0] if step < 4 + lag else decisions[1]
        np.testing.assert_array_equal(action[0], owner.chunk[0, step - owner.start_step[0]])
    assert decisions[1].start_step.tolist() == [4 + lag]
    thinker.close()


# Finishing a flow -----------------------------------------------------------------------------------------------------

MEAN, STD = 2.0, 0.5


# data N(m, s^2): the flow from (x, t) ends at m + s (x - t m) / sqrt((1 - t)^2 + t^2 s^2)
def gaussian_velocity(x, t):
    t = torch.as_tensor(t, dtype=x.dtype)[..., None, None]
    variance = (1 - t) ** 2 + t**2 * STD**2
    return MEAN + (t * STD**2 - (1 - t)) / variance * (x - t * MEAN)


@pytest.mark.parametrize("sampler", SAMPLERS.values())
def test_a_flow_entered_on_its_way_ends_where_the_whole_flow_ends_whatever_each_ones_time(sampler):
    # mutation: leave out `left` (steps of 1 / n), or ask the network at u
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, 1, generator=generator, dtype=torch.float64)
    start = torch.rand(2, 3, generator=generator, dtype=torch.float64)
    start[0, 0], start[0, 1] = 0.0, 1.0
    t = start[:, :, None, None]
    exact = MEAN + STD * (x - t * MEAN) / ((1 - t) ** 2 + t**2 * STD**2).sqrt()
    out = sampler(from_time(start, gaussian_velocity), x, 200)
    assert (out - exact).abs().max() < 0.02
    assert torch.equal(out[0, 1], x[0, 1])
    asked = []
    sampler(from_time(start, lambda x, t: asked.append(t) or x), x, 2)
    assert torch.allclose(asked[-1].max(), torch.ones(1, dtype=torch.float64)) and asked[0].equal(start)


def flow_policy(spec=None, **options):
    spec = spec or learning_spec()
    policy = flow.Config(width=32, depth=2, **options).build(spec, statistics(spec), TASKS).eval()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.5)
    return policy


def seen_by(spec, batch: int = 3, **changes):
    return observation(spec, batch, task=(TASKS[0],) * batch, **changes)


@pytest.mark.parametrize("options", [{}, {"sampler": "midpoint"}, {"head": "transformer", "heads": 2}, {"tile": 2}])
def test_finishing_from_noise_is_sampling_and_from_the_chunk_is_keeping_it(options):
    policy = flow_policy(**options)
    context = policy.encode(seen_by(policy.spec))
    noise, other = (torch.randn(3, 4, 4, 2, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    chunks, rough = (policy.sample(context, 4, z)[0] for z in (noise, other))
    assert torch.allclose(policy.finish(context, rough, 0.0, noise), chunks, atol=1e-5)
    assert torch.allclose(policy.finish(context, rough, 1.0, noise), rough, atol=1e-5)
    mixed = policy.finish(context, rough, torch.tensor([0.0, 1.0, 0.5, 0.5]).expand(3, 4), noise)
    assert torch.allclose(mixed[:, 0], chunks[:, 0], atol=1e-5) and torch.allclose(mixed[:, 1], rough[:, 1], atol=1e-5)
    assert torch.allclose(mixed[:, 2:], policy.finish(context, rough, 0.5, noise)[:, 2:], atol=1e-5)


def test_finishing_is_each_candidates_own_affair_and_refuses_what_it_cannot_do():
    policy = flow_policy()
    context = policy.encode(seen_by(policy.spec))
    noise, rough = torch.randn(3, 2, 4, 2), torch.zeros(3, 2, 4, 2)
    broken = rough.clone()
    broken[0, 1, 2, 0] = torch.nan
    out = policy.finish(context, broken, 0.5, noise)
    whole = policy.finish(context, rough, 0.5, noise)
    assert out[0, 1].isnan().any() and torch.allclose(out[1:], whole[1:]) and torch.allclose(out[0, 0], whole[0, 0])
    with pytest.raises(ValueError, match="start: expected flow times from 0"):
        policy.finish(context, rough, 1.5, noise)
    with pytest.raises(ValueError, match=r"chunks: expected \[B, n, H, A\] = \[3, 2, 4, 2\], got \[3, 2, 5, 2\]"):
        policy.finish(context, torch.zeros(3, 2, 5, 2), 0.5, noise)


# System 1 -------------------------------------------------------------------------------------------------------------


@dataclass
class Echo:
    """A small policy that shows what it was given: finish = start * chunk + state, noise kept aside."""

    spec: object
    looks: list = field(default_factory=list)

    def encode(self, seen):
        self.looks.append(seen)
        return torch.from_numpy(seen.state[:, -1, :2])

    def finish(self, context, chunks, start, noise):
        self.noise = noise
        return start * chunks + context[:, None, None]


def decided(chunk, start):
    steerer = Steerer(HomingPolicy(SPEC))
    decision = steerer(at(0, len(chunk)))
    return replace(decision, chunk=np.asarray(chunk, np.float32), start_step=np.asarray(start))


def ramp(batch: int = 1) -> np.ndarray:
    return np.tile(np.arange(8, dtype=np.float32)[None, :, None], (batch, 1, 2))


def test_system_1_finishes_the_slice_from_the_current_step_with_the_newest_observation():
    # mutation: slice from the chunk's beginning; encode only at a decision
    small = Echo(point_spec(horizon=3))
    follower, decision = fast.Fast(small, start=0.5), decided(ramp(), [0])
    for step in range(8):
        action = follower.action(at(step), decision, np.array([step]))
        np.testing.assert_allclose(action[0], 0.5 * step + at(step).state[0, -1])
    assert [seen.step[0] for seen in small.looks] == list(range(8))


def test_between_two_looks_its_plan_is_played_and_a_new_decision_is_a_look():
    # mutation: drop `number != self.number` from _due
    small = Echo(point_spec(horizon=4))
    follower, first, second = fast.Fast(small, every=3, start=1.0), decided(ramp(), [0]), decided(ramp() + 100, [4])
    played = [follower.action(at(s), first if s < 4 else second, np.zeros(1, int))[0] for s in range(7)]
    assert [int(seen.step[0]) for seen in small.looks] == [0, 3, 4]
    for step, looked in enumerate([0, 0, 0, 3, 4, 4, 4]):
        base = step if step < 4 else 100 + step - 4
        np.testing.assert_allclose(played[step], base + at(looked).state[0, -1], rtol=1e-6)


def test_a_slice_reaches_into_the_next_decision_and_beyond_the_end_its_last_action_fills_the_horizon():
    follower = fast.Fast(Echo(point_spec(horizon=4)), start=1.0)
    follower.action(at(0), decided(ramp(), [0]), np.zeros(1, int))
    follower.action(at(1), decided(ramp() + 100, [3]), np.zeros(1, int))  # not in force before step 3
    chunk = follower.recent.in_force(at(2))
    assert chunk[0, :4, 0].tolist() == [2, 100, 101, 102]
    assert fast._filled(chunk[:, 6:], 4)[0, :, 0].tolist() == [105, 106, 106, 106][:4]


def test_its_noise_is_keyed_and_a_robot_does_not_notice_the_others():
    small = flow_policy(point_spec(horizon=4))
    together, alone = fast.Fast(small, every=2), fast.Fast(small, every=2)
    for step in range(6):
        start = step // 3 * 3
        chunk = 0.1 * ramp(3) * np.array([1, -1, 0.5])[:, None, None]
        both = together.action(at(step, 3), decided(chunk, [start] * 3), np.zeros(3, int))
        one = alone.action(at(step, 3).rows([1]), decided(chunk[1:2], [start]), np.zeros(1, int))
        np.testing.assert_allclose(both[1:2], one, atol=1e-5)


def test_where_the_small_policy_fails_the_chunk_itself_is_played():
    small = Echo(point_spec(horizon=3))
    small.finish = lambda context, chunks, start, noise: torch.full_like(chunks, torch.nan)
    follower, decision = fast.Fast(small), decided(ramp(), [0])
    assert [follower.action(at(s), decision, np.zeros(1, int))[0, 0] for s in range(3)] == [0, 1, 2]


def test_it_sees_its_own_cameras_and_history_and_refuses_a_robot_that_lacks_them():
    wide = replace(SPEC, cameras=(Camera("front", 8, 8), Camera("wrist", 4, 4)), n_obs_steps=3, language=True)
    narrow = replace(SPEC, cameras=(Camera("wrist", 4, 4),), n_obs_steps=1, horizon=3)
    small = Echo(narrow)
    follower = fast.Fast(small)
    follower.check(wide)
    seen = observation(wide, 1)
    follower.action(seen, decided(ramp(), [0]), np.zeros(1, int))
    small.looks[0].check(narrow)
    np.testing.assert_array_equal(small.looks[0].state[:, -1], seen.state[:, -1])
    for lacking in (replace(wide, cameras=wide.cameras[:1]), replace(wide, dt=0.2)):
        with pytest.raises(SpecMismatch, match="the robot, as System 1 sees it,"):
            follower.check(lacking)
    with pytest.raises(SpecMismatch, match="n_obs_steps: expected 2, got 1"):
        fast.Fast(Echo(replace(narrow, n_obs_steps=2))).check(replace(wide, n_obs_steps=1))


def test_a_trained_small_flow_is_found_by_its_folder(tmp_path):
    policy, config = flow_policy(), flow.Config(width=32, depth=2)
    s = policy.spec
    checkpoint.save(
        tmp_path / "small",
        kind="policies",
        name="flow",
        config=asdict(config),
        spec=s,
        tensors=policy.state_dict(),
        statistics=statistics(s),
        extra={"tasks": TASKS},
    )
    follower = fast.Config(checkpoint=str(tmp_path / "small"), every=2, steps=3).build()
    assert follower.policy.sample_steps == 3 and follower.every == 2
    check_follower(follower, s, seen_by(s))
    with pytest.raises(ValueError, match="checkpoint: expected the folder of a small flow policy, got none"):
        fast.Config().build()
    with pytest.raises(ValueError, match="expected 1 <= every <= 4"):
        fast.Config(checkpoint=str(tmp_path / "small"), every=5).build()
    with pytest.raises(ValueError, match=r"expected a flow policy, got HomingPolicy without finish\(\)"):
        fast.Fast(HomingPolicy(s))


def test_both_speeds_drive_the_loop_together():
    thinker = ThinkAhead(Steerer(HomingPolicy(SPEC), execute=4), lag=2, lockstep=True)
    small = flow_policy(point_spec(horizon=4))
    summaries, executed = play(thinker, fast.Fast(small, start=0.95))
    thinker.close()
    assert len(summaries) == 3 and np.isfinite(executed).all()
    blended = blend.Config().build()
    blended.check(SPEC)
    thinker = ThinkAhead(Steerer(HomingPolicy(SPEC), execute=4), lag=2, lockstep=True)
    assert all(s.success for s in play(thinker, blended)[0])
    thinker.close()


# The benchmark --------------------------------------------------------------------------------------------------------


def test_the_benchmark_measures_both_systems_and_the_pause_is_the_thought_at_one_speed_only(tmp_path, monkeypatch):
    # mutation: count the follower alone as the pause
    monkeypatch.setattr(sys, "argv", ["bench_two_speeds.py", "--smoke", "--n=2", f"--out={tmp_path / 'rates.json'}"])
    bench.main()
    result = json.loads((tmp_path / "rates.json").read_text())
    assert list(result["modes"]) == ["one speed", "ahead", "two speeds"] and result["weights"] == "random"
    assert all(row["reached_hz"] > 0 for row in result["modes"].values())
    assert result["modes"]["two speeds"]["system 2"]["decisions"] > 0

    class Thinker(Steerer):
        def __call__(self, seen, active=None):
            time.sleep(0.06)
            return super().__call__(seen, active)

    thinker, follower = ThinkAhead(Thinker(HomingPolicy(SPEC), execute=4)), splice.Config().build
    slow = bench.drive(Thinker(HomingPolicy(SPEC), execute=4), follower(), at(0), 50.0, 0.4)
    ahead = bench.drive(thinker, follower(), at(0), 50.0, 0.4)
    thinker.close()
    assert slow.pause_ms_max >= 60 > slow.pause_ms_p50 and slow.reached_hz < 40
    assert ahead.reached_hz > slow.reached_hz
