"""Actors on a two-mode bandit whose critic is known: each goes where its formula says, and not without its own term."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from contracts import check_policy
from fakes import observation
from learning_fakes import TASKS, random_batch, spec, statistics
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from robot_value.learners import Optimization, PolicyLearner
from robot_value.networks.observation import EncoderConfig
from robot_value.policies import (
    _distillation,
    _gaussian,
    advantage_weighted,
    edit,
    flow,
    importance_weighted,
    mild,
    noise,
    one_step,
)
from robot_value.types import Features, Scores

SPEC = spec(horizon=2, state=1)
FLOW = flow.Config(width=40, depth=2, sample_steps=4)
CONFIGS = {
    "one_step": one_step.Config(FLOW, width=32, depth=2),
    "mild": mild.Config(FLOW, width=32, depth=2),
    "edit": edit.Config(FLOW, hidden=(32,)),
    "edit alone": edit.Config(FLOW, hidden=(32,), pairs=False),
    "noise": noise.Config(FLOW, hidden=(32,)),
    "advantage_weighted": advantage_weighted.Config(FLOW),
    "importance_weighted": importance_weighted.Config(FLOW),
}
MIDDLE, REACH = (torch.from_numpy(x) for x in ((SPEC.low + SPEC.high) / 2, (SPEC.high - SPEC.low) / 4))
GOOD = MIDDLE + REACH  # the mode whose numbers are all +1 in `side`


def side(chunks):
    """+1 and -1 in every number are the two modes of the data; the limits are at +2 and -2."""
    return (chunks - MIDDLE) / REACH


def bandit(rows: int = 96, seed: int = 0):
    """Half of the chunks lie around +1, half around -1; nothing else differs."""
    batch, generator = random_batch(SPEC, rows, seed=seed), torch.Generator().manual_seed(seed)
    mode = torch.where(torch.arange(rows) % 2 == 0, 1.0, -1.0)[:, None, None]
    jitter = 0.1 * torch.randn(batch.chunks.shape, generator=generator)
    same = replace(batch.observation, state=torch.ones(rows, 1, 1))
    return replace(batch, chunks=MIDDLE + REACH * (mode + jitter), observation=same)


class Known(torch.nn.Module):
    """A critic whose value of a chunk, and of noise, is a formula; its weight shows who trains it."""

    spec, scope = SPEC, SPEC.horizon

    def __init__(self, value, noise_value=None) -> None:
        super().__init__()
        self.value, self.noise_value = value, noise_value
        self.weight = torch.nn.Parameter(torch.ones(()))

    def features(self, observation, generator=None):
        return observation.state.flatten(1)

    def score(self, context, chunks, lengths=None):
        return self._scores(self.value(chunks))

    def score_noise(self, context, z, time=None):
        return self._scores(self.noise_value(z))

    def _scores(self, value):
        value = self.weight * value
        return Scores(value, torch.zeros_like(value), torch.ones_like(value, dtype=torch.bool))


def mean(x):
    return x.flatten(2).mean(2)


UPHILL = Known(lambda chunks: mean(side(chunks)), mean)


@pytest.fixture(scope="module")
def clone():
    """A flow that has learned both modes."""
    learner = PolicyLearner(FLOW.build(SPEC, statistics(SPEC), TASKS), 400, Optimization(lr=5e-3, ema=0.98))
    generator, batch = torch.Generator().manual_seed(0), bandit(256)
    for _ in range(400):
        learner.update(batch, generator)
    return learner.deployed


def trained(config, clone, critic, steps: int = 180, lr: float = 8e-3, batch=None):
    """The actor on the frozen (or, where it trains it, copied) clone; deployed weights."""
    actor = config.build(SPEC, statistics(SPEC), TASKS)
    actor.adopt(clone)
    actor.attach(critic)
    learner = PolicyLearner(actor, steps, Optimization(lr=lr, ema=0.95, weight_decay=0.0, grad_clip=10.0))
    generator, batch = torch.Generator().manual_seed(1), batch or bandit()
    for _ in range(steps):
        learner.update(batch, generator)
    return learner.deployed


def drawn(actor, n: int = 400, seed: int = 5):
    """Noise [1, n, H, A] and the chunks made of it, as sides."""
    context = Features(actor.encoder(bandit(2).observation)[:1])
    draws = torch.randn(1, n, SPEC.horizon, SPEC.action_dim, generator=torch.Generator().manual_seed(seed))
    return draws, side(actor.sample(context, n, draws)[0])


def share_of_good(actor) -> float:
    return (drawn(actor)[1].flatten(2).mean(2) > 0).float().mean().item()


def test_the_clone_covers_both_modes(clone):
    sides = drawn(clone)[1]
    assert ((sides.abs() - 1).abs().mean((2, 3)) < 0.4).float().mean() > 0.8
    assert 0.4 < share_of_good(clone) < 0.6


# The contract -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONFIGS)
def test_every_actor_keeps_the_contract(name):
    s = spec()
    check_policy(CONFIGS[name].build(s, statistics(s), TASKS).eval(), observation(s))


@pytest.mark.parametrize("name", ["one_step", "edit", "noise"])
def test_an_actor_of_images_and_language_keeps_the_contract(name):
    s = spec(n_obs_steps=2, images=True, language=True)
    small = EncoderConfig(image_features=8, image_channels=(16, 16), text_features=4)
    config = replace(CONFIGS[name], base=replace(FLOW, encoder=small))
    seen = observation(s, 3, task=(TASKS[0], TASKS[1], TASKS[0]))
    check_policy(config.build(s, statistics(s), TASKS).eval(), seen)


@pytest.mark.parametrize("name", ["one_step", "mild", "edit", "noise", "advantage_weighted"])
def test_a_loss_without_a_critic_says_where_one_comes_from(name):
    with pytest.raises(ValueError, match=r"expected one, got none; train both with --critic.type, or give a trained"):
        CONFIGS[name].build(SPEC, statistics(SPEC)).loss(bandit())


@pytest.mark.parametrize("name", CONFIGS)
def test_a_loss_reaches_the_actors_own_weights_and_never_the_critics_or_a_frozen_bases(name, clone):
    # mutation: judge without `still`; adopt without requires_grad_
    actor, critic = CONFIGS[name].build(SPEC, statistics(SPEC)), Known(UPHILL.value, mean)
    actor.adopt(clone)
    actor.attach(critic)
    loss, metrics = actor.loss(bandit(), torch.Generator().manual_seed(0))
    loss.backward()
    assert critic.weight.grad is None and critic.weight.requires_grad
    touched = {n.split(".")[0] for n, p in actor.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    own = {
        "one_step": {"mu"},
        "mild": {"mu", "mu_target"},
        "edit": {"edit", "temperature"},
        "edit alone": {"edit", "temperature"},
        "noise": {"chooser", "temperature"},
    }
    assert touched == own.get(name, {"base"})
    assert all(p.requires_grad == (name not in own) for p in actor.base.parameters())
    assert all(not value.requires_grad for value in metrics.values())


@pytest.mark.parametrize("name", CONFIGS)
def test_without_a_trained_base_the_flow_is_cloned_along(name):
    actor = CONFIGS[name].build(SPEC, statistics(SPEC))
    actor.attach(UPHILL)
    if name == "importance_weighted":
        with pytest.raises(ValueError, match="expected a trained policy as reference, got random weights"):
            actor.loss(bandit())
        return
    actor.loss(bandit(), torch.Generator().manual_seed(0))[0].backward()
    assert actor.base.head.output.weight.grad.abs().sum() > 0


def test_an_average_of_an_actor_asks_the_same_critic_and_saves_none_of_it():
    # mutation: hold the critic in a tuple (copied with the actor), or as an attribute (saved with it)
    actor = CONFIGS["one_step"].build(SPEC, statistics(SPEC))
    learner = PolicyLearner(actor, 10)
    actor.attach(UPHILL)
    assert learner.deployed.critic is actor.critic is UPHILL
    assert not [name for name in actor.state_dict() if "critic" in name or name == "weight"]


def test_a_base_with_another_config_is_refused(clone):
    actor = one_step.Config(replace(FLOW, width=8)).build(SPEC, statistics(SPEC))
    with pytest.raises(ValueError, match=r"base: expected a flow policy with .*width=8.* got .*width=40"):
        actor.adopt(clone)


def test_a_critic_of_other_actions_is_refused():
    other = Known(mean)
    other.spec = spec(horizon=3, state=1)
    with pytest.raises(ValueError, match="the critic"):
        CONFIGS["one_step"].build(SPEC, statistics(SPEC)).attach(other)


# One step -----------------------------------------------------------------------------------------------------------


def pulled(kappa: float) -> Known:
    """Q = -kappa mean |x - x_good|^2 in normalized units: the loss' minimum is (alpha flow + kappa x_good) / (...)."""
    scale = torch.from_numpy(statistics(SPEC)["action"].std)
    return Known(lambda chunks: -kappa * mean(((chunks - GOOD) / scale).square()))


