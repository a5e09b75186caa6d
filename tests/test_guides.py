"""Guides inside real samplers: what they cost, what they leave alone, and which formula they follow."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fakes import observation
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_fakes import spec, statistics

from robot_value import components
from robot_value.flow import euler, midpoint
from robot_value.normalize import Statistics
from robot_value.policies import diffusion, flow
from robot_value.policies.lerobot_flow import integrate
from robot_value.steering.guides import gradient, halving, particles, realtime
from robot_value.steering.guides._resampling import ancestors, effective, shares
from robot_value.steering.moved import ever_moved
from robot_value.steering.proposal import Request
from robot_value.steering.selectors import argmax
from robot_value.steering.steerer import Steerer
from robot_value.types import ActionPart, Features, Scores, Spec, Steering

SPEC = spec(horizon=6)
EXECUTE = 3
POLICIES = {
    "flow": flow.Config(width=32, depth=2),
    "midpoint": flow.Config(width=32, depth=2, sampler="midpoint", sample_steps=5),
    "transformer": flow.Config(head="transformer", width=32, depth=1, heads=2),
    "diffusion": diffusion.Config(width=32, depth=2, normalization="mean_std"),
}
GUIDES = components.names("guides")


@dataclass
class NearCritic:
    """value = -|executed steps - goal|^2 in half ranges; counts the candidates it was shown."""

    scope: int = EXECUTE
    spec: object = SPEC
    shown: list[int] = field(default_factory=list)

    def encode(self, seen, policy_context=None) -> Features:
        return Features(torch.from_numpy(seen.state[:, -1]))

    def score(self, context, chunks, lengths) -> Scores:
        self.shown.append(chunks.shape[0] * chunks.shape[1])
        goal, half = (SPEC.low + SPEC.high) / 2, (SPEC.high - SPEC.low) / 2
        off = (chunks[:, :, :EXECUTE] - torch.from_numpy(goal + 0.5 * half)) / torch.from_numpy(half)
        value = -off.square().mean((2, 3))
        return Scores(value, torch.zeros_like(value), torch.ones_like(value, dtype=torch.bool))


def build(config):
    """Random weights, large enough to matter, whose chunks lie well inside the limits."""
    policy = config.build(SPEC, statistics(SPEC)).eval()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(1.3)
    return policy


def request(policy, n: int = 6, batch: int = 3, seen=None, **changes) -> Request:
    seen = observation(SPEC, batch) if seen is None else seen
    critic, device = NearCritic(), torch.device("cpu")
    plain = Request(policy, policy.encode(seen), seen, n, 0, device, EXECUTE, critic, critic.encode(seen))
    return replace(plain, **changes)


def previous(batch: int = 3, known: int = 5) -> torch.Tensor:
    """A plan of which the last steps are unknown."""
    g = torch.Generator().manual_seed(7)
    low, high = torch.from_numpy(SPEC.low), torch.from_numpy(SPEC.high)
    plan = low + (high - low) * torch.rand(batch, 6, 2, generator=g)
    plan[:, known:] = torch.nan
    return plan


def build_guide(name: str):
    return components.load("guides", name).Config().build()


def refused(guide: str, policy: str) -> bool:
    return guide == "realtime" and policy == "diffusion"


# Every guide --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("guide", GUIDES)
def test_candidate_0_is_the_plain_policys_and_something_else_changes(guide, policy):
    # mutations: halving without candidate 0's place; candidate 0 as a particle
    if refused(guide, policy):
        return
    r = request(build(POLICIES[policy]), 12, previous=previous())
    plain, (chunks, lengths) = r.sample(r.noise())[0], replace(r, guide=build_guide(guide)).sample(r.noise())
    assert torch.allclose(chunks[:, 0], plain[:, 0], atol=1e-5)
    assert not torch.allclose(chunks[:, 1:].nan_to_num(), plain[:, 1:], atol=1e-4)
    assert lengths.shape == (3, 12)


@pytest.mark.parametrize("guide", GUIDES)
def test_what_a_guide_does_to_a_robot_depends_on_that_robot_alone(guide):
    # mutation: one generator for all robots; one decay for all
    policy, plan = build(POLICIES["flow"]), previous()
    seen = observation(SPEC, 3)
    together = replace(request(policy, 12, previous=plan), guide=build_guide(guide))
    chunks = together.sample(together.noise())[0]
    for row in range(3):
        r = request(policy, 12, seen=seen.rows([row]), previous=plan[[row]], guide=build_guide(guide))
        assert torch.allclose(r.sample(r.noise())[0][0], chunks[row], atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("guide", [name for name in GUIDES if name != "realtime"])
def test_guides_by_value_find_better_chunks(guide):
    r = request(build(POLICIES["flow"]), 16)
    plain, chunks = r.sample(r.noise())[0], replace(r, guide=build_guide(guide)).sample(r.noise())[0]

    def score(x):
        alive = x.isfinite().all(3).all(2)
        return float(r.critic.score(None, x, None).value[:, 1:][alive[:, 1:]].mean())

    assert score(chunks) > score(plain) + 0.01


@pytest.mark.parametrize("guide", GUIDES)
def test_a_broken_candidate_stays_alone_and_never_wins(guide):
    # mutations: NaN scores rank first; NaN gradients are passed on
    policy = build(POLICIES["flow"])
    r = request(policy, 8, batch=1, previous=previous(1))
    noise = r.noise()
    noise[0, 3] = torch.nan
    chunks = replace(r, guide=build_guide(guide)).sample(noise)[0]
    finite = chunks.isfinite().all(3).all(2)[0]
    assert finite[0] and finite.sum() >= 2
    if guide in ("gradient", "realtime"):
        assert (~finite).nonzero()[:, 0].tolist() == [3]
    if guide == "halving":
        assert not finite[3]
    if guide == "particles":
        assert finite[3], "an empty slot takes a living parent"


@pytest.mark.parametrize("guide", GUIDES)
def test_a_steerer_decides_with_every_guide(guide):
    s = Steerer(build(POLICIES["flow"]), NearCritic(), argmax.Config().build(), n=8, guide=build_guide(guide))
    for step in (0, EXECUTE):
        decision = s(observation(SPEC, 2, step=np.full(2, step)))
        assert np.isfinite(decision.chunk).all() and set(decision.reason) <= {"chosen", "base"}


def test_a_flow_without_a_pull_back_never_builds_a_graph():
    # mutation: enable_grad around the whole sampler
    on = []

    def velocity(x, t):
        on.append(torch.is_grad_enabled())
        return -x

    with torch.no_grad():
        z = torch.randn(1, 2, 3, 2)
        euler(velocity, z, 4, lambda x_hat, t: Steering(displacement=torch.ones_like(x_hat)))
        assert on == [False] * 4
        euler(velocity, z, 4, lambda x_hat, t: Steering(displacement=torch.ones_like(x_hat), pull_back=True))
    assert on[4:] == [False, True] * 4


@pytest.mark.parametrize("config", [POLICIES["flow"], POLICIES["midpoint"]])
def test_a_displacement_is_in_spec_units(config):
    # mutation: multiplied by the scale, as gradients are
    policy = build(config)
    with torch.no_grad():
        for parameter in policy.head.output.parameters():
            parameter.zero_()  # the network says nothing: what moves is the displacement's
    r = request(policy)
    wish = torch.tensor([0.01, 0.5])  # m, and of the gripper

    def end(sign: int) -> torch.Tensor:
        return policy.sample(
            r.context, 6, 0.1 * r.noise(), guide=lambda x, t: Steering(displacement=sign * wish.expand_as(x))
        )[0]

    assert torch.allclose((end(1) - end(-1)) / 2, wish.expand(3, 6, 6, 2), rtol=1e-3)


# Halving ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["flow", "transformer", "diffusion"])
def test_halving_32_candidates_at_steps_2_4_and_6_of_10_costs_156_candidate_steps(policy):
    # mutation: pruned rows are computed; halving one step late
    p, rows = build(POLICIES[policy]), []
    hook = p.head.output.register_forward_hook(lambda module, x, y: rows.append(y.numel() // SPEC.horizon // 2))
    r = request(p, 32, batch=2)
    replace(r, guide=halving.Config().build()).sample(r.noise())
    hook.remove()
    assert rows == [2 * m for m in (32, 32, 32, 16, 16, 8, 8, 4, 4, 4)] and sum(rows) == 2 * 156
    assert r.critic.shown == [2 * 32, 2 * 16, 2 * 8], "and the critic judges only who is left"


def test_two_halvings_that_fall_into_one_step_keep_a_quarter():
    p = build(replace(POLICIES["flow"], sample_steps=2))
    r = request(p, 16, guide=halving.Config(times=(0.4, 0.2)).build())
    assert (r.sample(r.noise())[0].isfinite().all(3).all(2).sum(1) == 4).all()


@pytest.mark.parametrize("survivors", [[2, 2, 2], [1, 3, 2], [0, 4, 0], [0, 0, 0], [4, 4, 4]])
def test_who_survives_is_computed_right_however_unevenly_robots_were_pruned(survivors):
    # mutation: conditions shared although counts differ
    p = build(POLICIES["transformer"])
    r = request(p, 4)
    keep = torch.arange(4).flip(0) < torch.tensor(survivors)[:, None]  # the last ones
    x = p.sample(r.context, 4, r.noise(), guide=lambda x_hat, t: Steering(keep=keep if t < 0.25 else None))[0]
    assert torch.equal(x.isfinite().all(3).all(2), keep)
    assert torch.allclose(x[keep], r.sample(r.noise())[0][keep], atol=1e-5)


# Particles ----------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), m=st.integers(1, 30))
def test_systematic_resampling_gives_a_particle_the_floor_or_the_ceil_of_its_share(seed, m):
    # mutation: a u per point
    g = np.random.default_rng(seed)
    share = shares(torch.from_numpy(3 * g.standard_normal((1, m))))
    children = ancestors(share, torch.tensor([True]), [g], "systematic")[0].bincount(minlength=m)
    assert ((children - m * share[0]).abs() < 1 + 1e-9).all() and children.sum() == m


def test_multinomial_resampling_follows_the_weights_on_average():
    share = torch.tensor([[0.5, 0.3, 0.2, 0.0]], dtype=torch.float64).repeat(2000, 1)
    generators = [np.random.default_rng(row) for row in range(2000)]
    parents = ancestors(share, torch.ones(2000, dtype=torch.bool), generators, "multinomial")
    children = parents.flatten().bincount(minlength=4)
    assert torch.allclose(children / 8000, share[0].float(), atol=0.02) and children[3] == 0


def test_the_effective_number_of_particles_is_one_over_the_sum_of_squares():
    assert effective(torch.tensor([[0.25] * 4, [1.0, 0, 0, 0], [0.5, 0.5, 0, 0]])).tolist() == [4, 1, 2]


def test_particles_of_equal_value_are_left_alone():
    # mutation: resample whatever the weights
    r = request(build(POLICIES["flow"]), 8)
    r.critic.score = lambda context, chunks, lengths: Scores(*[torch.ones(chunks.shape[:2])] * 2, None)
    chunks = replace(r, guide=particles.Config().build()).sample(r.noise())[0]
    assert torch.allclose(chunks, r.sample(r.noise())[0], atol=1e-5)


@pytest.mark.parametrize("wrong", [{"potential": "min"}, {"draw": "stratified"}, {"churn": 1.5}, {"every": 0}])
def test_particles_refuse_what_they_do_not_know(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected"):
        particles.Config(**wrong).build()


# Gradients ----------------------------------------------------------------------------------------------------------


def test_a_gradient_pushes_within_its_times_only():
    r = request(build(POLICIES["flow"]))
    steer = gradient.Config(start=0.3, until=0.6).build().begin(r)
    x = r.sample(r.noise())[0]
    pushes = [steer(x, i / 10).displacement is not None for i in range(10)]
    assert pushes == [False] * 3 + [True] * 3 + [False] * 4


def test_a_normalized_push_is_uphill_and_has_unit_rms_in_half_ranges_over_the_executed_steps():
    # mutations: RMS over all steps of the chunk; steepest in spec units
    r = request(build(POLICIES["flow"]))
    x = r.sample(r.noise())[0]
    d = gradient.Config(weight=0.3).build().begin(r)(x, 0.5).displacement / torch.from_numpy((SPEC.high - SPEC.low) / 2)
    assert torch.allclose(d[:, :, :EXECUTE].square().mean((2, 3)).sqrt(), torch.full((3, 6), 0.3))
    assert (d[:, :, EXECUTE:] == 0).all(), "the critic does not look there"
    middle, half = (torch.from_numpy(v / 2) for v in (SPEC.low + SPEC.high, SPEC.high - SPEC.low))
    uphill = (middle + 0.5 * half - x)[:, :, :EXECUTE] / half  # steepest where every dim counts by its own range
    uphill = 0.3 * uphill / uphill.square().mean((2, 3), keepdim=True).sqrt()
    assert torch.allclose(d[:, :, :EXECUTE], uphill, atol=1e-4)


def test_a_gradient_that_is_not_finite_pushes_nobody():
    # mutation: pass it on
    r = request(build(POLICIES["flow"]))
    x = r.sample(r.noise())[0]

    def score(context, chunks, lengths):
        value = (chunks - x).abs().sqrt().sum((2, 3))  # a root at 0: its slope is infinite
        return Scores(value, torch.zeros_like(value), torch.ones_like(value, dtype=torch.bool))

    r.critic.score = score
    assert (gradient.Config().build().begin(r)(x, 0.5).displacement == 0).all()


# Real-time chunking -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d, execute", [(0, 3), (2, 3), (1, 1), (3, 3), (0, 6)])
def test_real_time_weights_are_the_papers(d, execute):
    # mutation: overlap ends at H
    horizon, expected = 6, []
    for i in range(horizon):
        c = (horizon - execute - i) / (horizon - execute - d + 1)
        soft = c * (math.exp(c) - 1) / (math.e - 1) if i < horizon - execute else 0.0
        expected.append(1.0 if i < d else soft)
    assert realtime.decay(torch.tensor([d]), horizon, execute)[0].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("t", [0.0, 0.1, 0.5, 0.9])
def test_real_time_guidance_is_as_strong_as_the_paper_says(t):
    # (1 - t) / (t r^2), r^2 = (1 - t)^2 / (t^2 + (1 - t)^2), at most beta
    expected = 5.0 if t == 0 else min(5.0, (1 - t) / t / ((1 - t) ** 2 / (t**2 + (1 - t) ** 2)))
    assert realtime.strength(t, 5.0) == pytest.approx(expected)


@pytest.mark.parametrize("sampler", [euler, midpoint])
def test_a_displacement_goes_back_through_the_network(sampler):
    # mutation: J instead of J^T; J of the velocity instead of x_hat
    g = torch.Generator().manual_seed(0)
    weight = 0.5 * torch.randn(6, 6, generator=g)  # v = W x over the six numbers of a chunk: J is a matrix
    z, d = torch.randn(1, 3, 3, 2, generator=g), torch.randn(1, 3, 3, 2, generator=g)
    out, plain = (
        sampler(lambda x, t: (x.flatten(2) @ weight.T).view_as(x), z, 1, guide)
        for guide in (lambda x_hat, t: Steering(displacement=d, pull_back=True), None)
    )
    step = torch.eye(6) + (weight if sampler is euler else weight @ (torch.eye(6) + weight / 2))  # x_hat = step x
    assert torch.allclose((out - plain).flatten(2), d.flatten(2) @ step, atol=1e-5)


def test_real_time_chunking_keeps_to_the_plan_in_force_and_lets_go_later():
    # mutation: the sign of the wish
    p, plan = build(replace(POLICIES["flow"], sample_steps=20)), previous(known=6)
    seen = observation(SPEC, 3, pending=plan[:, :1].numpy(), committed=np.full(3, 1))
    r = request(p, 6, seen=seen, previous=plan, execute=2)
    plain, chunks = r.sample(r.noise())[0], replace(r, guide=build_guide("realtime")).sample(r.noise())[0]
    half = torch.from_numpy((SPEC.high - SPEC.low) / 2)
    far, near = (((x - plan[:, None]) / half)[:, 1:].abs().mean((0, 1, 3)) for x in (plain, chunks))
    assert torch.equal(chunks[:, :, 0], plan[:, None, 0].expand(-1, 6, -1)), "committed"
    assert (near[1:3] < 0.6 * far[1:3]).all() and near[1] < near[3] + 0.05


def test_without_a_plan_real_time_chunking_does_nothing():
    p = build(POLICIES["flow"])
    for plan in (None, torch.full((3, 6, 2), torch.nan)):
        r = request(p, previous=plan)
        assert torch.equal(*(replace(r, guide=g).sample(r.noise())[0] for g in (build_guide("realtime"), WATCHER)))


class Watcher:
    uses_critic = False

    def begin(self, request):
        return lambda x_hat, t: Steering()


WATCHER = Watcher()


def test_a_diffusion_policy_refuses_real_time_chunking():
    r = request(build(POLICIES["diffusion"]), previous=previous(), guide=build_guide("realtime"))
    with pytest.raises(ValueError, match="use a flow policy"):
        r.sample(r.noise())


# LeRobot's flow models ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0, 1])
@pytest.mark.parametrize("guide", ["gradient", "particles", "realtime"])
def test_no_guide_moves_what_a_lerobot_model_knows_of_its_chunk(guide, start):
    # mutations: `known - noise` as the prefix's velocity; the prefix not handed to the sampler; `start` not rolled back
    r, prefix, steps, dims = request(build(POLICIES["flow"]), 12, previous=previous()), previous()[:, 1:3], 8, 4
    mix = 0.3 * torch.randn(steps * dims, steps * dims, generator=torch.Generator().manual_seed(0))
    steer, shown, given = build_guide(guide).begin(r), [], []

    def velocity(x, t):  # every number's velocity depends on all others, so that J^T d reaches the prefix
        shown.append((t, x.detach().view(3, 12, steps, dims)[:, :, start : start + 2, :2]))
        return (x.flatten(1) @ mix).view_as(x)

    def watched(x_hat, t):
        assert torch.allclose(x_hat[:, :, :2], prefix[:, None].expand(-1, 12, -1, -1), atol=1e-5)
        given.append(steer(x_hat, t))
        return given[-1]

    noise = r.noise()
    x = integrate(velocity, noise, (steps, dims), 10, prefix, watched, start)
    assert torch.allclose(x[:, :, :2], prefix[:, None].expand(-1, 12, -1, -1), atol=1e-5)
    assert any(said.resample is not None or said.displacement is not None for said in given)
    for t, at in shown:  # x_t = (1 - t) z + t prefix, z of the candidate itself or of its parent
        drawn = (at - t * prefix[:, None]) / (1 - t)
        gap = (drawn[:, :, None] - noise[:, None, :, :2]).abs().flatten(3).amax(3).amin(2)
        assert gap.max() < 1e-3


@pytest.mark.parametrize("start", [0, 2])
def test_without_prefix_and_guide_a_lerobot_model_is_plain_euler(start):
    # mutation: the network sees the steps in another order
    z = torch.randn(2, 3, 6, 2, generator=torch.Generator().manual_seed(0))
    slope = torch.linspace(-1, 1, 8)[:, None]  # by the network's step
    x = integrate(lambda x, t: slope * x, z, (8, 2), 10, None, None, start)
    assert torch.allclose(x, z * (1 + slope[start : start + 6] / 10) ** 10, rtol=1e-5)


# Dims that never moved ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["policy", "critic"])
def test_a_dim_that_stood_still_in_the_data_is_not_pushed_and_takes_nothing_from_the_others(who):
    # mutation: ever_moved asks only one of policy and critic; the mask after unit()
    r = request(build(POLICIES["flow"]))
    seen = statistics(SPEC)["action"]
    getattr(r, who).statistics = {"action": replace(seen, std=seen.std * np.array([1.0, 1e-6], np.float32))}
    x = r.sample(r.noise())[0]
    d = gradient.Config(weight=0.3).build().begin(r)(x, 0.5).displacement / torch.from_numpy((SPEC.high - SPEC.low) / 2)
    assert not d[..., 1].any()
    assert torch.allclose(d[:, :, :EXECUTE].square().mean((2, 3)).sqrt(), torch.full((3, 6), 0.3))
    published = gradient.Config(normalize=False).build().begin(r)(x, 0.5).gradient
    assert not published[..., 1].any() and published[:, :, :EXECUTE, 0].all()


@pytest.mark.parametrize(("std", "moves"), [(0.0, False), (9e-5, False), (9e-4, False), (2e-3, True)])
def test_a_dim_moved_where_its_deviation_is_more_than_the_floor_and_a_thousandth_of_half_its_range(std, moves):
    part = ActionPart("arm", 0, 2, "joint", "rad", (-1.0, -0.01), (1.0, 0.01))
    about = Spec((part,), ("q",), ("rad",), dt=0.1, horizon=1, n_obs_steps=1)
    model = SimpleNamespace(statistics={"action": Statistics(*([0.0, 0.0], [std, 2e-4], [-1, -1], [1, 1]), 9)})
    # mutation: `low` left out of the range; no floor (the second dim would move at 1e-5)
    assert ever_moved(about, model).tolist() == [moves, True]
    assert ever_moved(about, SimpleNamespace(main=model)).tolist() == [moves, True], "a panel's main critic"
    assert ever_moved(about, SimpleNamespace()).all(), "where nobody measured"
