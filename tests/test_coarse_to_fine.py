"""Zooming into chunks: the grid against interval splitting, CQN-AS and ARSQ against bandits with known values."""

from __future__ import annotations

import itertools
from dataclasses import replace

import draccus
import pytest
import torch
from contracts import check_critic, check_policy, noise
from fakes import observation
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_fakes import TASKS, random_batch, spec, statistics

from robot_value import checkpoint
from robot_value.critics import arsq, cqn_as, iql
from robot_value.critics.chunk_bins import project
from robot_value.critics.coarse_to_fine import Grid, box, demonstrated, margin_loss, pick
from robot_value.policies import greedy
from robot_value.sampling import TensorObservation
from robot_value.training import load_model, load_policy
from robot_value.types import Features

CQN = cqn_as.Config(levels=2, bins=3, atoms=11, low=0.0, high=1.0, hidden=(32, 32), lr=1e-2, weight_decay=0.0, tau=0.1)
ARSQ = arsq.Config(levels=2, bins=3, hidden=(64, 64), lr=1e-2, tau=0.1)
BOTH = pytest.mark.parametrize("config", [CQN, ARSQ], ids=["cqn_as", "arsq"])


def build(config, s=None):
    s = s or spec()
    return config.build(s, statistics(s), TASKS).eval()


def bandit(critic, x, reward, success=None):
    """One decision from one state: actions x [rows, A] in the box, an outcome each, and the episode is over."""
    rows, s = len(x), critic.spec
    blank = TensorObservation(torch.zeros(rows, 1, s.state_dim), {}, torch.zeros(rows, dtype=torch.int64), ("",))
    return replace(
        random_batch(s, rows),
        observation=blank,
        next={1: blank},
        chunks=box(critic).unnormalize(x)[:, None],
        rewards=reward[:, None],
        terminated=torch.ones(rows, 1, dtype=torch.bool),
        mc_return=reward,
        success=torch.zeros(rows) if success is None else success,
    )


def trained(critic, batch, updates):
    for _ in range(updates):
        critic.update(batch)
    return critic.eval()


def scores(critic, batch):
    with torch.no_grad():
        return critic.score(Features(critic.encoder(batch.observation)), batch.chunks[:, None]).value[:, 0]


# The grid -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(levels=st.integers(1, 3), bins=st.integers(2, 5), x=st.floats(-1.5, 1.5, width=32))
def test_locating_a_number_is_splitting_its_interval_again_and_again(levels, bins, x):
    # mutation: clamp after the division by B^(L - l); centre of level l + 1; bins of the finest level first
    index, centres = Grid(levels, bins).locate(torch.tensor([[x]]))
    low, high, inside = -1.0, 1.0, min(max(x, -1.0), 1.0)
    for level in range(levels):
        assert float(centres[0, level, 0]) == pytest.approx((low + high) / 2, abs=1e-6)
        width = (high - low) / bins
        b = int(index[0, level, 0])
        low, high = low + b * width, low + (b + 1) * width
        assert low - 1e-5 <= inside <= high + 1e-5


@settings(max_examples=60, deadline=None)
@given(levels=st.integers(1, 3), bins=st.integers(2, 5), seed=st.integers(0, 99))
def test_zooming_along_the_bins_of_a_cell_comes_back_to_its_centre(levels, bins, seed):
    # mutation: zoom adds the bin before multiplying
    grid = Grid(levels, bins)
    x = torch.rand((3, 2, 2), generator=torch.Generator().manual_seed(seed)) * 2 - 1
    index, _ = grid.locate(x)
    cell = torch.zeros_like(index[:, 0])
    for level in range(levels):
        cell = grid.zoom(cell, index[:, level])
    centre = grid.centre(cell, levels)
    assert ((centre - x).abs() <= bins**-levels + 1e-5).all()
    assert grid.locate(centre)[0].equal(index)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99), temperature=st.sampled_from([0.3, 1.0, 5.0]))