@pytest.mark.parametrize(("alpha", "kappa"), [(1.0, 1.0), (3.0, 1.0), (0.2, 1.0)])
def test_the_one_step_actor_ends_where_flow_and_critic_balance(clone, alpha, kappa):
    # mutation: alpha on the wrong term; +Q; noise of the flow not the actor's
    actor = trained(replace(CONFIGS["one_step"], alpha=alpha), clone, pulled(kappa))
    got, (_, flowed) = drawn(actor)[1], drawn(clone)
    expected = (alpha * flowed + kappa * 1.0) / (alpha + kappa)
    assert (got - expected).abs().mean() < 0.2
    assert (got.flatten(2).mean(2) > 0).float().mean() > (0.95 if alpha < kappa else 0.4)


def test_without_the_critic_the_one_step_actor_is_the_flow_in_one_call(clone, monkeypatch):
    # the defining term, -Q(s, mu), removed: nothing moves to the better mode
    config = replace(CONFIGS["one_step"], alpha=0.2)
    assert share_of_good(trained(config, clone, pulled(1.0))) > 0.95
    monkeypatch.setattr(
        "robot_value.policies.chunk_actor.ChunkActor.judge", lambda self, batch, chunks, g: chunks[:, :, 0, 0] * 0
    )
    plain = trained(config, clone, pulled(1.0))
    assert 0.35 < share_of_good(plain) < 0.65
    assert (drawn(plain)[1] - drawn(clone)[1]).abs().mean() < 0.25


