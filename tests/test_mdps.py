"""Every backup converges to its own known value: two states, a chain that ends inside chunks, a linear-quadratic task.

The answers come from tests/mdps.py, which iterates each backup's definition on a table in plain Python.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import mdps
import pytest
import torch
from mdps import CHAIN, TWO_STATES, Key, LinearQuadratic, Problem, expected_max, expectile, quantile

from robot_value.critics import dqc, iql, iterated, mc, n_step, ota, qc, sarsa
from robot_value.critics.backups import expected_max_value, td_target, weighted_mean
from robot_value.critics.chunk_critic import ChunkCritic
from robot_value.critics.value_networks import q_alone

SMALL = {"members": 1, "hidden": (32, 32), "layer_norm": False, "lr": 2e-2, "gamma": 0.9, "aggregate": "mean"}
AVERAGED = SMALL | {"tau": 0.2}
UPDATES = 170
TOLERANCE = 0.03  # of values between -1 and 1
CANDIDATES = 3  # that the policies of these problems propose
OPTION = 4  # steps of OTA's backup, more than a chunk has


@dataclass(frozen=True)
class ExpectedMax:
    """Q-chunking's page with the expected maximum in the backup."""

    config: qc.Config
    subset: int = 2

    def build(self, spec, statistics, tasks=()) -> ChunkCritic:
        def loss(critic, batch, generator):
            features, chunk = critic.see(batch, generator)
            proposed = critic.propose(batch.next[critic.scope], CANDIDATES, generator)
            value = expected_max_value(critic, critic.ahead(batch, critic.scope), proposed, self.subset)
            q, q_loss = critic.q.regress(features, chunk, td_target(batch, value, critic.gamma, critic.scope))
            return weighted_mean(q_loss, batch.weight), {"q": q.mean()}

        options = {"networks": q_alone, "averaged": ("q",), "loss": loss, "needs_policy": True}
        return ChunkCritic(self.config, spec, statistics, tasks, **options)


SAMPLED = qc.Config(**AVERAGED, candidates=CANDIDATES)
CONFIGS: dict[str, Any] = {
    "expectile": iql.Config(**AVERAGED, expectile=0.8),
    "n-step expectile": n_step.Config(**AVERAGED, expectile=0.8),
    "n-step best of N": n_step.Config(**AVERAGED, scope=0, backup="best_of_n", candidates=CANDIDATES),
    "quantile of a distilled critic": dqc.Config(**AVERAGED, low=-1.2, high=1.2, kappa_d=0.8, kappa_b=0.6),
    "option": ota.Config(**AVERAGED, option=OPTION, expectile=0.7),
    "best of N": SAMPLED,
    "annealed to the policy": replace(SAMPLED, annealing=100),
    "expected max": ExpectedMax(SAMPLED),
    "iterated": iterated.Config(**SMALL, candidates=CANDIDATES, links=2, shift_every=20, sync_every=5),
    "sarsa": sarsa.Config(**AVERAGED),
    "monte carlo": mc.Config(**SMALL),
}
TABLES: dict[str, Callable[[Problem], dict[Key, float]]] = {
    "expectile": lambda p: mdps.implicit_values(p, lambda q: expectile(q, 0.8)),
    "n-step expectile": lambda p: mdps.implicit_values(p, lambda q: expectile(q, 0.8), scope=1, n=p.k),
    "n-step best of N": lambda p: mdps.supported_values(p, max),
    "quantile of a distilled critic": lambda p: mdps.decoupled_values(p, 1, 0.8, 0.6),
    "option": lambda p: mdps.option_values(p, OPTION, 0.7),
    "best of N": lambda p: mdps.supported_values(p, max),
    "annealed to the policy": lambda p: mdps.supported_values(p, fmean),
    "expected max": lambda p: mdps.supported_values(p, lambda q: expected_max(q, 2)),
    "iterated": lambda p: mdps.supported_values(p, max),
    "sarsa": mdps.sarsa_values,
    "monte carlo": mdps.mc_values,
}


