"""Each page that is its backup: the term that defines it, what is lost without it, its contract, a run from a store.

That the pages find the right values is in test_mdps.py; here the term is taken away and the value is lost.
"""

from __future__ import annotations

from dataclasses import replace

import mdps
import numpy as np
import pytest
import torch
from contracts import check_critic
from fakes import observation
from learning_fakes import TASKS, random_batch, spec, statistics
from mdps import CHAIN, expectile

from robot_value.critics import dqc, iterated, mc, n_step, ota, qc, sarsa
from robot_value.critics.distribution import Distribution
from robot_value.episodes.store import EpisodeStore
from robot_value.fit import Job, Windowing, fit
from robot_value.policies import flow
from robot_value.sampling import returns
from robot_value.training import TrainConfig, load_model
from robot_value.types import Episode

SMALL = {"members": 1, "hidden": (32, 32), "layer_norm": False, "lr": 2e-2, "gamma": CHAIN.gamma, "aggregate": "mean"}
AVERAGED = SMALL | {"tau": 0.2}
QC = qc.Config(**AVERAGED, candidates=3)
CHAINED = iterated.Config(**SMALL, candidates=3, links=2, shift_every=20, sync_every=5)
N_STEP = n_step.Config(**AVERAGED, n=3, expectile=0.8)
PAGES = {
    "qc": QC,
    "sarsa": sarsa.Config(**AVERAGED),
    "mc": mc.Config(**SMALL),
    "n_step": N_STEP,
    "n_step best of N": replace(N_STEP, backup="best_of_n", candidates=3),
    "dqc": dqc.Config(**AVERAGED, low=-1.0, high=1.0),
    "iterated": CHAINED,
    "ota": ota.Config(**AVERAGED, option=3, expectile=0.7),
}
FOUND, LOST = 0.03, 0.07  # largest error with the term, least error without it


def error(config, known) -> float:
    return mdps.tabular_error(config, CHAIN, known, updates=170)


# The defining terms -------------------------------------------------------------------------------------------------


def test_q_chunking_without_the_maximum_in_its_backup_values_the_policy_instead_of_the_best(monkeypatch):
    known = mdps.supported_values(CHAIN, max)
    assert error(QC, known) < FOUND
    monkeypatch.setattr(qc, "best_chunk", lambda q, critic, features, proposed: proposed[:, 0])
    assert error(QC, known) > LOST


def test_sarsa_without_the_recorded_next_chunk_does_not_value_what_made_the_data(monkeypatch):
    known = mdps.sarsa_values(CHAIN)
    assert error(PAGES["sarsa"], known) < FOUND
    monkeypatch.setattr(sarsa, "recorded_next", lambda critic, batch: critic.see(batch)[1])  # what it did before
    assert error(PAGES["sarsa"], known) > LOST


def test_monte_carlo_without_the_whole_return_forgets_what_comes_after_the_chunk(monkeypatch):
    known = mdps.mc_values(CHAIN)
    assert error(PAGES["mc"], known) < FOUND
    monkeypatch.setattr(mc, "mc_target", lambda batch: Distribution.point(returns(batch, CHAIN.gamma, 1)))
    assert error(PAGES["mc"], known) > LOST


def test_n_step_with_returns_as_short_as_its_scope_is_another_value():
    known = mdps.implicit_values(CHAIN, lambda q: expectile(q, 0.8), scope=1, n=3)
    assert error(N_STEP, known) < FOUND
    assert error(replace(N_STEP, n=1), known) > LOST


def test_ota_without_options_is_another_value():
    known = mdps.option_values(CHAIN, 3, 0.7)
    assert error(PAGES["ota"], known) < FOUND
    assert error(replace(PAGES["ota"], option=1), known) > LOST


def test_a_chain_of_k_links_learns_k_backups_without_any_move_of_the_window(monkeypatch):
    # mutation: sync shifted by one link; every link trained on its own target
    config = replace(CHAINED, shift_every=10**6, sync_every=2, links=3)
    known = backups_from_zero(3)
    assert link_error(config, known) < FOUND
    value = iterated.best_of_n_value

    def unlinked(critic, *given, select, evaluate):
        first = critic.target["chain"][0]
        return value(critic, *given, select=first, evaluate=first)

    monkeypatch.setattr(iterated, "best_of_n_value", unlinked)
    assert link_error(config, known) > LOST


def backups_from_zero(n: int) -> dict[mdps.Key, float]:
    """B^n 0 with the maximum over the policy's proposals, by its definition."""
    data, propose, q = mdps.rows(CHAIN), mdps.support(CHAIN), {}
    for _ in range(n):

        def value(s: int, q=q) -> float:
            return max(q.get((s, chunk), 0.0) for chunk in propose[s])

        q = mdps.mean_by_key([((r.state, r.chunk), r.target(CHAIN.k, CHAIN.gamma, value)) for r in data])
    return q


def link_error(config: iterated.Config, known: dict[mdps.Key, float]) -> float:
    class FromZero:
        def build(self, *given):
            critic = config.build(*given)
            for p in critic.target["chain"][0].parameters():
                p.zero_()
            return critic

    return mdps.tabular_error(FromZero(), CHAIN, known, updates=170)