def test_a_one_step_actor_asks_its_network_once_however_many_steps_the_flow_has():
    actor, calls = CONFIGS["one_step"].build(SPEC, statistics(SPEC)), []
    actor.mu.input.register_forward_hook(lambda *_: calls.append("mu"))
    actor.base.head.input.register_forward_hook(lambda *_: calls.append("flow"))
    drawn(actor, 16)
    assert calls == ["mu"]


# Mild ---------------------------------------------------------------------------------------------------------------


def test_the_mild_actor_leaves_the_data_further_than_the_one_in_the_backup(clone):
    # mutation: act uses mu_target; act_in_backup uses mu
    config = replace(CONFIGS["mild"], alpha=0.25, target_alpha=4.0)
    actor = trained(config, clone, pulled(1.0))
    flowed = drawn(clone)[1]
    draws, mild_sides = drawn(actor)
    context = Features(actor.encoder(bandit(2).observation)[:1])
    strict_sides = side(actor.target_policy.sample(context, draws.shape[1], draws)[0])
    for alpha, got in ((0.25, mild_sides), (4.0, strict_sides)):
        assert (got - (alpha * flowed + 1) / (alpha + 1)).abs().mean() < 0.2
    assert (strict_sides - flowed).abs().mean() < 0.5 * (mild_sides - flowed).abs().mean()


