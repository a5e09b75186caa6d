"""The pages that are defined by a regularizer train from a store, save, load and score the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes import observation
from learning_fakes import TASKS, spec

from robot_value import components
from robot_value.critics import cal_ql, co_rft, rlpd, ro2o, v_gps, vgas
from robot_value.critics.regularizers import TERMS, RegularizerConfig
from robot_value.episodes.store import EpisodeStore
from robot_value.fit import Job, Windowing, fit
from robot_value.policies import flow
from robot_value.training import TrainConfig, load_model
from robot_value.types import Episode

HORIZON = 3
NETWORK = {"hidden": (16, 16), "gamma": 0.9}
PAGES = {
    "cal_ql": cal_ql.Config(**NETWORK),
    "v_gps": v_gps.Config(**NETWORK),
    "co_rft": co_rft.Config(**NETWORK),
    "ro2o": ro2o.Config(**NETWORK),
    "rlpd": rlpd.Config(**NETWORK),
    "vgas": vgas.Config(**NETWORK),
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """(store, checkpoint of a policy): eight short episodes, half of them successes."""
    s, rng = spec(horizon=0, n_obs_steps=0, state=2), np.random.default_rng(0)
    store = EpisodeStore.create(tmp_path_factory.mktemp("data") / "store", s)
    for i in range(8):
        good, steps = i % 2 == 0, 6
        actions = rng.uniform(s.low, s.high, (steps, 2)).astype(np.float32)
        rewards = np.zeros(steps, np.float32)
        rewards[-1] = good
        states = rng.standard_normal((steps + 1, 2)).astype(np.float32)
        store.append(Episode(s, states, {}, actions, rewards, good, not good, good, TASKS[0]))
    store.close()
    policy = flow.Config(width=8, depth=2, sample_steps=2)
    folder = fit(Job(str(store.path), policy, training(tmp_path_factory.mktemp("policy")), Windowing(HORIZON)))
    return str(store.path), str(folder)


def training(folder) -> TrainConfig:
    quiet = {"progress": False, "tensorboard": False, "matmul": "default", "validation_fraction": 0.0}
    return TrainConfig(folder=str(folder), batch_size=8, steps=3, log_every=1, **quiet)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_trains_from_a_store_and_comes_back_from_its_checkpoint(name, recorded, tmp_path):
    # mutation: forget an offset; keep a network outside of the module
    store, policy = recorded
    folder = fit(Job(store, PAGES[name], training(tmp_path), Windowing(HORIZON), base=policy))
    critic, again = load_model(folder), load_model(folder)
    assert critic.config == PAGES[name] and int(critic.step) == 3
    seen, chunks = observation(critic.spec), torch.rand(3, 4, HORIZON, 2)
    value = critic.score(critic.encode(seen), chunks).value
    assert value.isfinite().all() and torch.equal(value, again.score(again.encode(seen), chunks).value)


CONFIGS = {name: components.load("critics", name).Config for name in components.names("critics")}
REPRESENTATION = ("co_adaptation", "singular_values")
ANYWHERE = [name for name in TERMS if name not in (*REPRESENTATION, "bisimulation")]  # bisimulation needs images


@pytest.mark.parametrize("name", [name for name, config in CONFIGS.items() if hasattr(config, "regularizer")])
def test_every_page_that_offers_penalties_can_take_them(name, recorded, tmp_path):
    # mutation: look as far ahead as the scope, whatever the page's offsets
    store, policy = recorded

    def train(terms, folder) -> None:
        config = CONFIGS[name](hidden=(8, 8), regularizer=RegularizerConfig(**dict.fromkeys(terms, 0.01)))
        fit(Job(store, config, training(tmp_path / folder), Windowing(HORIZON), base=policy))

    train(ANYWHERE, "any")
    if name in ("iterated", "vgas"):  # a chain, a prefix network
        with pytest.raises(ValueError, match="representation: expected"):
            train(REPRESENTATION, "phi")
    else:
        train(REPRESENTATION, "phi")
