"""The oracle against brute force, and headroom against rollouts played by hand."""

import itertools
import time
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from evaluation_fakes import GOAL, HORIZON, STEPS, Counter, PushCritic, Wanderer
from hypothesis import given
from hypothesis import strategies as st

from robot_value import headroom as module
from robot_value import randomness
from robot_value.evaluate import Arm
from robot_value.headroom import Config, headroom
from robot_value.oracle import Tried, oracle, pass_at, summarise
from robot_value.results import plain
from robot_value.results_shape import HEADROOM
from robot_value.steering.selection import pick
from robot_value.steering.steerer import Steerer

N = 4
CRITICS = {"critic": PushCritic()}
ARGMAX = Arm("argmax", "argmax", n=N, critic="critic")
AVERAGE = Arm("softmax_average", "softmax_average", n=N, critic="critic")
QUIET = Config(points=(0, 2), n_episodes=6, progress=False)


def measure(arm=ARGMAX, batch_size=8, config=QUIET, seeds=range(20, 40), robot=None, policy=None):
    return headroom(robot or Counter(batch_size), policy or Wanderer(), CRITICS, arm, list(seeds), config=config)


@pytest.fixture(scope="module")
def measured():
    return measure()


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=5))
def test_the_oracle_chooses_on_one_half_and_values_on_the_other(rollouts):
    success = np.array(rollouts, float)
    values = []
    for choose, judge in ((slice(0, 2), slice(2, 4)), (slice(2, 4), slice(0, 2))):
        means = [row[choose].mean() for row in success]
        best = [row[judge].mean() for row, mean in zip(success, means, strict=True) if mean == max(means)]
        values.append(sum(best) / len(best))
    # mutation: `second[first == first.max()]` -> `second[second == second.max()]`
    assert oracle(success) == pytest.approx(sum(values) / 2)


def test_the_oracle_of_certain_outcomes_is_the_best_candidate():
    assert oracle(np.array([[0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]], float)) == 1


def test_the_oracle_is_not_flattered_by_luck_while_a_plain_maximum_is():
    rng = np.random.default_rng(0)
    coins = (rng.random((4000, 8, 4)) < 0.5).astype(float)  # all candidates are equally good
    assert np.mean([oracle(success) for success in coins]) == pytest.approx(0.5, abs=0.01)
    assert coins.mean(2).max(1).mean() > 0.8


def test_the_oracle_never_sees_more_than_the_best_candidate_is_worth():
    rng = np.random.default_rng(1)
    worth = np.array([0.1, 0.4, 0.7])
    estimates = [oracle((rng.random((3, 4)) < worth[:, None]).astype(float)) for _ in range(4000)]
    assert 0.5 < np.mean(estimates) < 0.7


def test_the_oracle_needs_rollouts_to_split():
    with pytest.raises(ValueError, match="at least 2 rollouts"):
        oracle(np.ones((3, 1)))