def test_with_one_constraint_for_both_the_mild_actor_is_the_strict_one(clone):
    # the defining term, alpha below target_alpha, removed
    actor = trained(replace(CONFIGS["mild"], alpha=4.0, target_alpha=4.0), clone, pulled(1.0))
    flowed = drawn(clone)[1]
    assert (drawn(actor)[1] - (4 * flowed + 1) / 5).abs().mean() < 0.2
    with pytest.raises(ValueError, match=r"alpha: expected 0 to target_alpha = 4.0, got 5.0"):
        replace(CONFIGS["mild"], alpha=5.0, target_alpha=4.0).build(SPEC, statistics(SPEC))


# Edits --------------------------------------------------------------------------------------------------------------


def edits(actor):
    """(edited - base) in units of beta half ranges, [B, pairs, H, A]."""
    sides = drawn(actor)[1]
    reach = 2 * actor.config.beta  # half of the range of the recorded actions is 2 in `side`
    return (sides[:, ::2] - sides[:, 1::2]) / reach


def test_edits_move_base_samples_uphill_and_never_further_than_beta(clone):
    # mutation: edit - beta; beta in standard deviations; -log_pi
    actor = trained(replace(CONFIGS["edit"], temperature=0.02), clone, UPHILL)
    moved = edits(actor)
    assert moved.abs().max() <= 1 + 1e-4
    assert moved.mean() > 0.5
    base = drawn(actor)[1][:, 1::2]
    assert torch.allclose(base, side(clone.sample(*again(clone))[0]), atol=1e-4), "the base stays what it was"


def again(policy):
    """What candidates 1, 3, ... of `drawn` are made from: every second row of its noise."""
    draws = drawn(policy)[0][:, ::2]
    return Features(policy.encoder(bandit(2).observation)[:1]), draws.shape[1], draws


def test_without_the_edit_candidates_are_base_samples(clone, monkeypatch):
    # the defining term, beta Delta, removed
    actor = trained(replace(CONFIGS["edit"], beta=0.0), clone, UPHILL, steps=3)
    assert drawn(actor)[1][:, ::2].equal(drawn(actor)[1][:, 1::2])


def test_without_the_critic_edits_have_no_direction(clone):
    moved = edits(trained(replace(CONFIGS["edit"], temperature=0.02), clone, Known(lambda chunks: 0 * mean(chunks))))
    assert moved.mean().abs() < 0.2


def test_a_prefix_is_never_edited(clone):
    actor = CONFIGS["edit"].build(SPEC, statistics(SPEC))
    context, n, draws = again(clone)
    prefix = MIDDLE.expand(1, 1, 2)
    chunks, _ = actor.sample(context, n, draws, prefix=prefix)
    assert torch.allclose(chunks[:, :, :1], prefix[:, None].expand(-1, n, -1, -1), atol=1e-4)
    assert not torch.allclose(chunks[:, ::2, 1:], chunks[:, 1::2, 1:], atol=1e-3)


# Noise --------------------------------------------------------------------------------------------------------------


def test_the_noise_policy_picks_the_seed_region_that_the_critic_likes(clone):
    # mutation: +Q_z; z not scaled by the bound; base not fed with z
    actor = trained(replace(CONFIGS["noise"], temperature=0.02), clone, UPHILL)
    assert share_of_good(actor) > 0.95
    z, _ = noise.choose(actor, Features(torch.zeros(1, 1)), 100 * drawn(actor)[0])
    assert z.abs().max() <= 1.5 and z.abs().max() > 1.4
    sides = drawn(actor)[1]
    assert ((sides - 1).abs().mean((2, 3)) < 0.5).float().mean() > 0.8, "what it plays is still the flow's mode"


def test_without_the_noise_critic_seeds_go_nowhere_in_particular(clone):
    # the defining term, -Q_z, removed
    indifferent = Known(UPHILL.value, lambda z: 0 * mean(z))
    assert 0.3 < share_of_good(trained(replace(CONFIGS["noise"], temperature=0.02), clone, indifferent)) < 0.7


