"""Warnings of a replay: planted bugs are named with their episodes, a clean log is left in peace."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import make_episode, make_spec
from replayed import synthetic

from robot_value.replay import check_motion as motion
from robot_value.replay.check_critic import check_critics, skill
from robot_value.replay.check_labels import check_labels
from robot_value.replay.check_motion import check_motion, fit_response, hypotheses
from robot_value.replay.survey import Trace, survey
from robot_value.replay.warnings import warnings, warnings_of_data

SPEC = make_spec()
MIXING = np.array([[1, 0.4, 0], [0, 1, 0.4], [0.4, 0, 1]])  # M: an action sign is not a sensor's


def robot(seed: int, episodes: int = 60, steps: int = 24, delay: int = 0) -> list[Trace]:
    """ds_t = M (0.1 a_{t - delay} + 0.05 a_{t - delay - 1}) + noise; a success ends right of where it began."""
    rng, traces = np.random.default_rng(seed), []
    for i in range(episodes):
        actions = rng.uniform(-1, 1, (steps, 3)) + rng.choice([-0.4, 0.4]) * np.eye(3)[0]
        told = np.concatenate([np.zeros((delay + 1, 3)), actions])
        moves = (0.1 * told[1 : steps + 1] + 0.05 * told[:steps]) @ MIXING + rng.normal(0, 0.02, (steps, 3))
        states = np.concatenate([np.zeros((1, 3)), np.cumsum(moves, 0)])
        traces.append(trace(f"e{i:02d}", states, actions, bool(states[-1, 0] > 0)))
    return traces


def trace(name, states, actions, success=None) -> Trace:
    return Trace(name, states.astype(np.float32), actions.astype(np.float32), success, np.zeros(0))


def spoil(traces, names, **change) -> list[Trace]:
    """change: field -> function of the trace."""
    return [replace(t, **{k: f(t) for k, f in change.items()}) if t.name in names else t for t in traces]


def late(t: Trace) -> np.ndarray:
    return np.concatenate([t.actions[:1], t.actions[:-1]])


def early(t: Trace) -> np.ndarray:
    return np.concatenate([t.actions[1:], t.actions[-1:]])


PLANTED = ("e03", "e17", "e41")


@pytest.mark.parametrize("dim, name", [(0, "arm[0]"), (1, "arm[1]"), (2, "gripper")])
def test_a_flipped_action_sign_is_found_in_its_episodes_and_named(dim, name):
    sign = 1 - 2 * np.eye(3, dtype=np.float32)[dim]
    (found,) = check_motion(SPEC, spoil(robot(0), PLANTED, actions=lambda t: t.actions * sign))
    assert found.what == f"action {name} has the other sign" and found.episodes == PLANTED  # mutation: columns of a lag


def test_a_flipped_sensor_is_told_from_a_flipped_action():
    sign = np.array([1, -1, 1], np.float32)
    (found,) = check_motion(SPEC, spoil(robot(1), PLANTED, states=lambda t: t.states * sign))
    assert found.episodes == PLANTED and found.what == "state s1 has the other sign"


@pytest.mark.parametrize("change, word", [(late, "late"), (early, "early")])
def test_actions_shifted_by_a_step_in_some_episodes_are_found_there(change, word):
    (found,) = check_motion(SPEC, spoil(robot(2), PLANTED, actions=change))
    assert found.what == f"actions are one step {word}"  # mutation: the shift's direction
    assert found.episodes == PLANTED


@pytest.mark.parametrize("change, word", [(late, "late"), (early, "early")])
def test_actions_shifted_in_the_whole_log_are_one_warning_without_episodes(change, word):
    traces = robot(3)
    (found,) = check_motion(SPEC, spoil(traces, {t.name for t in traces}, actions=change))
    assert f"actions are {'one step ' if word == 'late' else ''}{word} in the whole log" in found.what
    assert not found.episodes


def servo(seed: int, steps: int = 30) -> list[Trace]:
    """The expert corrects what it sees, a_t = -3 s_t + noise; the robot, ds = 0.3 a + noise."""
    rng, traces = np.random.default_rng(seed), []
    for i in range(40):
        states, actions = [rng.uniform(-1, 1, 3)], []
        for _ in range(steps):
            actions.append(-3 * states[-1] + rng.normal(0, 0.1, 3))
            states.append(states[-1] + 0.3 * actions[-1] + rng.normal(0, 0.02, 3))
        traces.append(trace(f"e{i:02d}", np.array(states), np.array(actions)))
    return traces


@pytest.mark.parametrize("seed", range(3))
def test_an_expert_that_corrects_what_it_sees_is_not_late_though_its_next_action_tells_how_the_state_moved(seed):
    assert check_motion(SPEC, servo(seed)) == []  # mutation: the newest lag first, or all lags together


@pytest.mark.parametrize("change, onset", [(late, -1), (early, 1)])
def test_a_shift_of_all_that_such_an_expert_did_is_found(change, onset):
    traces = servo(3)
    assert fit_response(spoil(traces, {t.name for t in traces}, actions=change)).onset == onset


def test_where_the_episodes_do_not_agree_the_whole_log_is_not_said_to_be_shifted():
    traces = robot(14)
    many, most = (spoil(traces, {t.name for t in traces[:n]}, actions=late) for n in (38, 57))
    assert (fit_response(many).onset, fit_response(most).onset) == (0, -1)  # mutation: MOST = 0.5


def test_a_heavy_robot_is_not_a_late_one():
    """It goes on as it went, so that older actions tell much of how it moves; all but what it is told last is seen."""
    rng, traces = np.random.default_rng(16), []
    for i in range(40):
        actions, speed = rng.normal(0, 1, (40, 3)).cumsum(0), [np.zeros(3)]
        for action in actions:
            speed.append(0.9 * speed[-1] + 0.1 * action)
        traces.append(trace(f"e{i:02d}", np.cumsum(speed, 0), actions))
    assert fit_response(traces).onset == 0  # mutation: the state without how it has moved


def test_a_bug_that_one_quarter_of_the_episode_refutes_is_none():
    """The robot answers the wrong way round in half of the episode: a sign that was flipped stays flipped."""
    sign = np.where(np.arange(25) < 13, -1, 1)[:, None] * [1, 0, 0] + [0, 1, 1]

    def turned(t: Trace) -> np.ndarray:
        return (t.actions * sign[:24]).astype(np.float32)

    spoiled = spoil(robot(15), PLANTED, actions=turned)
    flipped = dict(hypotheses(SPEC, fit_response(spoiled), spoiled[3]))
    gain = flipped[""] - flipped["action arm[0] has the other sign"]
    assert motion._in_parts(gain)[0] > 10 and motion._in_parts(gain)[-1] < -10
    assert check_motion(SPEC, spoiled) == []  # mutation: PARTS = 1


def test_an_object_that_moves_only_where_it_is_held_accuses_no_episode_of_a_flipped_sign():
    rng, traces = np.random.default_rng(17), []
    for i, t in enumerate(robot(17)):
        held = -1 if i < 3 else i % 2  # three times it is held the other way round
        moves = held * 0.1 * t.actions[:, 0] + rng.normal(0, 0.02, len(t.actions))
        states = np.column_stack([t.states[:, :2], np.cumsum([0, *moves])])
        traces.append(replace(t, states=states.astype(np.float32)))
    assert np.isfinite(fit_response(traces).scale[2])  # it answers
    assert check_motion(SPEC, traces) == []  # mutation: h is believed though most episodes do not refute it


def test_a_slow_robot_has_its_delay_as_onset():
    assert [fit_response(robot(4, delay=d)).onset for d in (0, 1)] == [0, 1]


def test_a_flip_in_a_slow_robot_is_still_found():
    sign = np.array([-1, 1, 1], np.float32)
    found = check_motion(SPEC, spoil(robot(5, delay=1), PLANTED, actions=lambda t: t.actions * sign))
    assert PLANTED in [each.episodes for each in found]  # mutation: lags from 0 on, whatever the onset


def test_states_that_do_not_answer_accuse_nobody():
    rng = np.random.default_rng(6)
    traces = [trace(str(i), rng.normal(size=(25, 3)).cumsum(0), rng.uniform(-1, 1, (24, 3))) for i in range(30)]
    assert check_motion(SPEC, traces) == []  # mutation: scale finite where nothing is explained


def test_short_and_few_episodes_are_not_judged():
    assert check_motion(SPEC, robot(7, episodes=9)) == [] == check_motion(SPEC, robot(7, steps=11))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_loss_under_a_hypothesis_is_that_of_the_episode_corrected_by_hand(seed):
    spec = replace(SPEC, state_names=("s0", "s0_velocity", "s2"))
    traces = robot(seed, episodes=12)
    model, t = fit_response(traces), traces[0]
    found = dict(hypotheses(spec, model, t))

    def loss(states, actions):
        x, change = motion._rows(states, actions, model.lags)
        return pytest.approx(motion._loss(change - x @ model.weights, model.scale), abs=1e-6)

    assert found[""] == loss(t.states, t.actions)
    for d, (action, state) in enumerate(zip(("arm[0]", "arm[1]", "gripper"), spec.state_names, strict=True)):
        sign = 1 - 2 * np.eye(3, dtype=np.float32)[d]
        assert found[f"action {action} has the other sign"] == loss(t.states, t.actions * sign)
        assert found[f"state {state} has the other sign"] == loss(t.states * sign, t.actions)
    both = np.array([-1, -1, 1], np.float32)  # mutation: the velocity keeps its sign
    assert found["state s0 with its velocity has the other sign"] == loss(t.states * both, t.actions)


def test_a_joint_is_found_whose_velocity_has_the_other_sign_with_it():
    spec, traces = replace(SPEC, state_names=("q", "q_velocity", "s2")), []
    for t in robot(11):
        velocity = np.diff(t.states[:, 0], prepend=0)
        traces.append(replace(t, states=np.stack([t.states[:, 0], velocity, t.states[:, 2]], 1)))
    sign = np.array([-1, -1, 1], np.float32)
    (found,) = check_motion(spec, spoil(traces, PLANTED, states=lambda t: t.states * sign))
    assert found.what == "state q with its velocity has the other sign" and found.episodes == PLANTED


def test_an_episode_that_stays_odd_under_a_hypothesis_is_not_explained_by_it():
    """A robot that is pushed about answers a flipped sign no better: the likelihood ratio alone would believe it."""
    push = np.random.default_rng(4).normal(0, 0.6, (25, 3)).cumsum(0).astype(np.float32)
    pushed = spoil(robot(12), ("e07",), states=lambda t: t.states + push)
    loss = {what: rows.sum() for what, rows in hypotheses(SPEC, fit_response(pushed), pushed[7])}
    assert loss[""] - min(loss.values()) > np.log((len(loss) - 1) / motion.ALPHA)
    assert check_motion(SPEC, pushed) == []  # mutation: EXPLAINS = 0


def test_the_loss_is_that_of_students_t():
    from scipy import stats

    error, scale = np.array([[0.3, -1.0], [2.0, 0.1]]), np.array([0.5, 2.0])
    density = stats.t(motion.FREEDOM).logpdf
    assert motion._loss(error, scale) == pytest.approx(-(density(error / scale) - density(0)).sum(1))


def test_swapped_labels_are_found_and_said_to_be_what_they_are_not():
    traces = robot(8, episodes=100)
    far = [t for t in traces if abs(t.states[-1, 0]) > 0.5]  # beyond doubt
    names = tuple(sorted([*[t.name for t in far if t.success][:3], *[t.name for t in far if not t.success][:3]]))
    wrong = check_labels(spoil(traces, names, success=lambda t: not t.success))
    assert len({name for each in wrong for name in each.episodes} & set(names)) >= 5
    assert sum(len(each.episodes) for each in wrong) <= 7
    by_name = {t.name: t.success for t in traces}
    for each in wrong:  # mutation: success and failure exchanged in the text
        word = "failure" if by_name[next(n for n in each.episodes if n in names)] else "success"
        assert f"labelled {word}" in each.what


def test_time_that_ran_out_speaks_against_a_success():
    rng, traces = np.random.default_rng(13), []
    for i in range(80):
        steps = 40 if i % 2 else int(rng.integers(20, 39))
        traces.append(trace(f"e{i:02d}", rng.normal(size=(steps + 1, 3)), np.zeros((steps, 3)), success=not i % 2))
    (wrong,) = check_labels(spoil(traces, PLANTED, success=lambda t: not t.success))
    assert wrong.what == "3 episodes labelled success, ending like a failure"
    assert wrong.episodes == PLANTED  # mutation: the last state alone


def test_labels_that_no_ending_explains_accuse_few():
    rng = np.random.default_rng(9)
    traces = [replace(t, success=bool(rng.random() < 0.5)) for t in robot(9, episodes=100)]
    assert sum(len(each.episodes) for each in check_labels(traces)) <= 1


def test_unknown_labels_are_not_judged():
    assert check_labels([replace(t, success=None) for t in robot(10)]) == []


def test_clean_logs_yield_at_most_one_warning_per_hundred_episodes():
    found = [f for seed in range(20, 24) for f in check_motion(SPEC, robot(seed)) + check_labels(robot(seed))]
    assert sum(max(1, len(f.episodes)) for f in found) <= 2


def told(critics, seed=0, knows=1.0):
    """A replayed log and states that say how it will end, as far as `knows`."""
    replayed = synthetic(episodes=120, seed=seed, critics=critics)
    rng = np.random.default_rng(seed)
    ended = replayed.success
    traces = [
        trace(e.name, rng.normal(0, 0.5, (e.steps + 1, 3)) + knows * ended[i], np.zeros((e.steps, 3)))
        for i, e in enumerate(replayed.episodes)
    ]
    return replayed, traces


def test_a_critic_that_knows_nothing_is_named_and_a_good_one_is_not():
    replayed, traces = told({"main": 0.1, "shuffled": float("inf")})
    (found,) = check_critics(replayed, traces)
    assert found.what.startswith("critic shuffled explains")
    assert skill(replayed, traces, "main").critic.mean > 0.7


def test_a_critic_that_is_wrong_way_round_is_named():
    replayed, traces = told({"main": 0.1})
    main = replayed.opinions["main"]
    turned = replace(replayed, opinions={"main": replace(main, logged_value=-main.logged_value)})
    assert check_critics(turned, traces) and skill(turned, traces, "main").share.high < 0  # mutation: sign lost by **2


def test_a_value_that_only_tells_the_time_has_no_skill():
    replayed, traces = told({"main": 0.1})
    clock = replace(replayed.opinions["main"], logged_value=replayed.step.astype(np.float32))
    found = skill(replace(replayed, opinions={"main": clock}), traces, "main")
    assert found.critic.mean == pytest.approx(0, abs=1e-6)  # mutation: values not matched in time


def test_where_the_log_teaches_nothing_no_critic_is_blamed():
    replayed, traces = told({"main": float("inf")}, knows=0.0)
    assert check_critics(replayed, traces) == []


def test_few_episodes_or_one_outcome_say_nothing_about_a_critic():
    replayed = synthetic(episodes=10)
    traces = [trace(e.name, np.zeros((e.steps + 1, 3)), np.zeros((e.steps, 3))) for e in replayed.episodes]
    assert skill(replayed, traces, "main") is None


class Log:
    def __init__(self, episodes):
        self.episodes, self.spec = episodes, next(iter(episodes.values())).spec

    def names(self):
        return list(self.episodes)

    def read(self, name):
        return self.episodes[name]


def test_a_camera_that_hangs_while_the_robot_moves_is_named_and_one_at_rest_is_not():
    spec = make_spec(cameras=("front",))
    line = np.linspace(0, 1, 41, dtype=np.float32)[:, None].repeat(3, 1)  # an even motion
    episodes = {str(i): make_episode(spec, 40, seed=i, states=line) for i in range(4)}
    for name, resting in (("1", False), ("2", True)):
        pixels, states = episodes[name].images["front"].copy(), episodes[name].states.copy()
        pixels[20:] = pixels[20]
        if resting:
            states[20:] = states[20] + 1e-4 * states[20:]  # it creeps
        episodes[name] = replace(episodes[name], images={"front": pixels}, states=states)
    seen = survey(Log(episodes))
    assert [f.frozen for f in seen.frames] == [0, 21, 0, 0]  # mutation: the run's first frame; any equal frame counts
    frozen = [f for f in warnings_of_data(spec, seen) if "freezes" in f.what]
    assert [f.episodes for f in frozen] == [("1",)]


def test_the_last_picture_is_kept_as_the_brightness_of_its_cells():
    spec = make_spec(cameras=("front",))
    episode = make_episode(spec)
    (seen,) = survey(Log({"a": episode})).traces
    frame = episode.images["front"][-1]  # 4 x 5 pixels: six cells, of which some are single pixels and some empty
    assert seen.picture.shape == (36,) and seen.picture[0] == pytest.approx(frame[0, 0].mean())


def test_all_warnings_come_from_one_reading_of_the_replayed_episodes():
    replayed = synthetic(episodes=24, critics={"main": float("inf")})
    read = []

    class Reading(Log):
        def read(self, name):
            read.append(name)
            return super().read(name)

    episodes = {e.name: make_episode(SPEC, e.steps, seed=i, success=e.success) for i, e in enumerate(replayed.episodes)}
    episodes["not replayed"] = make_episode(SPEC)
    episodes[replayed.episodes[5].name] = episodes[replayed.episodes[4].name]
    copies = [f for f in warnings(replayed, Reading(episodes)) if "content of another" in f.what]
    assert read == [e.name for e in replayed.episodes]
    assert (
        [f.episodes for f in copies] == [(replayed.episodes[5].name,)]
        if len(episodes[replayed.episodes[4].name]) == replayed.episodes[5].steps
        else copies
    )