def test_a_draw_has_the_softmax_s_probabilities_rises_with_u_and_leaves_a_uniform_u_over(seed, temperature):
    # mutation: compare with >; give back u itself
    values = torch.randn(4, generator=torch.Generator().manual_seed(seed))
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    index, left = pick(values.expand(len(u), -1), temperature, u)
    assert (index.diff() >= 0).all()
    share = torch.bincount(index, minlength=4) / len(u)
    assert torch.allclose(share, (values / temperature).softmax(-1), atol=1e-3)
    likely = left[index == share.argmax()]
    assert likely.mean() == pytest.approx(0.5, abs=0.01) and likely.max() > 0.99
    assert pick(values, 0.0, u[0])[0] == values.argmax()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99))
def test_the_margin_loss_is_the_mean_shortfall_against_every_other_bin(seed):
    # mutation: count the demonstrated bin as well
    g = torch.Generator().manual_seed(seed)
    values, index = torch.randn((2, 3, 4), generator=g), torch.randint(0, 4, (2, 3), generator=g)
    for row, got in enumerate(margin_loss(values, index, 0.5)):
        lacking = [
            max(0.0, 0.5 + float(values[row, i, b]) - float(values[row, i, index[row, i]]))
            for i in range(3)
            for b in range(4)
            if b != index[row, i]
        ]
        assert float(got) == pytest.approx(sum(lacking) / len(lacking), abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(points=st.lists(st.floats(-2, 3, width=32), min_size=1, max_size=5))
def test_projection_keeps_all_mass_and_the_mean_of_what_lies_inside(points):
    # mutation: no clamp to the edges; a tent twice as wide
    atoms, points = torch.linspace(-1, 2, 7), torch.tensor(points)
    weights = project(points, atoms)
    assert torch.allclose(weights.sum(-1), torch.ones(len(points)), atol=1e-5)
    assert torch.allclose(weights @ atoms, points.clamp(-1, 2), atol=1e-5)
    assert ((weights > 1e-5).sum(-1) <= 2).all()


def test_only_rows_of_successful_episodes_are_worth_imitating():
    # mutation: success != 0
    success = torch.tensor([1.0, 0.0, torch.nan, 1.0])
    assert demonstrated(success, torch.tensor([1.0, 1.0, 1.0, 0.5])).tolist() == [1.0, 0.0, 0.0, 0.5]


# CQN-AS -------------------------------------------------------------------------------------------------------------

# reward of cell (coarse bin, fine bin); the best fine bin is another one in every coarse bin
CELLS = torch.tensor([[0.0, 0.0, 1.0], [0.6, 0.3, 0.0], [0.85, 0.0, 0.0]])


def zoomed_reward():
    """Reward of the greedy chunk after learning from all nine cells, and the values of the cells."""
    critic = build(replace(CQN, bc_weight=0.0, td_weight=1.0), spec(horizon=1))
    cell = torch.arange(9)
    x = Grid(2, 3).centre(cell, 2)[:, None].expand(-1, 2)
    trained(critic, bandit(critic, x, CELLS.flatten()), 100)
    chosen = critic.bins.decode(critic.encoder(bandit(critic, x, CELLS.flatten()).observation)[:1])
    coarse, fine = Grid(2, 3).locate(chosen)[0][0, :, 0, 0].tolist()
    return float(CELLS[coarse, fine]), scores(critic, bandit(critic, x, CELLS.flatten()))


def test_the_value_of_a_chunk_is_that_of_its_finest_cell_and_zooming_finds_the_best_one():
    # mutation: score the coarsest level; gather the bins of another level
    reward, values = zoomed_reward()
    assert reward == 1.0
    assert torch.allclose(values, CELLS.flatten(), atol=0.12)


def test_without_the_centre_of_the_level_before_zooming_goes_astray(monkeypatch):
    # mutation (the defining term): every level sees the middle of the box
    blind = Grid.centre
    monkeypatch.setattr(Grid, "centre", lambda self, c, level: blind(self, c, level) * (level == self.levels))
    reward, values = zoomed_reward()
    assert reward < 0.5 and float((values - CELLS.flatten()).abs().max()) > 0.4


def test_imitation_makes_the_demonstrated_chunk_the_greedy_one_where_returns_say_nothing():
    # mutation: the margin pushes the demonstrated bin down
    x = torch.tensor([[0.7, -0.7]]).expand(8, -1)
    found = {}
    for weight in (1.0, 0.0):
        critic = build(replace(CQN, bc_weight=weight), spec(horizon=1))
        batch = bandit(critic, x, torch.full((8,), 0.5), torch.ones(8))
        trained(critic, batch, 30)
        chosen = critic.bins.decode(critic.encoder(batch.observation)[:1])[0, 0]
        found[weight] = Grid(2, 3).locate(chosen[None])[0].equal(Grid(2, 3).locate(x[:1])[0])
    assert found[1.0] and not found[0.0]


def test_the_greedy_backup_of_cqn_as_converges_on_a_chain_of_two_states():
    # mutation: target of the online network's own values at bins of the recorded chunk; no discount
    gamma, s = 0.9, spec(horizon=1, state=1)
    critic = build(replace(CQN, levels=1, bins=2, gamma=gamma, bc_weight=0.0, td_weight=1.0, atoms=21), s)
    state = torch.tensor([0.0, 0.0, 1.0, 1.0])  # high goes on from 0 to 1 and is rewarded there, low stays and ends
    x = torch.tensor([1.0, -1.0, 1.0, -1.0])[:, None].expand(-1, 2) * 0.9

    def seen(values):
        return TensorObservation(4 * values.view(-1, 1, 1), {}, torch.zeros(4, dtype=torch.int64), ("",))

    batch = replace(
        bandit(critic, x, torch.tensor([0.0, 0.0, 1.0, 0.0])),
        observation=seen(state),
        next={1: seen(torch.tensor([1.0, 0.0, 9.0, 9.0]))},
        terminated=torch.tensor([[False], [False], [True], [True]]),
    )
    values = scores(trained(critic, batch, 120), batch)
    assert values.tolist() == pytest.approx([gamma, gamma**2, 1.0, 0.0], abs=0.06)


def test_steps_know_what_was_chosen_before_them_and_nothing_after():
    # mutation: a GRU that runs backwards
    critic = build(CQN)
    features, x = torch.randn(1, critic.encoder.features), torch.zeros(1, 4, 2)
    other = x.clone()
    other[:, 2] = 0.9
    _, a = critic.bins.along(features, x)
    _, b = critic.bins.along(features, other)
    assert torch.allclose(a[:, 1, :2], b[:, 1, :2]) and not torch.allclose(a[:, 1, 3], b[:, 1, 3])


# ARSQ ---------------------------------------------------------------------------------------------------------------

CORNERS = torch.tensor(list(itertools.product([-0.5, 0.5], repeat=2)))  # [4, A]
XOR = torch.tensor([0.0, 1.0, 1.0, 0.0])


def learned_corners(alpha=0.05, reward=XOR, blind=False):
    critic = build(replace(ARSQ, levels=1, bins=2, alpha=alpha, bc_weight=0.0), spec(horizon=1))
    if blind:
        critic.bins.chosen.requires_grad_(False).zero_()
    return trained(critic, bandit(critic, CORNERS, reward), 150)


def greedy_reward(critic):
    chosen = critic.bins.decode(critic.encoder(bandit(critic, CORNERS, XOR).observation)[:1])[0, 0]
    return float(XOR[(CORNERS - chosen).abs().sum(1).argmin()])


def test_dimensions_that_only_make_sense_together_are_chosen_together():
    # mutation: cumsum without the shift; decode that forgets what it chose
    critic = learned_corners()
    assert torch.allclose(scores(critic, bandit(critic, CORNERS, XOR)), XOR, atol=0.1)
    assert greedy_reward(critic) == 1.0


def test_independent_dimensions_cannot_represent_an_exclusive_or():
    # mutation (the defining term): A_i no longer sees the bins chosen before it
    critic = learned_corners(blind=True)
    values = scores(critic, bandit(critic, CORNERS, XOR))
    assert float((values - XOR).abs().max()) > 0.3


def test_v_is_the_soft_value_of_all_chunks():
    # mutation: mean instead of sum in the log; alpha forgotten in one of two places
    alpha, reward = 0.2, torch.tensor([0.0, 0.4, 1.0, 0.7])
    critic = learned_corners(alpha, reward)
    batch = bandit(critic, CORNERS, reward)
    soft = alpha * float((reward / alpha).logsumexp(0))
    with torch.no_grad():
        assert critic.v(critic.encoder(batch.observation))[:, 0].tolist() == pytest.approx([soft, soft], abs=0.03)
    assert torch.allclose(scores(critic, batch), reward, atol=0.04)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 99), alpha=st.sampled_from([0.05, 1.0]))
