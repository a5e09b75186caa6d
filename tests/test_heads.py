"""Every head reads out the same mean, distributional ones the distribution; losses are least where they should be."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from fakes import observation
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_fakes import TASKS, random_batch, spec, statistics
from scipy.stats import gennorm, norm
from test_critics import GAMMA, K, expected_values, two_states

from robot_value.critics import iql
from robot_value.critics.distribution import Distribution, gaussian_bins, midpoints
from robot_value.critics.heads import KINDS, Head, HeadConfig, bounds, make_head
from robot_value.critics.heads.c51 import C51
from robot_value.critics.heads.flow import Flow
from robot_value.critics.heads.gaussian import Gaussian
from robot_value.critics.heads.generalized_gaussian import GeneralizedGaussian, negative_log_density, relative_scale
from robot_value.critics.heads.hl_gauss import HLGauss
from robot_value.critics.heads.iqn import cosines, stratified
from robot_value.critics.heads.logit import Logit
from robot_value.critics.heads.quantile import quantile_loss
from robot_value.networks.ensemble import EnsembleMLP
from robot_value.networks.seeding import seeded_weights
from robot_value.normalize import MissingStatistics, Statistics
from robot_value.types import Features

DISTRIBUTIONAL = ("c51", "quantile", "iqn", "gaussian", "generalized_gaussian", "flow")
SMALL = HeadConfig(low=-0.25, high=1.25, bins=21, draws=16, cosines=4)  # 16 draws: a mean of 0 or 1 within 1 / 32
STEPS = 200


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values)


# The same mean from the same returns --------------------------------------------------------------------------------

# Three situations: success (1) with p = 0.3, a normal return N(0.4, 0.1^2), always 0.8.
MEANS, VARIANCES = [0.3, 0.4, 0.8], [0.21, 0.01, 0.0]
SITUATIONS, ROWS = torch.eye(3), 24


def points(generator: torch.Generator) -> Distribution:
    """What a TD target without distribution is: one atom per row; ROWS of each situation."""
    success = (torch.rand(ROWS, generator=generator) < 0.3).float()
    normal = 0.4 + 0.1 * torch.randn(ROWS, generator=generator)
    return Distribution.point(torch.cat([success, normal, torch.full((ROWS,), 0.8)]))


def atoms(generator: torch.Generator) -> Distribution:
    """The same returns as two weighted atoms per row."""
    success, certain = numbers(0.0, 1.0).expand(ROWS, 2), numbers(0.8, 0.8).expand(ROWS, 2)
    normal = 0.4 + 0.1 * torch.randn((ROWS, 2), generator=generator)
    even = torch.full((2 * ROWS, 2), 0.5)
    return Distribution(torch.cat([success, normal, certain]), torch.cat([numbers(0.7, 0.3).expand(ROWS, 2), even]))


@cache
def trained(kind: str) -> tuple[Head, EnsembleMLP]:
    """A network of two members after Adam on fresh returns, as points and as atoms in turns."""
    head = make_head(replace(SMALL, kind=kind), {})
    with seeded_weights(0):
        net = EnsembleMLP(2, 3 + head.extra, (32, 32), head.outputs)
    optimizer, generator = torch.optim.Adam(net.parameters(), lr=1e-2), torch.Generator().manual_seed(0)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / STEPS)
        target = (points, atoms)[step % 2](generator)
        _, loss = head.regress(net, SITUATIONS.repeat_interleave(ROWS, 0), target, generator)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    return head, net


@pytest.mark.parametrize("kind", KINDS)
def test_every_head_reads_out_the_same_known_mean_and_the_distributional_ones_the_spread(kind):
    # mutation: forget the target's weights; read out at random levels; the flow's starts too narrow; NLL for the means
    head, net = trained(kind)
    with torch.no_grad():
        mean, distribution = head.mean(net, SITUATIONS), head.distribution(net, SITUATIONS)
    assert mean.shape == (2, 3)
    assert mean.flatten().tolist() == pytest.approx(2 * MEANS, abs=0.04)
    assert torch.allclose(distribution.mean, mean, atol=1e-5)
    expected = VARIANCES if kind in DISTRIBUTIONAL else [0.0, 0.0, 0.0]
    assert distribution.variance.flatten().tolist() == pytest.approx(2 * expected, abs=0.035)


@pytest.mark.parametrize("kind", KINDS)
def test_a_regression_reports_the_readouts_mean_and_each_member_feels_its_own_loss(kind):
    # mutation: report the drawn target's end (flow); the loss summed over members
    head, net = trained(kind)
    net.zero_grad()
    target = Distribution.point(torch.full((600,), 0.6))  # reported is what was believed, not what is taught
    mean, loss = head.regress(net, SITUATIONS.repeat(200, 1), target, torch.Generator().manual_seed(1))
    assert mean.shape == loss.shape == (2, 600)
    reported = mean.detach().unflatten(1, (200, 3)).mean(1)
    assert torch.allclose(reported, head.mean(net, SITUATIONS).detach(), atol=0.05)
    loss[0].sum().backward()
    for weight in net.weights:
        assert weight.grad[0].abs().sum() > 0 and weight.grad[1].abs().sum() == 0


# Closed forms -------------------------------------------------------------------------------------------------------


def constant(*outputs: float):
    """A network that puts out these numbers whatever it sees, and the numbers as a leaf."""
    leaf = torch.tensor(outputs, dtype=torch.float64, requires_grad=True)
    return (lambda x: leaf.expand(1, len(x), -1)), leaf


def minimum(head, target: Distribution, outputs: int, steps: int = 600, lr: float = 0.05) -> torch.Tensor:
    """The outputs of a free network after gradient descent on one row."""
    net, leaf = constant(*[0.0] * outputs)
    optimizer = torch.optim.Adam([leaf], lr=lr)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        optimizer.zero_grad()
        head.regress(net, torch.zeros(1, 0), target)[1].sum().backward()
        optimizer.step()
    return leaf.detach()


def test_cross_entropy_on_returns_is_least_at_the_mean_in_units_of_the_range():
    # mutation: sigmoid without low; target not mapped
    head = Logit(-4.0, 6.0)
    target = Distribution(torch.tensor([[-3.0, 5.0]]).double(), torch.tensor([[0.25, 0.75]]).double())
    leaf = minimum(head, target, 1)
    assert head.mean(lambda x: leaf.expand(1, 1, 1), torch.zeros(1, 0)).item() == pytest.approx(3.0, abs=1e-3)


@pytest.mark.parametrize("kind", ["logit", "hl_gauss", "c51", "flow"])
def test_targets_outside_the_bounds_count_as_the_bound(kind):
    # mutation: no clamp
    head = make_head(HeadConfig(kind, low=0.0, high=1.0), {})
    with seeded_weights(0):
        net = EnsembleMLP(1, 2 + head.extra, (8,), head.outputs)
    x = torch.ones(2, 2)
    losses = [
        head.regress(net, x, Distribution.point(numbers(*y)), torch.Generator().manual_seed(0))[1]
        for y in ((-5.0, 9.0), (0.0, 1.0))
    ]
    assert torch.equal(*losses)


@pytest.mark.parametrize("value", [-1.0, -0.4, 0.0, 0.773, 1.0])
def test_hl_gauss_is_scipys_normal_mass_and_keeps_the_mean_up_to_the_edges(value):
    # mutation: bins over [low, high] only
    head = HLGauss(-1.0, 1.0, bins=51, sigma=0.75)
    edges = head.edges().double().numpy()
    assert np.allclose(np.diff(edges), head.width, atol=1e-6) and head.sigma == pytest.approx(0.75 * head.width)
    mass = np.diff(norm.cdf(edges, value, head.sigma))
    got = head.probabilities(torch.tensor(value))
    assert got.numpy() == pytest.approx(mass / mass.sum(), abs=1e-5)
    centres = (edges[1:] + edges[:-1]) / 2
    assert (got.numpy() * centres).sum() == pytest.approx(value, abs=0.01 * head.width)


@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=7), tau=st.floats(0.05, 0.95))
def test_the_quantile_loss_is_least_at_the_quantile(values, tau):
    # mutation: 1(u > 0); slope without the absolute value
    target = Distribution.samples(torch.tensor([values], dtype=torch.float64))
    levels = torch.tensor([tau], dtype=torch.float64)

    def loss(q: float) -> float:
        return quantile_loss(torch.full((1, 1, 1), q, dtype=torch.float64), levels, target, huber=0.0).item()

    quantile = float(np.quantile(values, tau, method="inverted_cdf"))
    assert loss(quantile) == pytest.approx(min(loss(v) for v in values), abs=1e-9)
    assert all(loss(quantile + step) >= loss(quantile) - 1e-9 for step in (-0.1, 0.1))


def test_within_kappa_the_quantile_loss_is_a_parabola_and_beyond_it_the_slope_is_the_level():
    target, levels = Distribution.point(torch.zeros(1)), torch.tensor([0.25])
    at = {q: quantile_loss(torch.full((1, 1, 1), q), levels, target, huber=0.5).item() for q in (-1.0, -0.5, 0.25, 0.5)}
    assert at[-1.0] == pytest.approx(0.25 * (1 - 0.25))  # u = 1: above, |u| - kappa / 2
    assert at[0.25] == pytest.approx(0.75 * 0.25**2 / (2 * 0.5))  # u = -1/4: below
    assert at[-0.5] == pytest.approx(0.25 * 0.25) and at[0.5] == pytest.approx(0.75 * 0.25)


def test_free_quantiles_of_a_known_return_distribution_are_its_quantiles():
    # mutation: levels i / N
    atoms = torch.from_numpy(norm.ppf((np.arange(400) + 0.5) / 400))
    q = minimum(make_head(HeadConfig("quantile", levels=8), {}), Distribution.samples(atoms[None]), 8)
    assert q.tolist() == pytest.approx(norm.ppf(midpoints(8).numpy()).tolist(), abs=0.02)


def test_c51_learns_the_projected_distribution_itself():
    head = C51(0.0, 1.0, bins=5)
    target = Distribution(torch.tensor([[0.1, 1.0]]).double(), torch.tensor([[0.4, 0.6]]).double())
    p = minimum(head, target, 5).softmax(-1)
    assert p.tolist() == pytest.approx([0.24, 0.16, 0.0, 0.0, 0.6], abs=5e-3)


@pytest.mark.parametrize("head", [Gaussian(32), GeneralizedGaussian(64)], ids=["gaussian", "generalized_gaussian"])
def test_a_rare_success_keeps_its_mean_and_its_variance(head):
    # mutation: the NLL for the mean (it settles on 0); a clip at a fixed width
    target = Distribution(torch.tensor([[0.0, 1.0]]).double(), torch.tensor([[0.9, 0.1]]).double())
    leaf = minimum(head, target, head.outputs)
    read = head.distribution(lambda x: leaf.float().expand(1, 1, -1), torch.zeros(1, 0))
    assert read.mean.item() == pytest.approx(0.1, abs=1e-3)
    assert leaf[0].item() == pytest.approx(0.1, abs=1e-3)
    if head.outputs == 2:  # two numbers are not what a generalised normal can be, so its width is a compromise
        assert read.variance.item() == pytest.approx(0.09, abs=5e-3)


def test_the_mean_learns_from_the_expected_target_and_the_spread_from_the_atoms():
    # mutation: the mean from the NLL, sigma from E[y]: no spread is ever learned from it
    net, leaf = constant(0.5, 0.3)
    spread = Distribution.samples(torch.tensor([[0.0, 1.0]]).double())
    gradients = []
    for target in (spread, Distribution.point(torch.tensor([0.5]).double())):
        (gradient,) = torch.autograd.grad(Gaussian(8).regress(net, torch.zeros(1, 0), target)[1].sum(), leaf)
        gradients.append(gradient)
    assert gradients[0][0].item() == pytest.approx(0, abs=1e-12) and gradients[1][0].item() == pytest.approx(
        0, abs=1e-12
    )
    assert gradients[1][1] > gradients[0][1] + 0.01  # the same mean, less spread: sigma is drawn down harder


@settings(max_examples=30, deadline=None)
@given(error=st.floats(1e-3, 3), sigma=st.floats(0.1, 3), beta=st.floats(0.6, 7.5))
def test_the_generalized_normal_density_is_scipys(error, sigma, beta):
    # mutation: variance for standard deviation in relative_scale
    beta_t = torch.tensor(beta, dtype=torch.float64)
    got = negative_log_density(
        torch.tensor(error, dtype=torch.float64), torch.tensor(sigma, dtype=torch.float64), beta_t
    )
    alpha = sigma * relative_scale(beta_t).item()
    assert gennorm.std(beta, scale=alpha) == pytest.approx(sigma, rel=1e-4)
    assert got.item() == pytest.approx(-gennorm.logpdf(error, beta, scale=alpha), abs=1e-4)


def test_a_generalized_gaussian_tells_tails_apart():
    # mutation: beta fixed at 2
    uniform = torch.linspace(-1, 1, 101, dtype=torch.float64)[None]
    laplace = torch.from_numpy(gennorm.ppf((np.arange(101) + 0.5) / 101, 1.0))[None]
    head = GeneralizedGaussian(32)
    betas = [head.read(minimum(head, Distribution.samples(atoms), 3))[2].item() for atoms in (laplace, uniform)]
    assert betas[0] == pytest.approx(1.0, abs=0.15) and betas[1] > 5


# Levels and flows ---------------------------------------------------------------------------------------------------


def test_drawn_levels_cover_every_part_of_the_unit_interval_evenly():
    # mutation: plain uniform
    levels = stratified(500, 4, torch.device("cpu"), torch.Generator().manual_seed(0))
    assert torch.equal((levels * 4).long(), torch.arange(4).expand(500, -1))
    assert levels.mean().item() == pytest.approx(0.5, abs=0.01)


def test_cosines_tell_a_level():
    assert cosines(numbers(0.0, 0.5, 1.0), 2).tolist() == [
        pytest.approx([1.0, 1.0]),
        pytest.approx([0.0, -1.0], abs=1e-6),
        pytest.approx([-1.0, 1.0]),
    ]


class Known:
    """A network whose velocity is known, for a flow whose embeddings are read back: v(z, t) = f(z, t)."""

    def __init__(self, head: Flow, f):
        self.head, self.f, self.calls = head, f, 0

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """inputs [rows, F] for all members, or [2, rows, F]: each its own."""
        self.calls += 1
        inputs = inputs.expand(2, *inputs.shape[-2:])
        t = torch.acos(inputs[..., -self.head.extra].clamp(-1, 1)) / torch.pi  # cos(pi t) is the first cosine
        v = self.f(self._place(inputs[..., -self.head.bins :]), t)
        return (v + torch.tensor([[0.0], [0.1]]))[..., None]  # the second member is 0.1 faster

    def _place(self, bins: torch.Tensor) -> torch.Tensor:
        grid = torch.linspace(0, 1, 4001)
        known = gaussian_bins(grid, torch.linspace(0, 1, self.head.bins + 1), self.head.spread) * self.head.bins
        return grid[torch.cdist(bins, known[None]).argmin(-1)]


def flow(**changes) -> Flow:
    given = {"steps": 8, "draws": 4, "bins": 20, "spread": 0.32, "coverage": 1.0, "cosines": 4}
    return Flow(-1.0, 3.0, **(given | changes))


def test_a_constant_velocity_moves_every_start_by_itself():
    # mutation: dt forgotten; readout not in the unit of returns
    head = flow(coverage=0.5)
    distribution = head.distribution(Known(head, lambda z, t: torch.full_like(z, 0.125)), torch.zeros(1, 0))
    starts = -1 + 4 * (0.25 + 0.5 * midpoints(4))
    assert distribution.atoms[0, 0].tolist() == pytest.approx((starts + 0.5).tolist(), abs=1e-5)
    assert distribution.atoms[1, 0].tolist() == pytest.approx((starts + 0.9).tolist(), abs=1e-5)


def test_a_decaying_velocity_is_integrated_as_euler_does_each_member_along_its_own_path():
    # mutation: all members at the first one's place; time that runs from 1
    head = flow(steps=4)
    distribution = head.distribution(Known(head, lambda z, t: 0.3 - z + 0.2 * t), torch.zeros(1, 0))
    for member, faster in enumerate((0.0, 0.1)):
        z = midpoints(4).double()
        for step in range(4):
            z = z + (0.3 - z + 0.2 * step / 4 + faster) / 4
        assert distribution.atoms[member, 0].tolist() == pytest.approx((-1 + 4 * z).tolist(), abs=5e-3)


def test_several_steps_correct_an_early_error_and_one_step_keeps_it():
    # mutation: z_t always the start. This is what floq integrates for; a constant target's field is (y - z) / (1 - t)
    def disturbed(z, t):
        return (0.7 - z) / (1 - t).clamp_min(1e-6) + 0.4 * (t < 0.01)

    ends = {
        steps: flow(steps=steps).mean(Known(flow(steps=steps), disturbed), torch.zeros(1, 0))[0, 0].item()
        for steps in (1, 8)
    }
    assert ends[8] == pytest.approx(-1 + 4 * 0.7, abs=0.01)
    assert ends[1] == pytest.approx(-1 + 4 * 1.1, abs=0.01)


def test_atoms_are_drawn_as_often_as_they_weigh():
    # mutation: uniform over atoms; index off by one
    head = flow(draws=4000)
    target = Distribution(torch.tensor([[-1.0, 1.0, 3.0]]), torch.tensor([[0.2, 0.0, 0.8]]))
    drawn = head._draw(target, torch.Generator().manual_seed(0))
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert drawn.mean().item() == pytest.approx(0.8, abs=0.03)


# In a critic --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_two_states_get_the_same_values_from_every_head(kind):
    # mutation: any head whose mean is not the target's
    head = HeadConfig(kind, low=-0.2, high=1.2, levels=16, bins=21, flow_steps=4, draws=8, cosines=4)
    config = iql.Config(
        members=1, hidden=(32, 32), gamma=GAMMA, expectile=0.8, tau=0.1, lr=5e-3, aggregate="mean", head=head
    )
    s = spec(horizon=K, state=1)
    critic, batch, generator = config.build(s, statistics(s)), two_states(), torch.Generator().manual_seed(0)
    for _ in range(200):
        critic.update(batch, generator)
    scores = critic.score(Features(critic.encoder(batch.observation)), batch.chunks[:, None])
    assert scores.value[:, 0].tolist() == pytest.approx(expected_values(0.8)[1], abs=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_every_head_are_repeatable_differentiable_and_never_finite_on_nan(kind):
    # mutation: random levels in the readout; nan_to_num in an embedding
    s = spec()
    critic = iql.Config(members=2, hidden=(16, 16), head=replace(SMALL, kind=kind)).build(s, statistics(s), TASKS)
    chunks = torch.zeros(3, 4, 4, 2)
    chunks[1, 2, 0, 1] = float("nan")
    chunks.requires_grad_()
    context = critic.encode(observation(s))
    value = critic.score(context, chunks).value
    assert torch.equal(value, critic.score(context, chunks).value) or value.isnan().sum() == 1
    assert not value[1, 2].isfinite() and value.isfinite().sum() == 11
    (gradient,) = torch.autograd.grad(value[value.isfinite()].sum(), chunks)
    assert gradient[0].isfinite().all() and gradient[0].abs().sum() > 0
    metrics = critic.update(random_batch(s), torch.Generator().manual_seed(0))
    assert all(number.isfinite() for number in metrics.values())


# Configuration ------------------------------------------------------------------------------------------------------


def return_statistics(low: float, high: float) -> dict[str, Statistics]:
    return {
        "return": Statistics(numbers(0.5).numpy(), numbers(0.1).numpy(), numbers(low).numpy(), numbers(high).numpy(), 9)
    }


def test_bounds_come_from_the_config_or_else_from_the_data():
    # mutation: the data before the config
    given = HeadConfig("c51", low=-1.0, high=2.0)
    assert bounds(given, return_statistics(0, 1)) == (-1.0, 2.0)
    assert bounds(HeadConfig("c51"), return_statistics(-20, 0)) == (-20.0, 0.0)
    assert bounds(HeadConfig("c51"), return_statistics(3, 3)) == (2.5, 3.5)  # nobody ever succeeded, or all did
    assert bounds(HeadConfig("c51", low=-3.0), {}) == (-3.0, 0.0)


@pytest.mark.parametrize("kind", ["logit", "hl_gauss", "c51", "flow"])
def test_a_head_on_bounds_nobody_gave_says_what_to_do(kind):
    with pytest.raises(MissingStatistics, match=f"head {kind}: expected bounds of the returns, got none; set head.low"):
        make_head(HeadConfig(kind), {})
    with pytest.raises(ValueError, match=r"expected low < high, got 2.0 and 1.0"):
        make_head(HeadConfig(kind, low=2.0, high=1.0), {})


def test_unusable_settings_are_refused():
    for changes, message in (
        ({"kind": "gauss"}, "head.kind: expected one of scalar, logit, .*, got 'gauss'"),
        (
            {"kind": "hl_gauss", "sigma": 20.0},
            r"head.sigma: expected more than 0 and less than bins / 6 = 16.8, got 20",
        ),
        ({"kind": "c51", "bins": 1}, "head.bins: expected at least 2, got 1"),
        ({"kind": "flow", "coverage": 0.0}, "head.coverage: expected more than 0, up to 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            make_head(replace(HeadConfig(low=0.0, high=1.0), **changes), {})
