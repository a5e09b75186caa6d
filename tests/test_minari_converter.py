"""Minari's groups and D4RL's flat rows: observations as arrays or nested groups, endings, successes, metadata."""

from __future__ import annotations

import json

import h5py
import numpy as np
import pytest
from recorded import assert_same

from robot_value.convert import ConversionError, convert, recognise
from robot_value.datasets.minari_converter import Config, recognises
from robot_value.episodes.store import EpisodeStore

LENGTHS = (4, 2, 3)
ENDS = ((True, False), (False, True), (False, False))  # terminated, truncated


def make_rows(seed=0):
    rng = np.random.default_rng(seed)
    for steps, (terminated, truncated) in zip(LENGTHS, ENDS, strict=True):
        last = np.arange(steps) == steps - 1
        yield {
            "observations": rng.normal(size=(steps + 1, 3)),
            "actions": rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
            "rewards": rng.normal(size=steps),
            "terminations": last & terminated,
            "truncations": last & truncated,
        }


def write(folder, change=None, metadata=None):
    """A Minari dataset's folder; `change(file)` adds to it or breaks something."""
    (folder / "data").mkdir(parents=True)
    with h5py.File(folder / "data" / "main_data.hdf5", "w") as file:
        for i, arrays in enumerate(make_rows()):
            for key, rows in arrays.items():
                file[f"episode_{i}/{key}"] = rows
        if change:
            change(file)
    if metadata:
        (folder / "data" / "metadata.json").write_text(json.dumps(metadata))
    return folder


def write_flat(path, next_observations=False):
    with h5py.File(path, "w") as file:
        arrays = list(make_rows())
        file["observations"] = np.concatenate([each["observations"][:-1] for each in arrays])
        if next_observations:
            file["next_observations"] = np.concatenate([each["observations"][1:] for each in arrays])
        for key, name in {"terminations": "terminals", "truncations": "timeouts", "actions": "", "rewards": ""}.items():
            file[name or key] = np.concatenate([each[key] for each in arrays])
    return path


def source(path, **options):
    return Config(**options).build(path)


def check(opened, frames_after):
    """Every episode is what was written."""
    assert opened.survey.keys == ("episode_0", "episode_1", "episode_2") and opened.survey.steps == LENGTHS
    for i, (arrays, (terminated, _)) in enumerate(zip(make_rows(), ENDS, strict=True)):
        episode = opened.read(i)
        seen = arrays["observations"].astype(np.float32)
        assert_same(seen if frames_after else seen[:-1], episode.states)
        assert_same(arrays["actions"], episode.actions)
        assert_same(arrays["rewards"].astype(np.float32), episode.rewards)
        assert (episode.terminated, episode.truncated, episode.success) == (terminated, not terminated, None)


def test_groups_become_episodes_and_go_through_the_store(tmp_path):
    # mutation: the observation after the last action dropped; terminations read at the first step
    folder = write(tmp_path / "x")
    opened = source(folder)
    check(opened, frames_after=True)
    with EpisodeStore.create(tmp_path / "store", opened.survey.spec) as store:
        convert(opened, store, progress=False)
        for i, episode in enumerate(store):
            assert_same(opened.read(i).states, episode.states)
    assert recognise(folder) == "minari" == recognise(folder / "data" / "main_data.hdf5")


@pytest.mark.parametrize("next_observations", [False, True])
def test_flat_rows_are_cut_where_episodes_end(tmp_path, next_observations):
    # mutation: cut before the flagged row; the rows after the last flag lost; next_observations of the next episode
    path = write_flat(tmp_path / "flat.hdf5", next_observations)
    assert recognise(path) == "minari"
    check(source(path), frames_after=next_observations)


def test_next_observations_that_do_not_follow_are_refused(tmp_path):
    # mutation: not compared
    path = write_flat(tmp_path / "flat.hdf5", True)
    with h5py.File(path, "a") as file:
        file["next_observations"][1, 0] += 1
    with pytest.raises(ConversionError, match="episode_0 row 1: expected what row 2 sees"):
        source(path).read(0)


def nested(file):
    for i, steps in enumerate(LENGTHS):
        group = file[f"episode_{i}"]
        del group["observations"]
        for key, dims in {"observation": (3,), "desired_goal": (2,), "arm/hand": ()}.items():
            group[f"observations/{key}"] = np.full((steps + 1, *dims), len(key), np.float32)
        group["observations/eye"] = np.full((steps + 1, 4, 5, 3), i, np.uint8)
        group["observations/word"] = np.arange(steps + 1)