def test_the_soft_policy_sums_to_one_over_all_chunks_whatever_the_weights(seed, alpha):
    # mutation: normalise over numbers instead of bins
    critic = build(replace(ARSQ, levels=2, bins=2, alpha=alpha, seed=seed), spec(horizon=1))
    every = torch.tensor(list(itertools.product([-0.75, -0.25, 0.25, 0.75], repeat=2)))[:, None]  # [16, 1, A]
    features = torch.randn((1, critic.encoder.features), generator=torch.Generator().manual_seed(seed))
    index, advantage = critic.bins(features.expand(16, -1), every)
    assert (arsq.total(advantage, index) / alpha).exp().sum().item() == pytest.approx(1.0, abs=1e-4)


def test_an_advantage_depends_on_all_choices_before_it_and_on_none_after():
    critic = build(ARSQ)
    features, x = torch.randn(1, critic.encoder.features), torch.full((1, 4, 2), -0.9)
    for i in range(8):
        other = x.flatten(1).clone()
        other[:, i] = -0.5  # another fine bin of the same coarse bin: level 0 stays, level 1 changes from i + 1 on
        a, b = critic.bins(features, x)[1], critic.bins(features, other.view_as(x))[1]
        assert torch.equal(a[:, 0], b[:, 0]) and torch.equal(a[:, 1, : i + 1], b[:, 1, : i + 1])
        assert not any(torch.allclose(a[:, 1, j], b[:, 1, j]) for j in range(i + 1, 8))