def test_the_window_moves_on_by_one_backup():
    # mutation: the links copied before their targets; the order of the links reversed
    critic = replace(CHAINED, links=3, shift_every=4, sync_every=2).build(spec(), statistics(spec()))
    with torch.no_grad():
        for j, q in enumerate(critic.chain, 1):
            for p in q.parameters():
                p.fill_(j)
        for j, q in enumerate(critic.target["chain"]):
            for p in q.parameters():
                p.fill_(-j)

    def said(chain) -> list[float]:
        return [float(next(q.parameters()).detach().flatten()[0]) for q in chain]

    for step, links, targets in (
        (1, [1, 2, 3], [0, -1, -2]),
        (2, [1, 2, 3], [0, 1, 2]),  # Qbar_j <- Q_j, and Qbar_0 stands still
        (4, [2, 3, 3], [1, 2, 3]),  # the window is one backup further
    ):
        critic.step.fill_(step)
        iterated.move(critic)
        assert said(critic.chain) == links and said(critic.target["chain"]) == targets


# Options of Q-chunking ----------------------------------------------------------------------------------------------


def test_annealed_q_chunking_ends_at_the_policys_value_and_starts_at_the_best():
    batch, config = mdps.tabular_batch(CHAIN), replace(QC, annealing=100)
    critic = config.build(mdps.tabular_spec(CHAIN), mdps.tabular_statistics(CHAIN))
    critic.attach(mdps.tabular_policy(CHAIN))
    values = critic.target["q"](*rows_of(critic, batch)).view(len(batch.chunks), 3)  # a fresh target is the online q
    for step, expected in ((0, values.amax(1)), (50, (values.amax(1) + values.mean(1)) / 2), (100, values.mean(1))):
        critic.step.fill_(step)
        assert torch.allclose(qc.next_value(critic, batch, None).mean, expected, atol=1e-5)


def rows_of(critic, batch) -> tuple[torch.Tensor, torch.Tensor]:
    """All three proposals of every row, after each other."""
    proposed = critic.propose(batch.next[critic.scope], 3)
    return critic.ahead(batch, critic.scope).repeat_interleave(3, 0), proposed.flatten(0, 1)


def test_smoothing_is_for_training_and_changes_targets_alone():
    critic = replace(QC, smoothing=0.5).build(mdps.tabular_spec(CHAIN), mdps.tabular_statistics(CHAIN))
    critic.attach(mdps.tabular_policy(CHAIN))
    batch, generators = mdps.tabular_batch(CHAIN), [torch.Generator().manual_seed(s) for s in (0, 0, 1)]
    a, same, other = (qc.next_value(critic, batch, generator).mean for generator in generators)
    assert torch.equal(a, same) and not torch.allclose(a, other)


# Contract and runs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", [0, 2])
@pytest.mark.parametrize("page", PAGES)
def test_a_page_keeps_the_contract_at_any_scope(page, scope):
    config = replace(PAGES[page], scope=scope, layer_norm=True, **({"n": 4} if "n_step" in page else {}))
    critic = config.build(spec(), statistics(spec()), TASKS).eval()
    assert critic.scope == (scope or 4)
    check_critic(critic, observation(spec()))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A store of a few episodes of both kinds of end, and a policy's checkpoint."""
    folder, rng, s = tmp_path_factory.mktemp("run"), np.random.default_rng(0), spec(horizon=0, n_obs_steps=0, state=2)
    with EpisodeStore.create(folder / "store", s) as store:
        for i in range(6):
            actions = rng.uniform(s.low, s.high, (7, 2)).astype(np.float32)
            states = rng.standard_normal((8, 2)).astype(np.float32)
            rewards = np.float32([0] * 6 + [i % 2])
            store.append(Episode(s, states, {}, actions, rewards, bool(i % 2), not i % 2, bool(i % 2), TASKS[0]))
    policy = fit(job(folder, flow.Config(width=8, depth=1, sample_steps=2), "policy"))
    return folder, policy


def job(folder, config, name, **changes) -> Job:
    quiet = TrainConfig(
        folder=str(folder / name), batch_size=8, steps=3, log_every=1, save_every=3, progress=False, tensorboard=False
    )
    return Job(str(folder / "store"), config, quiet, Windowing(horizon=4), **changes)


@pytest.mark.parametrize("page", PAGES)
def test_a_page_trains_from_a_store_and_comes_back_from_its_checkpoint(data, page):
    folder, policy = data
    config = replace(PAGES[page], hidden=(8,))
    base = str(policy) if config.build(spec(), statistics(spec())).needs_policy else ""
    critic = load_model(fit(job(folder, config, page.replace(" ", "_"), base=base)))
    assert int(critic.step) == 3 and critic.config == config
    check_critic(critic.eval(), observation(critic.spec))


# Refusals -----------------------------------------------------------------------------------------------------------


def test_sarsa_says_how_to_get_the_chunks_it_asks_for():
    critic = PAGES["sarsa"].build(spec(), statistics(spec()))
    with pytest.raises(ValueError, match=r"expected the chunks recorded at offset 4, got \[\]; .*next_chunks=True"):
        critic.update(random_batch(spec()))


def test_lengths_that_do_not_fit_are_refused():
    s = spec()
    with pytest.raises(ValueError, match="n: expected at least the scope of 4 steps, got 3"):
        n_step.Config(scope=0, n=3).build(s, statistics(s))
    with pytest.raises(ValueError, match="chunk: expected 0, or the scope to the horizon of 4 steps, got 5"):
        replace(PAGES["dqc"], chunk=5).build(s, statistics(s))
    with pytest.raises(ValueError, match="chunk: expected 0, or the scope to the horizon of 4 steps, got 2"):
        replace(PAGES["dqc"], scope=3, chunk=2).build(s, statistics(s))
    with pytest.raises(ValueError, match="backup: expected one of expectile, best_of_n, got 'mc'"):
        n_step.Config(backup="mc").build(s, statistics(s))
