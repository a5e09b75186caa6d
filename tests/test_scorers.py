"""Scorers that stand beside a critic of values: counts, densities, preferences and risks that can be written down."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest
import torch
from contracts import check_critic
from fakes import observation
from hypothesis import example, given, settings
from hypothesis import strategies as st
from learning_fakes import TASKS, random_batch, spec, statistics
from mdps import (
    CHAIN,
    SWEEPS,
    Finite,
    distance,
    expectile,
    grouped,
    mean_by_key,
    rows,
    tabular_scores,
    trained,
)

from robot_value.critics import action_prior, fisor, preference, pseudo_count
from robot_value.episodes.store import EpisodeStore
from robot_value.fit import Job, Windowing, fit
from robot_value.mixing import take
from robot_value.training import TrainConfig, load_model
from robot_value.types import Episode, Features

SPEC = spec(horizon=2, state=2)
SMALL = {"hidden": (24, 24), "lr": 1e-2}
PAGES = {
    "pseudo_count": pseudo_count.Config(**SMALL),
    "action_prior": action_prior.Config(components=4),
    "preference": preference.Config(**SMALL),
    "fisor": fisor.Config(**SMALL, cost_below=-1.0),
}
NOBODY = Finite(SPEC, lambda states: states)  # no page here asks a policy


def build(config, s=SPEC):
    return config.build(s, statistics(s), TASKS)


def fitted(config, batch, updates: int):
    return trained(build(config), batch, NOBODY, updates).eval()


def values(critic, batch):
    """[B] of the recorded chunks."""
    with torch.no_grad():
        return critic.score(Features(critic.encoder(batch.observation)), batch.chunks[:, None]).value[:, 0]


# All of them --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("scope", [0, 1, 3])
def test_a_scorer_of_any_scope_keeps_the_critics_contract(name, scope):
    s = spec()
    check_critic(build(replace(PAGES[name], scope=scope), s).eval(), observation(s))


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_chunk_that_is_not_finite_never_gets_a_finite_score(name, bad):
    # mutation: clamp before the logarithm in a way that swallows NaN; a mixture that forgives infinity
    critic, chunks = build(PAGES[name]).eval(), torch.zeros(3, 4, 2, 2)
    chunks[1, 2, 0, 1] = bad
    value = critic.score(critic.encode(observation(SPEC)), chunks).value
    assert not value[1, 2].isfinite() and value.isfinite().sum() == 11


@pytest.mark.parametrize("name", PAGES)
def test_a_row_of_weight_zero_teaches_nothing(name):
    # mutation: an unweighted mean; preference: only the first of a pair is weighted
    batch, weight = random_batch(SPEC), torch.ones(8)
    batch, weight[0] = replace(batch, observation=replace(batch.observation, state=torch.ones(8, 1, 2))), 0
    other = replace(batch, chunks=batch.chunks.clone(), mc_return=batch.mc_return.clone(), index=batch.index.clone())
    other.chunks[0], other.mc_return[0], other.index[0] = 0.05, 100.0, 77
    losses = []
    for each in (batch, other):
        critic = build(PAGES[name])
        for _ in range(2):  # f and r start where nothing shows
            critic.update(replace(each, weight=weight), torch.Generator().manual_seed(0))
        losses.append(critic.loss(replace(each, weight=weight), torch.Generator().manual_seed(1))[0])
    assert torch.allclose(*losses, atol=1e-6)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Eight short episodes, half of them fall at their end (reward -1)."""
    s, rng = spec(horizon=0, n_obs_steps=0, state=2), np.random.default_rng(0)
    episodes = EpisodeStore.create(tmp_path_factory.mktemp("data") / "store", s)
    for i in range(8):
        actions = rng.uniform(s.low, s.high, (6, 2)).astype(np.float32)
        rewards = np.float32([0, 0, 0, 0, 0, (-1) ** i])
        states = rng.standard_normal((7, 2)).astype(np.float32)
        episodes.append(Episode(s, states, {}, actions, rewards, True, False, i % 2 == 0, TASKS[0]))
    episodes.close()
    return str(episodes.path)