def test_drawing_at_alpha_is_the_soft_policy_itself():
    # mutation: draw each number from the same u
    critic = build(replace(ARSQ, levels=2, bins=2, alpha=0.5), spec(horizon=1))
    features = torch.randn((1, critic.encoder.features), generator=torch.Generator().manual_seed(1))
    grid = (torch.arange(100, dtype=torch.float64) + 0.5) / 100
    u = torch.cartesian_prod(grid, grid)[:, None]  # [10000, 1, A], evenly spread
    x = critic.bins.decode(features.expand(len(u), -1), None, u, 0.5)
    chunks, counts = x.unique(dim=0, return_counts=True)
    index, advantage = critic.bins(features.expand(len(chunks), -1), chunks)
    expected = (arsq.total(advantage, index) / 0.5).exp()
    assert len(chunks) == 16 and torch.allclose(counts / len(u), expected, atol=0.02)


def test_the_soft_backup_takes_the_least_v_of_the_averaged_ensemble():
    # mutation: online V; mean of the ensemble
    critic, batch = build(ARSQ), random_batch(spec())
    with torch.no_grad():
        for p in critic.v.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
        following = critic.target["v"](critic.encoder(batch.next[4])).amin(0)
        discounts = critic.gamma ** torch.arange(4)
        expected = batch.rewards @ discounts + critic.gamma**4 * following
        features, chunk = critic.see(batch)
        q = critic.values(features, chunk)
    assert float(critic.loss(batch)[1]["td_loss"]) == pytest.approx(float((q - expected).square().mean()), rel=1e-4)


# Both: the contract, and the policy that they are --------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("scope", [0, 3])
def test_a_coarse_to_fine_critic_keeps_the_contract(config, scope):
    check_critic(build(replace(config, scope=scope)), observation(spec()))


@BOTH
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_chunk_that_is_not_finite_has_no_cell_and_no_value(config, bad):
    # mutation: drop nan_where_not_finite
    critic = build(config)
    chunks = torch.zeros(3, 4, 4, 2)
    chunks[1, 2, 0, 1] = bad
    value = critic.score(critic.encode(observation(spec())), chunks).value
    assert not value[1, 2].isfinite() and value.isfinite().sum() == 11


@BOTH
def test_a_coarse_to_fine_critic_is_a_policy(config):
    # mutation: noise that is ignored; a prefix rounded to its cells
    policy, seen = greedy.acting(build(config), temperature=1.0), observation(spec())
    check_policy(policy, seen)
    prefix = torch.tensor([[0.0123, 3.21]]).expand(3, 1, 2)
    chunks, _ = policy.sample(policy.encode(seen), 4, noise(spec(), seen, 4), prefix=prefix)
    assert chunks[:, :, :1].equal(prefix[:, None].expand(3, 4, 1, 2))