@given(st.integers(1, 6).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_counts_the_draws_of_k_tries_that_hold_a_success(case):
    n, successes, k = case
    draws = list(itertools.combinations([1] * successes + [0] * (n - successes), k))
    # mutation: `math.comb(n - int(c), k)` -> `math.comb(int(c), k)`
    assert pass_at(np.array([successes]), n, k) == pytest.approx(sum(any(draw) for draw in draws) / len(draws))


def tried(seed, decision, success, value=(0.0, 1.0), selected=1):
    return Tried(seed, decision, np.array(success, float), np.array(value), selected)


def test_recovered_is_the_share_of_the_possible_gain():
    points = [
        tried(seed, 0, [[0] * 4, [int(seed % 2)] * 4, [1] * 4], value=(0.0, 1.0, 2.0), selected=1) for seed in range(40)
    ]
    figures = summarise(points, np.zeros((40, 3), bool), 3)
    assert (figures["base"], figures["selector"], figures["oracle"]) == (0, 0.5, 1)
    assert figures["recovered"] == pytest.approx(0.5)
    assert figures["ci95_recovered"][0] < 0.5 < figures["ci95_recovered"][1]
    assert figures["regret"] == pytest.approx(0.5)
    assert figures["pass_at_n"] == 0


def test_every_episode_weighs_the_same_however_many_points_it_has():
    long = [tried(0, d, [[1] * 4, [1] * 4]) for d in range(9)]
    figures = summarise([*long, tried(1, 0, [[0] * 4, [0] * 4])], np.zeros((2, 2), bool), 2)
    # mutation: `_by_episode(points, figure)` -> `figure`
    assert figures["base"] == 0.5
    assert (figures["n_episodes"], figures["n_points"]) == (2, 10)


def test_rank_correlation_counts_only_points_that_can_be_ranked():
    ranked = [tried(0, 0, [[0] * 4, [1] * 4]), tried(1, 0, [[1] * 4, [0] * 4]), tried(2, 0, [[0] * 4, [1] * 4])]
    flat = tried(3, 0, [[1] * 4, [1] * 4])
    figures = summarise([*ranked, flat], np.zeros((4, 2), bool), 2)
    assert figures["rank_correlation"] == pytest.approx(1 / 3)
    assert figures["rank_correlation_points"] == 3
    assert summarise([flat], np.zeros((1, 2), bool), 2)["rank_correlation"] is None


def test_recovered_is_unknown_where_nothing_could_be_gained():
    figures = plain(summarise([tried(s, 0, [[1] * 4, [1] * 4]) for s in range(5)], np.ones((5, 2), bool), 2))
    assert figures["recovered"] is None
    assert figures["ci95_recovered"] == [None, None]
    assert figures["pass_at"] == {"1": 1, "2": 1}


def noise(episode, step, n):
    return np.clip(np.float32(0.6) * randomness.normal(0, [episode], [step], (n, HORIZON, 1))[0, ..., 0], -1, 1)


def play(p, step, chunk, key, n):
    """One rollout by hand: the chunk, then the best of n fresh candidates (n = 1: the plain policy)."""
    while True:
        for action in chunk:
            p, step = p + action, step + 1
            if p >= GOAL or step >= STEPS:
                return float(p >= GOAL)
        candidates = noise(key, step, n)
        chunk = candidates[candidates.sum(1).argmax()]


@pytest.mark.parametrize(("continuation", "n"), [("base", 1), ("steered", N)])
def test_headroom_is_what_playing_every_candidate_by_hand_gives(measured, continuation, n):
    points = []
    for seed in range(20, 26):
        p = seed % 3 / 10
        for decision in range(3):
            candidates = noise(seed, decision * HORIZON, N)
            if decision in QUIET.points:
                keys = [module._key(seed, 1 + decision, r) for r in range(4)]
                success = [[play(p, decision * HORIZON, c, key, n) for key in keys] for c in candidates]
                points.append(tried(seed, decision, success, candidates.sum(1) + p, int(candidates.sum(1).argmax())))
            p += candidates[0].sum()
    starts = range(20, 26)
    tries = [
        [play(seed % 3 / 10, 0, noise(key, 0, 1)[0], key, 1) for key in (module._key(seed, 0, i) for i in range(N))]
        for seed in starts
    ]
    expected = summarise(points, np.array(tries, bool), N)
    for key, value in expected.items():
        found = measured[continuation][key]
        assert found == pytest.approx(value, nan_ok=True), key


def test_figures_say_what_was_measured(measured):
    for name, figures in measured.items():
        assert set(HEADROOM) <= set(figures)
        assert figures["continuation"] == name
        assert (figures["candidates"], figures["points"], figures["rollouts"]) == (N, 2, 4)
        assert (figures["n_episodes"], figures["seeds"], figures["visited_by"]) == (6, list(range(20, 26)), "base")
    assert measured["base"]["pass_at_n"] == measured["steered"]["pass_at_n"]


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_the_batch_size_changes_nothing_but_the_speed(measured, batch_size):
    other = measure(batch_size=batch_size)
    for name in measured:
        # mutation: `keys = np.array([job.key ...` -> `keys = np.arange(len(rows))`
        assert plain({**other[name], "seconds": 0}) == plain({**measured[name], "seconds": 0})


def test_a_shadow_gate_recovers_nothing():
    figures = measure(Arm("shadow", "argmax", n=N, critic="critic", gate="shadow"))
    assert figures["base"]["selector"] == figures["base"]["base"]
    assert figures["steered"]["recovered"] in (None, 0) or np.isnan(figures["steered"]["recovered"])


def test_an_average_is_valued_as_one_more_chunk_and_never_the_oracles():
    figures = measure(AVERAGE)["steered"]
    assert figures["new_chunk"] is True
    assert figures["candidates"] == N
    assert figures["selector"] > figures["base"]
    assert measure(ARGMAX)["steered"]["new_chunk"] is False


def test_a_budget_stops_early_and_says_how_many_episodes_it_took(monkeypatch):
    now = iter(range(0, 10_000, 10))
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    figures = measure(config=Config(points=(0,), n_episodes=10, budget=35, progress=False), batch_size=8)["base"]
    assert 0 < figures["n_episodes"] < 10
    assert figures["seeds"] == list(range(20, 20 + figures["n_episodes"]))


def test_an_episode_that_became_unstable_does_not_count():
    figures = measure(robot=Counter(8, unstable_seeds=(21,)))["base"]
    assert (figures["n_episodes"], figures["excluded_unstable_episodes"]) == (5, 1)
    with pytest.raises(RuntimeError, match="none of 6 episodes stayed stable"):
        measure(robot=Counter(8, unstable_seeds=tuple(range(20, 40))))


def test_an_episode_that_ends_before_a_point_has_none_there():
    figures = measure(config=Config(points=(0, 9), n_episodes=3, progress=False))["base"]
    assert (figures["n_episodes"], figures["n_points"]) == (3, 3)


def test_a_candidate_that_is_not_finite_is_refused():
    class Broken(Wanderer):
        def sample(self, context, n, noise, prefix=None, guide=None):
            chunks, lengths = super().sample(context, n, noise)
            chunks[:, -1] = np.nan
            return chunks, lengths

    with pytest.raises(ValueError, match="expected finite candidates"):
        measure(policy=Broken())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rollouts": 3}, "even number >= 2"),
        ({"rollouts": 0}, "even number >= 2"),
        ({"points": ()}, "different decision indexes"),
        ({"points": (1, 1)}, "different decision indexes"),
        ({"points": (-1,)}, "different decision indexes"),
    ],
)
def test_a_plan_that_cannot_be_valued_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Config(**options)


@dataclass
class Remembering:
    """A selector that takes the last candidate and notes what it was told of the last decision."""

    uses_critic: bool = False
    previous: list = field(default_factory=list)

    def __call__(self, chunks, scores, situation):
        self.previous.append(situation.previous)
        return pick(chunks, torch.full((len(chunks),), chunks.shape[1] - 1))


def test_what_was_executed_in_place_of_the_arms_own_choice_is_what_it_remembers():
    # mutations: `steerer.told` left out of _visit, or out of _play_batch
    selector = Remembering()
    steerer = Steerer(Wanderer(), selector=selector, n=3, execute=1)
    (visited,) = module._visit(Counter(1), steerer, [20], (0, 1))
    first = visited.points[0].chunks
    told = float(selector.previous[1][0, 0])
    assert told == first[0, 1] and told != first[2, 1], "candidate 0 was executed, not the selected one"
    selector.previous.clear()
    job = module.Job(visited.start, np.array([[0.25], [0.5]], np.float32), key=3)
    module._play_batch(Counter(1), steerer, [job])
    assert selector.previous[0] is None and float(selector.previous[1][0, 0]) == 0.5