@pytest.mark.parametrize("name", PAGES)
def test_a_scorer_trains_from_a_store_and_comes_back_from_its_checkpoint(name, store, tmp_path):
    # mutation: keep the frozen g out of the module; forget a field of the config
    quiet = {"progress": False, "tensorboard": False, "matmul": "default", "validation_fraction": 0.0}
    train = TrainConfig(folder=str(tmp_path), batch_size=8, steps=3, log_every=1, **quiet)
    folder = fit(Job(store, PAGES[name], train, Windowing(2)))
    critic, again = load_model(folder), load_model(folder)
    assert critic.config == PAGES[name] and int(critic.step) == 3
    seen, chunks = observation(critic.spec), torch.rand(3, 4, 2, 2)
    value = critic.score(critic.encode(seen), chunks).value
    assert value.isfinite().all() and torch.equal(value, again.score(again.encode(seen), chunks).value)


# Counts -------------------------------------------------------------------------------------------------------------

COUNTS = (1, 2, 4, 16, 64)
MANY_COINS = pseudo_count.Config(**SMALL, members=4)  # 256 coins: a count is known to 9 %


def repeated():
    """(batch that has the i-th pair of state and chunk COUNTS[i] times, first row of each, which row is which)."""
    which = torch.arange(len(COUNTS)).repeat_interleave(torch.tensor(COUNTS))
    batch = replace(take(random_batch(SPEC), which), index=torch.arange(len(which)))
    return batch, torch.tensor(COUNTS).cumsum(0) - torch.tensor(COUNTS), which


@pytest.fixture(scope="module")
def counter():
    return fitted(MANY_COINS, repeated()[0], 150)


def test_a_count_is_how_often_a_chunk_was_recorded_there(counter):
    # mutation: coins without the member; +log; a trained g; f without g's share taken off
    batch, first, which = repeated()
    coins = pseudo_count.tosses(batch.index, 4, 64)
    means = torch.stack([coins[:, which == i].mean(1) for i in range(len(COUNTS))], 1)  # [E, pairs, d]
    best = -means.square().mean(-1).log().mean(0)  # closed form: f is the mean of the coins
    found = values(counter, batch)[first]
    assert torch.allclose(found, best, atol=0.1)
    assert torch.allclose(found, torch.tensor(COUNTS).log(), atol=0.35)  # 4 sqrt(2 / 256), by chance of the coins


def elsewhere(n: int = 300):
    return random_batch(SPEC, n, seed=9)


def test_what_nobody_recorded_counts_about_once_and_without_g_it_looks_familiar(counter):
    # mutation: leave g out
    assert values(counter, elsewhere()).median().exp() < 2
    blank = build(MANY_COINS)
    for weight in blank.f.prior.weights:
        torch.nn.init.zeros_(weight)
    trained(blank, repeated()[0], NOBODY, 150)
    assert values(blank.eval(), elsewhere()).median().exp() > 3


def test_before_training_everything_is_new():
    assert values(build(MANY_COINS).eval(), elsewhere()).abs().max() < 1e-4


def test_coins_that_are_tossed_anew_count_updates_instead_of_data(monkeypatch):
    # the defining term, coins that stay with their window, removed
    generator = torch.Generator().manual_seed(0)

    def anew(index, members, coins):
        return 2.0 * torch.randint(0, 2, (members, len(index), coins), generator=generator) - 1

    monkeypatch.setattr(pseudo_count, "tosses", anew)
    batch, first, _ = repeated()
    assert values(fitted(MANY_COINS, batch, 150), batch)[first[0]].exp() > 5 * COUNTS[0]


@settings(max_examples=25, deadline=None)
@given(index=st.lists(st.integers(0, 10**12), min_size=1, max_size=20), coins=st.integers(1, 64))
def test_a_window_keeps_its_coins_whatever_else_is_in_the_batch(index, coins):
    # mutation: coins by place in the batch
    together = pseudo_count.tosses(torch.tensor(index), 2, coins)
    assert together.shape == (2, len(index), coins) and (together.abs() == 1).all()
    for i, one in enumerate(index):
        assert together[:, i : i + 1].equal(pseudo_count.tosses(torch.tensor([one]), 2, coins))


