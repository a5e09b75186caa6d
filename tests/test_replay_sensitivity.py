"""An input that a critic ignores has sensitivity 0; one that it looks at has that of its share in the value."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from recorded import make_spec
from replayed import synthetic

from robot_value.replay import plots_critics
from robot_value.replay.outliers import States
from robot_value.replay.scribe import Moment
from robot_value.replay.sensitivity import Shuffle, sensitivity, state_groups, to_json
from robot_value.types import Observation, Scores

SPEC = replace(make_spec(cameras=("front", "wrist"), language=True), state_names=("arm_x", "arm_y", "cube_x"))


class Weighted:
    """Critic: w . inputs + v * (sum of the chunk's executed steps); its context is float32[B, 6]."""

    def __init__(self, chunk: float = 0.0, **weights: float) -> None:
        self.chunk, self.weights = chunk, weights

    def encode(self, observation, policy_context=None):
        state = observation.state[:, -1]
        inputs = {
            "arm": state[:, 0] + state[:, 1],
            "cube": state[:, 2],
            "language": [float(len(task)) for task in observation.task],
            **{name: pixels[:, -1].mean((1, 2, 3)) for name, pixels in observation.images.items()},
        }
        return sum((w * torch.tensor(inputs[name]) for name, w in self.weights.items()), torch.zeros(len(state)))

    def score(self, context, chunks, lengths):
        valid = torch.arange(chunks.shape[2]) < lengths[..., None]
        value = context[:, None].float() + self.chunk * (chunks.sum(3) * valid).sum(2)
        return Scores(value, torch.zeros_like(value), torch.ones_like(value, dtype=torch.bool))


class Eyes:
    """Policy: its context is the observation."""

    spec = SPEC

    def encode(self, observation):
        return observation


def make_moment(critics, robots=10, seed=0, live=None) -> Moment:
    rng = np.random.default_rng(seed)
    observation = Observation(
        state=rng.normal(size=(robots, 1, 3)).astype(np.float32),
        images={c.name: rng.integers(0, 256, (robots, 1, 4, 5, 3), np.uint8) for c in SPEC.cameras},
        task=tuple("x" * int(n) for n in rng.permutation(robots)),
        time=np.zeros(robots),
        step=np.zeros(robots, np.int64),
        episode=np.arange(robots),
        pending=np.zeros((robots, 0, 3), np.float32),
        committed=np.zeros(robots, np.int64),
    )
    logged, length = torch.from_numpy(rng.normal(size=(robots, 4, 3)).astype(np.float32)), torch.full((robots,), 3)
    contexts = {name: critic.encode(observation) for name, critic in critics.items()}
    opinions = {
        name: {"logged_value": critic.score(contexts[name], logged[:, None], length[:, None]).value[:, 0].numpy()}
        for name, critic in critics.items()
    }
    live = np.ones(robots, bool) if live is None else live
    return Moment(observation, None, logged, length, opinions, critics, contexts, (), live)


def test_only_what_the_critic_looks_at_changes_its_value():
    # mutation: the whole state is swapped at once; images of all cameras are
    columns = Shuffle(Eyes(), every=1).look(make_moment({"main": Weighted(cube=1.0), "wrist": Weighted(wrist=1.0)}))
    changed = {name.removeprefix("sensitivity ") for name, column in columns.items() if (column > 0).any()}
    assert changed == {"main state cube", "wrist camera wrist"}
    assert all((columns[f"sensitivity {name}"] > 0).all() for name in changed)  # nobody is swapped with itself
    assert len(columns) == 2 * 6  # two cameras, two groups of the state, language, chunk


@pytest.mark.parametrize(
    "critic, name",
    [(Weighted(chunk=1.0), "chunk"), (Weighted(language=1.0), "language"), (Weighted(arm=1.0), "state arm")],
)
def test_the_chunk_the_task_and_a_group_of_the_state_are_inputs_too(critic, name):
    columns = Shuffle(Eyes(), every=1).look(make_moment({"main": critic}))
    assert [c for c, column in columns.items() if (column > 0).any()] == [f"sensitivity main {name}"]


def test_the_change_is_that_of_another_live_robots_input():
    # mutation: robots that rest are donors
    live = np.arange(12) < 9
    moment = make_moment({"main": Weighted(cube=1.0)}, 12, live=live)
    cube = moment.observation.state[:, -1, 2]
    column = Shuffle(Eyes(), every=1).look(moment)["sensitivity main state cube"]
    for row in range(9):
        others = np.abs(np.delete(cube[:9], row) - cube[row])
        assert np.abs(others - column[row]).min() < 1e-6


def test_a_single_robot_is_compared_with_moments_of_before_once_there_are_enough():
    # mutation: NaN for ever, or its own moment as donor; the past grows without end
    shuffle, critics = Shuffle(Eyes(), every=1, donors=8), {"main": Weighted(cube=1.0)}
    found = [shuffle.look(make_moment(critics, 1, seed))["sensitivity main state cube"][0] for seed in range(30)]
    assert np.isnan(found[:7]).all() and (np.array(found[7:]) > 0).all()
    assert len(shuffle.before) == 8


def test_only_some_batches_are_tried_and_the_columns_are_always_there():
    shuffle, critics = Shuffle(Eyes(), every=4), {"main": Weighted(cube=1.0)}
    found = [shuffle.look(make_moment(critics, seed=seed)) for seed in range(100)]
    tried = np.mean([np.isfinite(columns["sensitivity main state cube"]).all() for columns in found])
    assert 0.12 < tried < 0.4 and len({tuple(columns) for columns in found}) == 1


def test_the_same_seed_swaps_alike_and_another_does_not():
    moment = make_moment({"main": Weighted(cube=1.0)})
    a, b, c = (Shuffle(Eyes(), every=1, seed=seed).look(moment)["sensitivity main state cube"] for seed in (0, 0, 1))
    assert (a == b).all() and (a != c).any()


def test_a_foreign_value_of_a_normal_critic_is_two_over_root_pi_deviations_away():
    # mutation: divided by the variance; NaN counted as 0
    replayed = synthetic(episodes=100, seed=0)
    value = np.random.default_rng(0).normal(2.0, 3.0, len(replayed)).astype(np.float32)
    change = np.abs(np.roll(value, 1) - value)
    change[::3] = np.nan
    main = replace(replayed.opinions["main"], logged_value=value)
    columns = {"sensitivity main chunk": change, "sensitivity main state s": 0 * change}
    found = sensitivity(replace(replayed, opinions={"main": main}, columns=columns), "main", 200)
    assert [each.input for each in found] == ["chunk", "state s"]
    assert found[0].relative.low < 2 / np.sqrt(np.pi) < found[0].relative.high
    assert found[1].relative.mean == found[1].relative.high == 0.0
    assert found[0].decisions == np.isfinite(change).sum()
    assert to_json(found)[0]["critic"] == "main" and len(plots_critics.of_sensitivities([found])) == 1


def test_dimensions_of_a_state_are_grouped_by_what_they_belong_to():
    names = ("eef_pos_x", "eef_pos_y", "eef_quat_w", "joint_0", "joint_1", "joint_0_velocity", "joint_1_velocity")
    names += ("cube_0_x", "cube_0_y", "cube_1_x", "cube_1_y", "gripper", "goal_cos_yaw", "goal_sin_yaw", "x", "q[3]")
    assert state_groups(names) == {
        "eef_pos": [0, 1],
        "eef_quat": [2],
        "joint": [3, 4],
        "joint_velocity": [5, 6],
        "cube_0": [7, 8],
        "cube_1": [9, 10],
        "gripper": [11],
        "goal": [12, 13],
        "x": [14],
        "q": [15],
    }


def test_the_onlooker_of_states_keeps_the_last_frame():
    state = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    moment = SimpleNamespace(observation=SimpleNamespace(state=state))
    np.testing.assert_array_equal(States().look(moment)["state"], state[:, 2])