def test_a_squashed_gaussian_knows_its_density():
    # mutation: forget the slope of tanh; log_std of the wrong sign
    torch.manual_seed(0)
    gaussian = _gaussian.SquashedGaussian(3, (8,), 2, 2)
    inputs, draws = torch.randn(5, 3), torch.randn(5, 2, 2)
    x, log_pi = gaussian(inputs, draws)
    mean_, log_std = gaussian.net(inputs).unflatten(-1, (2, 2, 2)).unbind(1)
    reference = TransformedDistribution(Normal(mean_, log_std.exp()), [TanhTransform()])
    assert torch.allclose(log_pi, reference.log_prob(x).flatten(1).sum(1), atol=1e-3)
    far, density = gaussian(inputs, draws * 1e4)
    assert far.abs().max() <= 1 and density.isfinite().all()


@pytest.mark.parametrize(("entropy", "rises"), [(-3.0, True), (1.0, False)])
def test_the_temperature_rises_while_the_entropy_is_below_its_target(entropy, rises):
    # mutation: target - entropy
    temperature = _gaussian.Temperature(0.5)
    assert temperature().item() == pytest.approx(0.5)
    temperature.loss(torch.tensor([-entropy]), target=-1.0).backward()
    assert (temperature.log.grad < 0) == rises


# Weighted cloning ---------------------------------------------------------------------------------------------------


def steep(ratio: float, temperature: float) -> Known:
    """Q differs by temperature log(ratio) between the modes, so the better one should be `ratio` times as frequent."""
    slope = temperature * torch.tensor(ratio).log() / 2
    return Known(lambda chunks: slope * mean(side(chunks)).sign())


def test_advantage_weights_make_the_better_mode_as_frequent_as_the_formula_says(clone):
    # mutation: exp(-A / T), A / T^2, max_weight of 1
    config = replace(CONFIGS["advantage_weighted"], temperature=0.5)
    actor = trained(config, clone, steep(4.0, 0.5), steps=250)
    assert share_of_good(actor) == pytest.approx(0.8, abs=0.09)


def test_without_the_weights_advantage_weighting_is_cloning(clone, monkeypatch):
    # the defining term, w, removed
    monkeypatch.setattr(advantage_weighted, "weights", lambda advantage, *_: torch.ones_like(advantage))
    actor = trained(replace(CONFIGS["advantage_weighted"], temperature=0.5), clone, steep(4.0, 0.5), steps=250)
    assert share_of_good(actor) == pytest.approx(0.5, abs=0.09)


def test_an_advantage_is_a_chunks_value_less_the_policys_own(clone):
    # mutation: the mean over the recorded chunk too
    actor = CONFIGS["advantage_weighted"].build(SPEC, statistics(SPEC))
    actor.adopt(clone)
    actor.attach(UPHILL)
    batch, generator = bandit(64), torch.Generator().manual_seed(0)
    got = advantage_weighted.advantages(actor, batch, generator)
    own = actor.teach(actor.features(batch), actor.draw(batch, torch.Generator().manual_seed(0), 4))
    assert torch.allclose(got, mean(side(batch.chunks[:, None]))[:, 0] - mean(side(own)).mean(1), atol=1e-5)
    assert advantage_weighted.weights(torch.tensor([-1e3, 0.0, 1e3]), 0.1, 20.0).tolist() == [0.0, 1.0, 20.0]
    with pytest.raises(ValueError, match=r"expected a temperature > 0 and at least 1 sample, got temperature 0\.0"):
        replace(CONFIGS["advantage_weighted"], temperature=0.0).build(SPEC, statistics(SPEC))