def test_coins_are_fair_and_know_nothing_of_each_other():
    # mutation: shift with the sign; one multiplication left out; the member added after mixing
    coins = pseudo_count.tosses(torch.arange(20_000), 2, 64).permute(1, 0, 2).flatten(1)  # [windows, E * d]
    chance = 20_000**-0.5
    assert coins.mean(0).abs().max() < 5 * chance
    alike = coins.T @ coins / len(coins) - torch.eye(128)
    assert alike.abs().max() < 6 * chance
    following = (coins[1:] * coins[:-1]).mean(0)
    assert following.abs().max() < 5 * chance


def test_more_coins_than_bits_are_refused():
    with pytest.raises(ValueError, match="coins: expected 1 to 64, got 65; more members"):
        build(pseudo_count.Config(coins=65))


# Densities ----------------------------------------------------------------------------------------------------------

LOW, HIGH = torch.from_numpy(SPEC.low), torch.from_numpy(SPEC.high)
SCALE = torch.from_numpy(statistics(SPEC)["action"].std).float()


def two_manners(n: int, seed: int = 0):
    """(batch whose chunks are 3/4 around +1 and 1/4 around -1, in normalized units; their exact log density)."""
    generator = torch.Generator().manual_seed(seed)
    batch, side = random_batch(SPEC, n, seed=seed), (torch.rand(n, generator=generator) < 0.75).float() * 2 - 1
    x = side[:, None, None] + 0.3 * torch.randn((n, 2, 2), generator=generator)
    logs = [
        torch.distributions.Normal(m, 0.3).log_prob(x).flatten(1).sum(1) + np.log(w) for m, w in ((1, 0.75), (-1, 0.25))
    ]
    return replace(batch, chunks=(LOW + HIGH) / 2 + SCALE * x), torch.stack(logs).logsumexp(0)


def test_a_prior_finds_the_density_of_two_manners_of_moving():
    # mutation: weights without softmax; a mean over components instead of logsumexp; the floor squared
    critic = fitted(action_prior.Config(components=4, lr=3e-2), two_manners(512)[0], 200)
    fresh, known = two_manners(2000, seed=1)
    found = values(critic, fresh)
    assert (known - found).mean() == pytest.approx(0, abs=0.05)  # KL divergence from the truth
    assert torch.corrcoef(torch.stack([found, known]))[0, 1] > 0.98


def test_a_density_integrates_to_one():
    # mutation: forget the widths' logarithm
    mixtures = build(action_prior.Config(scope=1, components=3)).mixtures
    axis = torch.linspace(-8, 8, 321)
    grid = torch.cartesian_prod(axis, axis)[:, None]  # [G, 1, 2]
    with torch.no_grad():
        assert torch.allclose(mixtures(grid).exp().sum(1) * 0.05**2, torch.ones(2), atol=1e-3)


def test_a_prior_sees_nothing_and_encodes_no_image_for_it():
    # the defining term, the missing condition: mutation: leave the usual encoder in
    s = spec(images=True, language=True)
    critic, chunks = build(action_prior.Config(), s).eval(), torch.rand(3, 4, 4, 2)
    assert {name.split(".")[0] for name, _ in critic.named_parameters()} == {"mixtures"}
    one, other = (observation(s, 3, task=(task,) * 3) for task in TASKS)
    other = replace(other, state=other.state + 5)
    scores = [critic.score(critic.encode(seen), chunks).value for seen in (one, other)]
    assert torch.equal(*scores)


def test_a_gripper_that_never_moves_does_not_make_a_chunk_infinitely_plausible():
    # mutation: no floor
    batch = random_batch(SPEC)
    still = replace(batch, chunks=torch.zeros_like(batch.chunks))
    config = action_prior.Config(components=2, floor=0.1, lr=0.3)
    highest = -4 * np.log(0.1 * np.sqrt(2 * np.pi))  # four numbers at the peak of the narrowest Gaussian
    assert highest - 1 < values(fitted(config, still, 150), still).max() < highest


def test_a_mixture_of_nothing_is_refused():
    with pytest.raises(
        ValueError, match=r"expected at least 1 component and a floor > 0, got 0 components and floor 0.05"
    ):
        build(action_prior.Config(components=0))


# Preferences --------------------------------------------------------------------------------------------------------