def test_nested_observations_become_named_columns_and_cameras(tmp_path):
    # mutation: one level of groups only; keys in the file's order; a discrete observation as a number
    opened = source(write(tmp_path / "x", nested))
    names = ("arm.hand_0", "desired_goal_0", "desired_goal_1", "observation_0", "observation_1", "observation_2")
    assert opened.survey.spec.state_names == names and [c.name for c in opened.survey.spec.cameras] == ["eye"]
    episode = opened.read(1)
    assert episode.states[0].tolist() == [8, 12, 12, 11, 11, 11] and (episode.images["eye"] == 1).all()
    assert any("observations/word" in line for line in opened.survey.left_out)


def infos(file):
    for i, steps in enumerate(LENGTHS):
        file[f"episode_{i}/infos/success"] = np.arange(steps + 1) == (1 if i else steps + 5)
        file[f"episode_{i}/infos/x"] = np.zeros(steps)


def test_success_is_what_infos_say_at_any_step(tmp_path):
    # mutation: the last step's alone; unknown where it is False
    opened = source(write(tmp_path / "x", infos))
    assert [opened.read(i).success for i in range(3)] == [False, True, True]
    assert "infos/x" in opened.survey.left_out


def test_metadata_name_the_task_the_rate_and_the_limits(tmp_path):
    # mutation: the rate inverted; limits of the data though the metadata tell them
    space = json.dumps({"type": "Box", "low": [-2, -3], "high": [2, 3], "shape": [2]})
    about = {"env_spec": json.dumps({"id": "Push-v1", "kwargs": {"control_freq": 50}}), "action_space": space}
    opened = source(write(tmp_path / "x", metadata=about))
    assert opened.survey.spec.dt == 0.02 and opened.read(0).task == "Push-v1"
    assert opened.survey.spec.low.tolist() == [-2, -3] and opened.survey.spec.high.tolist() == [2, 3]
    assert not any("limits" in line or "control rate" in line for line in opened.survey.assumed)


def test_what_the_metadata_do_not_say_is_assumed_aloud(tmp_path):
    # mutation: a silent guess
    opened = source(write(tmp_path / "x"))
    actions = np.concatenate([opened.read(i).actions for i in range(3)])
    assert_same(actions.min(0), opened.survey.spec.low)
    assumed = "\n".join(opened.survey.assumed)
    assert all(word in assumed for word in ("--source.hz", "--source.spec", "action limits", "success unknown"))


def discrete(file):
    for i, steps in enumerate(LENGTHS):
        del file[f"episode_{i}/actions"]
        file[f"episode_{i}/actions"] = np.zeros(steps, np.int64)


def test_discrete_actions_are_refused_clearly(tmp_path):
    # mutation: cast to floats
    with pytest.raises(ConversionError, match="expected continuous actions"):
        source(write(tmp_path / "x", discrete))


def early(file):
    file["episode_1/terminations"][0] = True


def short(file):
    del file["episode_1/observations"]
    file["episode_1/observations"] = np.zeros((1, 3))


def narrow(file):
    del file["episode_1/observations"]
    file["episode_1/observations"] = np.zeros((3, 2))


def rewardless(file):
    del file["episode_1/rewards"]
    file["episode_1/rewards"] = np.zeros(7)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (early, "episode_1: expected its end at step 1, got one at 0"),
        (short, r"episode_1: expected 3 or 2 observations, got \[1\]"),
        (narrow, "episode_1/observations: expected 3 dims as in the first, got 2"),
        (rewardless, "episode_1/rewards: expected 2 rows as in actions, got 7"),
    ],
)
def test_a_bad_episode_is_named_and_the_others_are_read(tmp_path, change, said):
    # mutation: the check left out
    opened = source(write(tmp_path / "x", change))
    with pytest.raises(ConversionError, match=said):
        opened.read(1)
    assert len(opened.read(0)) == 4 and len(opened.read(2)) == 3


def test_what_is_no_dataset_is_not_recognised_and_refused_by_name(tmp_path):
    # mutation: any HDF5 taken for one
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["something"] = np.zeros(3)
    (tmp_path / "y.hdf5").write_bytes(b"no")
    assert not any(recognises(tmp_path / name) for name in (".", "x.hdf5", "y.hdf5", "z.hdf5"))
    with pytest.raises(ConversionError, match=r"expected episode_0, ... or .*'actions'.*, got \['something'\]"):
        source(tmp_path / "x.hdf5")