def fine_tuned(clone):
    """An importance-weighted actor whose flow has moved from its reference to the good mode."""
    actor = CONFIGS["importance_weighted"].build(SPEC, statistics(SPEC))
    actor.adopt(clone)
    batch, generator = bandit(), torch.Generator().manual_seed(0)
    good = replace(batch, weight=(torch.arange(96) % 2 == 0).float())
    optimizer = torch.optim.Adam(actor.base.parameters(), lr=2e-3)
    for _ in range(60):
        optimizer.zero_grad()
        actor.base.loss(good, generator)[0].backward()
        optimizer.step()
    return actor, batch


def share_of_gradient(actor, batch) -> float:
    """How much of the loss comes from the good mode's rows."""
    parts = []
    for rows in (torch.arange(96) % 2 == 0, torch.arange(96) % 2 == 1):
        loss, _ = actor.loss(replace(batch, weight=rows.float()), torch.Generator().manual_seed(3))
        flowed = importance_weighted.flow_losses(
            actor.base, replace(batch, weight=rows.float()), *fixed_draws(actor, batch)
        )
        parts.append((loss / flowed.mean(1)[rows].mean()).item())  # the rows' effective weight
    return parts[0] / sum(parts)


def fixed_draws(actor, batch):
    generator = torch.Generator().manual_seed(3)
    draws = actor.draw(batch, generator, actor.config.draws)
    return draws, torch.rand(draws.shape[:2], generator=generator)


def test_what_the_policy_finds_likelier_than_its_reference_weighs_more(clone, monkeypatch):
    # mutation: exp(L_flow - L_ref); the defining term, w, removed: both modes weigh the same
    actor, batch = fine_tuned(clone)
    assert share_of_gradient(actor, batch) > 0.55
    monkeypatch.setattr(importance_weighted, "weights", lambda ratio, *_: torch.ones_like(ratio))
    assert share_of_gradient(actor, batch) == pytest.approx(0.5, abs=1e-4)


def test_at_the_start_importance_weighting_is_plain_fine_tuning(clone):
    # mutation: adopt does not bring the reference
    actor = CONFIGS["importance_weighted"].build(SPEC, statistics(SPEC))
    actor.adopt(clone)
    loss, metrics = actor.loss(bandit(), torch.Generator().manual_seed(3))
    flowed = importance_weighted.flow_losses(actor.base, bandit(), *fixed_draws(actor, bandit()))
    assert metrics["weight"].item() == 1 and torch.allclose(loss, flowed.mean())
    assert importance_weighted.weights(torch.tensor([-50.0, 0.0, 50.0]), 16.0).tolist() == pytest.approx([0, 1, 16])


def test_a_rows_flow_loss_is_the_mean_over_its_valid_steps(clone):
    # mutation: divide by the horizon; ignore valid
    batch = bandit(6)
    batch.valid[0, 1:] = False
    draws = torch.randn(6, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    t = torch.rand(6, 3, generator=torch.Generator().manual_seed(1))
    got = importance_weighted.flow_losses(clone, batch, draws, t)
    data = clone.actions.normalize(batch.chunks)
    for row in range(6):
        for k in range(3):
            x = (1 - t[row, k]) * draws[row, k] + t[row, k] * data[row]
            condition = clone.head.condition(clone.encoder(batch.observation)[row : row + 1])
            error = clone.head(x[None], t[row, k][None], condition)[0] - (data[row] - draws[row, k])
            steps = 1 if row == 0 else 2
            assert got[row, k].item() == pytest.approx(error[:steps].square().mean().item(), rel=1e-4)


def test_the_teacher_may_run_packed(clone):
    packed, plain = (
        replace(CONFIGS["one_step"], precision=precision).build(SPEC, statistics(SPEC))
        for precision in ("float32", "off")
    )
    context, _, draws = again(clone)
    for actor in (packed, plain):
        actor.adopt(clone)
    assert torch.allclose(packed.teach(context, draws), plain.teach(context, draws), atol=1e-4)


def test_a_one_step_head_is_a_flow_of_one_step():
    assert _distillation.jump(lambda x, t, c: x + c + t, torch.ones(1, 2, 2), torch.zeros(1, 1, 1)).eq(1).all()