def utility(batch):
    """[B]: good is to move as the first number of the state says."""
    moved = ((batch.chunks - (LOW + HIGH) / 2) / (HIGH - LOW)).flatten(1).mean(1)
    return batch.observation.state[:, 0, 0] * moved


def judged(n: int = 256, seed: int = 0):
    """Chunks at 16 states; where the robot was decides ten times more of the return than what it did."""
    batch = random_batch(SPEC, n, seed=seed)
    state = random_batch(SPEC, 16, seed=99).observation.state[torch.arange(n) % 16]
    batch = replace(batch, observation=replace(batch.observation, state=state))
    return replace(batch, mc_return=utility(batch) + 10 * state[:, 0, 1])


def share_in_order(critic) -> float:
    """Of two fresh chunks at one state, how often the better one has the higher reward."""
    first, second = judged(seed=1), judged(seed=2)
    better = utility(first) > utility(second)
    return (better == (values(critic, first) > values(critic, second))).float().mean().item()


def test_a_reward_ranks_chunks_as_the_known_utility_does():
    # mutation: the other's chunk at the other's state; -lead; compare with the row itself
    assert share_in_order(fitted(PAGES["preference"], judged(), 100)) > 0.9


def test_without_the_comparison_at_one_state_the_robots_place_decides():
    # the defining term removed: every other row is similar
    assert share_in_order(fitted(replace(PAGES["preference"], bandwidth=1e3), judged(), 100)) < 0.75


def test_a_chunk_that_wins_seven_of_eight_comparisons_is_better_by_log_seven():
    # mutation: a hinge instead of the logistic; twice the lead
    batch, i = random_batch(SPEC, 128), torch.arange(128)
    good = i % 2 == 0
    gain = torch.where(good, torch.where(i % 8 == 0, 1.0, 3.0), torch.where(i % 4 == 1, 0.0, 2.0))
    chunks = torch.where(good[:, None, None], HIGH, LOW).expand(-1, 2, -1)
    same = replace(batch.observation, state=torch.ones(128, 1, 2))
    batch = replace(batch, observation=same, chunks=chunks, mc_return=gain)
    found = values(fitted(PAGES["preference"], batch, 150), batch)
    assert found[0] - found[1] == pytest.approx(np.log(7), abs=0.35)


def test_what_a_place_alone_is_worth_cancels(monkeypatch):
    # mutation: the other's chunk at the other's state
    critic, batch = build(replace(PAGES["preference"], bandwidth=10.0)), random_batch(SPEC)
    monkeypatch.setattr(critic.q, "forward", lambda features, chunk: 100 * features.sum(1).expand(2, -1))
    assert critic.loss(batch, torch.Generator().manual_seed(0))[0] == pytest.approx(np.log(2))


def test_chunks_with_the_same_outcome_teach_nothing():
    batch = replace(random_batch(SPEC), mc_return=torch.ones(8))
    critic = build(PAGES["preference"])
    loss, metrics = critic.loss(batch, torch.Generator().manual_seed(0))
    loss.backward()
    assert loss == 0 and metrics["compared"] == 0
    assert all(p.grad is None or not p.grad.any() for p in critic.parameters())


def test_a_row_is_compared_with_others_by_how_near_they_are_and_never_with_itself():
    # mutation: no Gumbel noise; bandwidth instead of its square; F forgotten
    features = torch.tensor([[0.0, 0.0], [0.1, 0.1], [0.2, 0.0]])
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([preference.neighbours(features, 0.1, generator) for _ in range(4000)])  # [draws, 3]
    assert (drawn != torch.arange(3)).all()
    weights = np.exp(-np.array([0.01, 0.02]) / (2 * 0.1**2))  # mean squared distances from row 0 to rows 1 and 2
    assert (drawn[:, 0] == 1).float().mean().item() == pytest.approx(weights[0] / weights.sum(), abs=0.03)


# Risks --------------------------------------------------------------------------------------------------------------

GAMMA = CHAIN.gamma
FALL = -0.5  # what the chain pays for leaving at the left end


def known_risks(tau: float):
    """Q_h of the chain's chunks: the recursion on every window, V_h the lower expectile, iterated on a table."""
    data, v = rows(CHAIN), [0.0] * (CHAIN.states + 1)
    for _ in range(SWEEPS):
        q = mean_by_key(((r.state, r.chunk), folded(r, v)) for r in data)
        for s, found in grouped((r.state, q[r.state, r.chunk]) for r in data).items():
            v[s] = expectile(found, 1 - tau)
    return q