@BOTH
def test_decoding_goes_on_from_the_prefix_it_is_given(config):
    # mutation: put the prefix in front of what would have been chosen without it
    critic = build(replace(config, seed=3))
    for p in critic.bins.parameters():
        p.data.mul_(3)  # so that steps matter to each other
    features = torch.randn((40, critic.encoder.features), generator=torch.Generator().manual_seed(0))
    free = critic.bins.decode(features)
    begun = critic.bins.decode(features, -free[:, :2])
    assert torch.allclose(begun[:, :2], -free[:, :2], atol=1e-6) and not torch.equal(begun[:, 2:], free[:, 2:])


def test_without_temperature_every_candidate_is_the_chunk_of_the_largest_value():
    # mutation: argmin in pick
    critic = build(replace(CQN, levels=1, bins=5))
    policy, seen = greedy.acting(critic), observation(spec())
    chunks, lengths = policy.sample(policy.encode(seen), 4, noise(spec(), seen, 4))
    assert (chunks == chunks[:, :1]).all() and (lengths == 4).all()
    others = torch.rand((3, 200, 4, 2)) * torch.tensor([0.2, 8.0]) + torch.tensor([-0.1, 0.0])
    best, rest = (critic.score(critic.encode(seen), c).value for c in (chunks[:, :1], others))
    assert (best >= rest - 1e-6).all()


def test_a_policy_of_a_short_scope_says_so_in_its_lengths():
    seen = observation(spec())
    policy = greedy.acting(build(replace(CQN, scope=3)))
    chunks, lengths = policy.sample(policy.encode(seen), 2, noise(spec(), seen, 2))
    assert (lengths == 3).all() and chunks[:, :, 3].equal(chunks[:, :, 2])


@BOTH
def test_a_greedy_policy_is_saved_with_the_critic_it_acts_by(config, tmp_path):
    # mutation: settings of the default config
    policy, seen = greedy.acting(build(replace(config, seed=5)), 0.3), observation(spec())
    settings_of = {"critic": policy.config.critic, "settings": policy.config.settings, "temperature": 0.3}
    checkpoint.save(
        tmp_path / "policy",
        kind="policies",
        name="greedy",
        config=settings_of,
        spec=policy.spec,
        tensors=policy.state_dict(),
        statistics=policy.statistics,
        extra={"tasks": list(TASKS)},
    )
    loaded = load_model(tmp_path / "policy")
    draws = noise(spec(), seen, 3)
    assert loaded.sample(loaded.encode(seen), 3, draws)[0].equal(policy.sample(policy.encode(seen), 3, draws)[0])


def test_a_policy_of_bins_refuses_guides_training_and_other_critics():
    policy, seen = greedy.acting(build(CQN)), observation(spec())
    with pytest.raises(ValueError, match="use a flow policy"):
        policy.sample(policy.encode(seen), 1, noise(spec(), seen, 1), guide=lambda x, t: None)
    with pytest.raises(ValueError, match="nothing to train but its critic"):
        policy.loss(random_batch(spec()))
    with pytest.raises(ValueError, match="expected a coarse-to-fine one"):
        greedy.acting(build(iql.Config(members=1, hidden=(8,))))
    with pytest.raises(ValueError, match="at least 2 bins, got 2 and 1"):
        build(replace(CQN, bins=1))


def test_a_saved_critic_is_loaded_as_the_policy_that_decodes_it(tmp_path):
    # mutation: load_policy returns the critic
    critic = build(CQN)
    checkpoint.save(
        tmp_path / "critic",
        kind="critics",
        name="cqn_as",
        config=draccus.encode(critic.config),
        spec=critic.spec,
        tensors=critic.state_dict(),
        statistics=critic.statistics,
    )
    policy, seen = load_policy(tmp_path / "critic"), observation(spec())
    noise = torch.zeros(3, 1, 4, 2)
    expected = greedy.acting(critic).sample(critic.encode(seen), 1, noise)[0]
    assert policy.sample(policy.encode(seen), 1, noise)[0].equal(expected)