# mutation: bootstrap = gamma^k whatever ended inside; gamma^k for a chunk cut short by time; next[k] one step off
@pytest.mark.parametrize("problem", [TWO_STATES, CHAIN], ids=["two states", "chain"])
@pytest.mark.parametrize("backup", CONFIGS)
def test_a_backup_finds_its_own_value_where_episodes_end_and_time_runs_out_inside_chunks(backup, problem):
    batch = mdps.tabular_batch(problem)
    inside, ended = ~batch.valid[:, : problem.k].all(1), batch.terminated[:, : problem.k].any(1)
    assert (inside & ended).any() and (inside & ~ended).any(), "expected both kinds of end inside chunks"
    updates = UPDATES * (2 if backup.startswith("quantile") else 1)  # three networks that learn from each other
    assert mdps.tabular_error(CONFIGS[backup], problem, TABLES[backup](problem), updates) < TOLERANCE


def test_the_backups_have_different_values():
    # so that no test above passes for another backup's sake
    names = ("expectile", "best of N", "annealed to the policy", "sarsa", "expected max", "monte carlo", "option")
    known = [TABLES[name](CHAIN) for name in names]
    for i, a in enumerate(known):
        assert all(max(abs(a[key] - b[key]) for key in a) > 3 * TOLERANCE for b in known[:i])


# The linear-quadratic task ------------------------------------------------------------------------------------------

LQ = LinearQuadratic()
BEST = LQ.riccati()[1]
GAINS = (0.0, BEST, 2 * BEST)  # do nothing, the optimal control, too much of it
COSTS: dict[str, Callable[[Sequence[float]], float]] = {
    "expectile": lambda q: expectile(q, 0.8),
    "best of N": max,
    "annealed to the policy": fmean,
    "expected max": lambda q: expected_max(q, 2),
    "iterated": max,
}


def check_lq(critic: ChunkCritic, costs: Sequence[float], tolerance: float = 0.06) -> None:
    batch = LQ.batch(GAINS)
    state = batch.observation.state[:, 0, 0]
    known = -torch.tensor(costs).repeat_interleave(len(state) // len(GAINS)) * state**2
    assert mdps.scores(critic, batch.observation, batch.chunks) == pytest.approx(known.tolist(), abs=tolerance)


def lq_critic(config: Any, updates: int = UPDATES) -> ChunkCritic:
    critic = config.build(LQ.spec(), LQ.statistics())
    return mdps.trained(critic, LQ.batch(GAINS), LQ.policy(GAINS), updates)


@pytest.mark.parametrize("backup", COSTS)
def test_a_linear_quadratic_task_gets_the_quadratic_value_of_its_backup(backup):
    check_lq(lq_critic(CONFIGS[backup]), LQ.fixed_point(GAINS, COSTS[backup]))


def test_a_linear_quadratic_task_gets_the_value_of_the_median_control_from_a_quantile():
    config = dqc.Config(**AVERAGED | {"lr": 1e-2, "hidden": (64,)}, low=-1.5, high=0.5, kappa_d=0.8, kappa_b=0.5)
    check_lq(lq_critic(config, 2 * UPDATES), LQ.fixed_point(GAINS, lambda q: quantile(q, 0.5)), tolerance=0.09)


def test_best_of_n_with_the_optimal_control_among_the_proposals_is_the_riccati_value():
    p, gain = LQ.riccati()
    assert LQ.fixed_point(GAINS, max)[1] == pytest.approx(p) == pytest.approx(LQ.forever(gain))


@pytest.mark.parametrize("backup", ["sarsa", "monte carlo"])
def test_sarsa_and_monte_carlo_find_what_each_control_costs_for_ever(backup):
    check_lq(lq_critic(CONFIGS[backup]), [LQ.forever(gain) for gain in GAINS])


def test_twins_with_target_smoothing_pay_for_the_noise_they_are_smoothed_with():
    # TD3 with the optimal control as the policy: V = -p s^2 - c, c from the variance of the clipped noise
    std = 0.4
    draws = torch.randn(100_000, generator=torch.Generator().manual_seed(1)).clamp(-2.5, 2.5)
    p, gain = LQ.riccati()
    c = LQ.noise_cost(p, std**2 * float(draws.var()))
    config = replace(SAMPLED, candidates=1, members=2, aggregate="min", smoothing=std, hidden=(48, 48))
    batch = LQ.batch((gain,) * 12, noise=1.2)
    critic = mdps.trained(config.build(LQ.spec(), LQ.statistics()), batch, LQ.policy((gain,)), 2 * UPDATES)
    assert c > 0.15
    seen = LQ.batch((gain,))
    known = -p * seen.observation.state[:, 0, 0] ** 2 - LQ.gamma**2 * c  # the scored chunk itself has no noise
    assert mdps.scores(critic, seen.observation, seen.chunks) == pytest.approx(known.tolist(), abs=0.06)