def folded(r, v) -> float:
    taken = min(CHAIN.k, len(r.later))
    over = r.terminated and taken == len(r.later)
    risk = v[r.states[taken]]
    for i in reversed(range(taken)):
        cost = float(r.later[i] <= FALL)
        risk = cost if over and i == taken - 1 else (1 - GAMMA) * cost + GAMMA * max(cost, risk)
    return risk


def test_risks_on_a_chain_with_a_cliff_are_those_of_the_recursion():
    # mutation: upper expectile; sum for max; V_h where the task ended; the fold from the wrong end
    config = fisor.Config(hidden=(32, 32), lr=2e-2, layer_norm=False, gamma=GAMMA, tau=0.2, cost_below=FALL)
    known = known_risks(tau=0.9)
    assert known[0, (-1, -1, -1)] == 1  # it falls with the first step
    assert known[2, (1, 1, 1)] == 0  # it leaves at the good end
    found = tabular_scores(config, CHAIN, known, 200)
    assert distance(found, known) < 0.04


def test_the_more_the_expectile_leans_the_more_a_risk_is_one_that_cannot_be_avoided():
    cautious, careless = known_risks(tau=0.99), known_risks(tau=0.5)
    away = (0, (1, -1, 1))  # from the edge one step away, back, and away again
    assert cautious[away] < 0.5 * careless[away]


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 4))
@example(seed=23, k=4)  # cut short by time after one step
@example(seed=24, k=4)  # ended at the second step, by a violation
def test_a_chunks_risk_is_the_paper_recursion_step_by_step(seed, k):
    # mutation: past the end a step of cost 0; a termination that goes on
    rng = np.random.default_rng(seed)
    steps, ended = rng.integers(1, 6), rng.random() < 0.5  # from the window's start to the episode's end
    batch = replace(
        random_batch(spec(horizon=4), 1),
        valid=torch.arange(4)[None] < steps,
        terminated=(torch.arange(4)[None] == steps - 1) & bool(ended),
    )
    cost, following = rng.integers(0, 2, 4).astype(float), float(rng.random())
    risk = following
    for i in reversed(range(min(k, steps))):
        over = ended and i == steps - 1
        risk = cost[i] if over else 0.1 * cost[i] + 0.9 * max(cost[i], risk)
    found = fisor.reachable(batch, torch.tensor(cost)[None], torch.tensor([following]).double(), 0.9, k)
    assert found.item() == pytest.approx(risk, abs=1e-6)


def test_a_violation_is_a_failure_that_ends_an_episode_or_a_reward_that_says_so():
    # mutation: time-outs; unknown outcomes; padding counted
    s, ends = spec(horizon=3), torch.tensor([[False, True, False]] * 4)
    batch = replace(
        random_batch(s, 4),
        rewards=torch.tensor([[0.0, 0, 0], [0, 0, 0], [0, 0, 0], [-1, 0, 0]]),
        valid=torch.tensor([[True, True, False]] * 4),
        terminated=ends & torch.tensor([True, True, True, False])[:, None],  # the last one ran out of time
        success=torch.tensor([1.0, 0.0, torch.nan, 0.0]),
    )
    failure = [[0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert fisor.costs(batch, None).tolist() == failure
    assert fisor.costs(batch, -0.5).tolist() == [*failure[:3], [1, 0, 0]]
    assert fisor.costs(batch, 0.0)[:, 2].sum() == 0


def test_of_two_opinions_the_larger_risk_counts():
    # mutation: rho = 1
    critic, batch = build(PAGES["fisor"]).eval(), random_batch(SPEC)
    with torch.no_grad():
        members = critic.q(*critic.see(batch))
    assert torch.allclose(values(critic, batch), members.amax(0), atol=1e-6)


def test_the_data_say_how_much_there_was_to_learn_of_danger():
    batch = random_batch(SPEC)
    metrics = build(fisor.Config(hidden=(8,))).loss(batch)[1]
    assert metrics["cost"] == 0 and fmean([float(metrics["risk"].isfinite())]) == 1
