"""Training on what is not simply the cache: labels made later, and data that do not fit into memory."""

import shutil

import numpy as np
import pytest
from recorded import make_episode, make_spec

from robot_value import cli, components
from robot_value.episodes import EpisodeStore
from robot_value.labels.run import label
from robot_value.training import load_model

FAST = ["--training.steps=4", "--training.batch_size=8", "--training.progress=false", "--training.tensorboard=false"]
SMALL = ["--critic.type=iql", "--critic.hidden=[16]", "--windowing.horizon=3"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "store"
    with EpisodeStore.create(path, make_spec()) as store:
        for seed in range(16):
            rewards = np.zeros(9, np.float32)
            store.append(make_episode(store.spec, 9, seed, success=seed % 2 == 0, rewards=rewards))
    store = EpisodeStore.open(path)
    config = components.load("labelers", "terminal_success").Config()
    label(store, "terminal_success", config, "outcome", progress=False)
    return path


def train(data, folder, *flags):
    assert cli.main(["train", f"--data={data}", f"--training.folder={folder}", *SMALL, *FAST, *flags]) == 0
    return load_model(folder)


def parameters(model) -> np.ndarray:
    return np.concatenate([p.detach().numpy().ravel() for p in model.parameters()])


def test_labels_change_what_is_learned(data, tmp_path):
    plain = train(data, tmp_path / "plain")
    labelled = train(data, tmp_path / "labelled", "--windowing.labels=outcome")
    again = train(data, tmp_path / "again", "--windowing.labels=outcome")
    assert not np.array_equal(parameters(plain), parameters(labelled))  # mutation: labels never reach the sampler
    np.testing.assert_array_equal(parameters(labelled), parameters(again))


def test_labels_that_do_not_exist_are_refused_by_name(data, tmp_path, capsys):
    words = ["train", f"--data={data}", f"--training.folder={tmp_path}/run", *SMALL, *FAST, "--windowing.labels=outcme"]
    assert cli.main(words) == 2
    text = capsys.readouterr().err
    assert "outcme" in text and "outcome" in text


def test_data_larger_than_memory_are_trained_on_through_a_pool(data, tmp_path):
    copy = shutil.copytree(data, tmp_path / "copy", ignore=shutil.ignore_patterns(".cache"))
    flags = ("--windowing.pool_bytes=9000", "--windowing.labels=outcome")  # all 16 episodes take three times that
    pooled, again = train(copy, tmp_path / "pooled", *flags), train(copy, tmp_path / "again", *flags)
    assert np.isfinite(parameters(pooled)).all()
    np.testing.assert_array_equal(parameters(pooled), parameters(again))
    assert not (copy / ".cache").exists()  # mutation: open_cache all the same
