"""A scripted expert in the human's place: when it takes over, what is its own, and what corrections mean."""

import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from fakes import HomingCritic, HomingPolicy, Notebook, PointMass, point_spec
from hypothesis import given, settings
from hypothesis import strategies as st
from online_fakes import save_models
from recorded import make_episode, make_spec

from robot_value import flags
from robot_value.arms import MAIN
from robot_value.commands import _train_online
from robot_value.episodes.store import EpisodeStore
from robot_value.evaluate import Arm
from robot_value.loop import run_episodes
from robot_value.online import corrections
from robot_value.online.acting import Acting, Round, Version, play
from robot_value.online.grown import Grown
from robot_value.online.supervised import REASON, Config, Supervised, Watch
from robot_value.playing import Site
from robot_value.sampling import ChunkSampler
from robot_value.steering.steerer import Steerer
from robot_value.types import HUMAN, POLICY


class SharedPoint(PointMass):
    """A point mass whose own driver goes straight home in the rows that were handed over."""

    def reset(self, tasks, seeds, rows=None):
        if rows is None:
            self.human = np.zeros(self.batch_size, bool)
        return super().reset(tasks, seeds, rows)

    def hand_over(self, human):
        self.human = human.copy()

    def execute(self, decision, follower):
        outcome = super().execute(decision, follower)
        source = np.where(self.human, HUMAN, POLICY).astype(np.uint8)[:, None] + np.zeros_like(outcome.source)
        return replace(outcome, source=source)

    def _advance(self, log, row, i, told):
        super()._advance(log, row, i, self._drive(row) if self.human[row] else told)


@dataclass(frozen=True)
class SharedConfig:
    def build(self, batch_size, workers=0, n_obs_steps=1, driver="policy"):
        assert driver in ("policy", "shared")
        kind = SharedPoint if driver == "shared" else PointMass
        return kind(batch_size, max_steps=12, n_obs_steps=n_obs_steps)


class Straying(HomingPolicy):
    """Goes away from home, so that the value of HomingCritic falls."""

    def sample(self, context, n, noise, prefix=None, guide=None):
        chunks, lengths = super().sample(context, n, noise)
        return -chunks, lengths


def owners(config, values, chances=None):
    """Who has the arm of one robot, decision by decision."""
    watch = Watch(config, 1)
    chances = [1.0] * len(values) if chances is None else chances
    return [bool(watch.human(np.array([v]), np.array([c]))[0]) for v, c in zip(values, chances, strict=True)]


# -- when it takes over ------------------------------------------------------------------------------------------------


def test_it_takes_over_when_the_value_falls_far_enough_and_gives_back_after_hold_decisions():
    # mutation: compare with the last value, not the highest; or >= hold
    values = [1.0, 2.0, 1.8, 1.6, 1.4, 0.0, 0.0, 0.0, 0.0]
    assert owners(Config(drop=0.5, hold=2), values) == [False] * 4 + [True] * 2 + [False] * 3


def test_after_it_let_go_a_fall_is_measured_from_there():
    # mutation: keep the old highest value, and take over for ever
    values = [1.0, 0.0, 0.2, 0.2, -0.2, -0.4]
    assert owners(Config(drop=0.5, hold=1), values) == [False, True, False, False, False, True]


def test_with_recover_it_stays_until_the_value_is_back_where_it_fell_from():
    # mutation: forget the value that it fell from, or let go before `hold`
    values = [1.0, 0.0, 0.5, 0.9, 0.99, 1.0, 1.0]
    assert owners(Config(drop=0.5, hold=2, recover=True), values) == [False, True, True, True, True, False, False]
    assert owners(Config(drop=0.5, hold=4, recover=True), [1, 0, 2, 2, 2, 2]) == [False, True, True, True, True, False]


def test_it_takes_over_when_nothing_got_better_for_long():
    # mutation: count equal values as better
    values = [0.0, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.2, 0.1, 0.2, 0.1]
    assert owners(Config(drop=0, stall=3, hold=1), values) == [False] * 4 + [True] + [False] * 5 + [True]


def test_an_unknown_value_is_no_fall_and_does_not_keep_the_arm():
    # mutation: np.maximum, which spreads NaN for ever
    values = [1.0, np.nan, 0.0, np.nan, 0.5, 0.1, -0.1]
    assert owners(Config(drop=0.5, hold=1, recover=True), values) == [False, False, True, False, False, False, True]


def slowly(config, values, chances):
    """The rules once more, for one robot, in words."""
    found, highest, since, left, human = [], -np.inf, 0, 0, False
    for value, chance in zip(values, chances, strict=True):
        if human:
            left -= 1
            if left <= 0 and (not config.recover or value >= highest):
                human, highest, since = False, value, 0
        else:
            if value > highest:
                highest, since = value, 0
            else:
                since += 1
            fell = config.drop > 0 and value < highest - config.drop
            stalled = config.stall > 0 and since >= config.stall
            if fell or stalled or chance < config.probability:
                human, left = True, config.hold
        found.append(human)
    return found


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from([0.1, 0.9])), min_size=1, max_size=30),
    st.sampled_from([0.0, 1.5]),
    st.integers(0, 3),
    st.sampled_from([0.0, 0.5]),
    st.integers(1, 3),
    st.booleans(),
)
def test_many_robots_at_once_are_watched_as_each_alone(steps, drop, stall, probability, hold, recover):
    # mutation: forget `~had` anywhere
    if not (drop or stall or probability):
        return
    config = Config(drop, stall, probability, hold, recover)
    values, chances = np.array([v for v, _ in steps], float), np.array([c for _, c in steps])
    watch = Watch(config, 2)
    mirrored = [watch.human(np.array([v, 5 - v]), np.array([c, c])).tolist() for v, c in zip(values, chances)]  # noqa: B905
    assert [first for first, _ in mirrored] == slowly(config, values, chances)
    assert [second for _, second in mirrored] == slowly(config, 5 - values, chances)


def test_settings_that_cannot_work_are_refused_with_what_to_do():
    with pytest.raises(ValueError, match="expected drop, stall or probability above 0"):
        Config(drop=0)
    with pytest.raises(ValueError, match=r"probability in \[0, 1\]"):
        Config(probability=2.0)
    plain = Steerer(HomingPolicy(point_spec(horizon=4)))
    with pytest.raises(ValueError, match="expected a critic to watch, got none"):
        Config().build(plain, SharedPoint(1), 0)
    Config(drop=0, probability=0.5).build(plain, SharedPoint(1), 0)  # a coin needs no critic


# -- what is its own ---------------------------------------------------------------------------------------------------


def supervised_episodes(config, seeds=range(6), batch_size=3, policy=HomingPolicy, n=3):
    """Episodes and summaries of a point robot under supervision."""
    spec = point_spec(horizon=4, n_obs_steps=1)
    robot = SharedPoint(batch_size, max_steps=30, n_obs_steps=1)
    steerer = Steerer(policy(spec), HomingCritic(spec), n=n, seed=5)
    notebook = Notebook()
    summaries = run_episodes(robot, Supervised(config, steerer, robot, 7), None, (notebook,), seeds=list(seeds))
    return notebook.episodes, summaries


@pytest.mark.parametrize(
    ("config", "policy"),
    [
        (Config(drop=0.05, hold=1), Straying),
        (Config(drop=0.05, hold=1, recover=True), Straying),
        (Config(drop=0, probability=0.4, hold=1), HomingPolicy),
    ],
)
def test_exactly_the_steps_that_the_expert_drove_are_labelled_human(config, policy):
    # mutation: label the whole batch; hand over one decision late
    episodes, _ = supervised_episodes(config, policy=policy)
    mixed = 0
    for episode in episodes:
        human = np.zeros(len(episode), bool)
        home = np.clip(-episode.states[:-1] / 0.1, -1, 1)  # what the point's own driver does
        for decision in episode.decisions:
            rows = slice(int(decision.start_step[0]), int(decision.start_step[0] + decision.execute[0]))
            human[rows] = decision.reason[0] == REASON
            if decision.reason[0] != REASON:
                told = np.clip(decision.chunk[0][: len(episode.actions[rows])], -1, 1)
                np.testing.assert_allclose(episode.actions[rows], told, atol=1e-6)
        np.testing.assert_array_equal(episode.source == HUMAN, human)
        np.testing.assert_allclose(episode.actions[human], home[human], atol=1e-6)
        mixed += human.any() and not human.all()
    assert mixed >= 2


def test_a_policy_that_strays_is_brought_home():
    # mutation: never hand over
    _, summaries = supervised_episodes(Config(drop=0.05, hold=6), policy=Straying)
    assert all(each.success for each in summaries) and all(each.reasons[REASON] for each in summaries)


@pytest.mark.parametrize(
    "config", [Config(drop=0.05, stall=4, probability=0.2, hold=2), Config(drop=0, probability=0.5, hold=1)]
)
def test_an_episode_is_the_same_whichever_robots_play_beside_it(config):
    # mutation: one generator for the batch, chances keyed by the row, or memory that outlives an episode
    together, _ = supervised_episodes(config, policy=Straying)
    apart, _ = supervised_episodes(config, seeds=reversed(range(6)), batch_size=1, policy=Straying)
    for seed in range(6):
        a, b = (next(e for e in some if e.provenance["seed"] == seed) for some in (together, apart))
        np.testing.assert_array_equal(a.source, b.source)
        np.testing.assert_allclose(a.actions, b.actions, atol=1e-5)


def test_what_the_policy_meant_is_kept_beside_what_the_expert_did_and_is_no_memory():
    # mutation: overwrite the chunk; do not tell the Steerer
    spec, robot = point_spec(horizon=4, n_obs_steps=1), SharedPoint(1, n_obs_steps=1)
    steerer = Steerer(HomingPolicy(spec), n=1)
    player = Supervised(Config(drop=0, probability=1.0, hold=3), steerer, robot, 0)
    observation = robot.reset([""], [3])
    decision = player(observation)
    assert decision.reason == (REASON,) and robot.human.all()
    np.testing.assert_array_equal(decision.chunk, Steerer(HomingPolicy(spec), n=1)(observation).chunk)
    assert np.isnan(steerer._memory.recall(observation, observation.step)).all()


def test_a_robot_that_rests_is_not_handed_over():
    # mutation: forget `active`
    spec, robot = point_spec(horizon=4, n_obs_steps=1), SharedPoint(2, n_obs_steps=1)
    player = Supervised(Config(drop=0, probability=1.0), Steerer(HomingPolicy(spec)), robot, 0)
    decision = player(robot.reset(["", ""], [3, 4]), np.array([True, False]))
    assert robot.human.tolist() == [True, False] and decision.reason == (REASON, "base")


def test_a_judge_is_watched_in_the_place_of_the_critic_that_steers():
    # mutation: watch the steering critic
    class Contrary(HomingCritic):
        def score(self, context, chunks, lengths):
            scores = super().score(context, chunks, lengths)
            return replace(scores, value=-scores.value)

    spec = point_spec(horizon=4, n_obs_steps=1)
    for judge, expected in ((None, False), (Contrary(spec), True)):
        robot = SharedPoint(1, n_obs_steps=1)
        steerer = Steerer(HomingPolicy(spec, scale=0.0), HomingCritic(spec), n=2)
        player = Supervised(Config(drop=0.01, hold=1), steerer, robot, 0, judge)
        notebook = Notebook()
        run_episodes(robot, player, None, (notebook,), seeds=[1])
        assert (notebook.episodes[0].source == HUMAN).any() == expected


def test_candidates_that_were_refused_have_no_say_in_the_value():
    # mutation: judge NaN as 0
    spec, robot = point_spec(horizon=4, n_obs_steps=1), SharedPoint(2, n_obs_steps=1)
    steerer = Steerer(HomingPolicy(spec), n=3)
    player = Supervised(Config(), steerer, robot, 0, HomingCritic(spec))
    observation = robot.reset(["", ""], [3, 4])
    decision = steerer(observation)
    candidates = decision.candidates.copy()
    candidates[:, 1] = np.nan
    found = player._value(observation, replace(decision, candidates=candidates))
    expected = player._value(observation, replace(decision, candidates=candidates[:, [0, 2]]))
    np.testing.assert_allclose(found, expected)
    assert np.isnan(player._value(observation, replace(decision, candidates=np.full_like(candidates, np.nan)))).all()


# -- rounds ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return save_models(tmp_path_factory.mktemp("models"))


def acting(folder, **changes):
    arm = Arm("online", "argmax", n=3, critic=MAIN)
    supervisor = Config(drop=0, probability=0.5, hold=1)
    return Acting(Site(SharedConfig(), 2), arm, folder, 0, supervisor=supervisor, **changes)


def test_a_round_counts_the_humans_steps_and_an_evaluation_has_none(models, tmp_path):
    # mutation: supervise evaluations; count decisions
    policy, critic = models
    round = Round(1, Version(3, policy, critic), (11, 12, 13))
    played = play(acting(tmp_path / "s"), round)
    store = EpisodeStore.open(tmp_path / "s")
    episodes = [store.read(name) for name in played.names]
    assert played.human_steps == tuple(int((e.source == HUMAN).sum()) for e in episodes) and any(played.human_steps)
    assert all(e.provenance["supervisor"]["probability"] == 0.5 for e in episodes)
    assert {d.versions["online"] for e in episodes for d in e.decisions} == {"3"}
    evaluation = play(acting(None), round)
    plain = play(replace(acting(None), supervisor=None), round)
    assert evaluation == plain and evaluation.human_steps == ()


def test_a_round_that_was_cut_off_is_completed_as_if_it_had_not_been(models, tmp_path, monkeypatch):
    # mutation: key the chances by the place in the round; play a cut-off wave's missing seed in another row
    version = Version(0, *models)
    whole = play(acting(tmp_path / "whole"), Round(1, version, (11, 12, 13, 14)))
    play(acting(tmp_path / "parts"), Round(1, version, (11, 12, 13)))
    asked = []
    monkeypatch.setattr("robot_value.online.acting.run_episodes", lambda *a: asked.append(a[-1]) or run_episodes(*a))
    parts = play(acting(tmp_path / "parts"), Round(1, version, (11, 12, 13, 14)))
    assert asked == [[13, 14]]  # both: the last bits of 14 depend on its row
    assert len(parts.names) == len(EpisodeStore.open(tmp_path / "parts").names()) == 4  # none twice
    stores = [EpisodeStore.open(tmp_path / name) for name in ("whole", "parts")]
    for pair in zip(whole.names, parts.names, strict=True):
        a, b = (store.read(name) for store, name in zip(stores, pair, strict=True))
        np.testing.assert_array_equal(a.actions, b.actions)
        np.testing.assert_array_equal(a.source, b.source)
    assert parts.human_steps == whole.human_steps and parts.steps == whole.steps


# -- what corrections mean ---------------------------------------------------------------------------------------------


def sourced(flags, seed=0, **changes):
    source = np.where(np.array(flags, bool), HUMAN, POLICY).astype(np.uint8)
    return make_episode(make_spec(), len(source), seed=seed, source=source, **changes)


def test_rlif_blames_the_step_before_a_takeover_and_pvp_marks_whose_a_step_is():
    # mutation: blame the first human step; keep the task's rewards
    episode = sourced([0, 0, 1, 1, 0, 1, 0])
    assert corrections.relabel(episode, "rlif").rewards.tolist() == [0, -1, 0, 0, -1, 0, 0]
    assert corrections.relabel(episode, "pvp").rewards.tolist() == [0, 0, 1, 1, 0, 1, 0]
    for how in ("", "dagger"):
        assert corrections.relabel(episode, how) is episode
    with pytest.raises(ValueError, match="expected one of rlif, pvp, dagger or nothing, got 'dager'"):
        corrections.relabel(episode, "dager")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=8), min_size=1, max_size=4), st.integers(1, 5))
def test_dagger_clones_whole_chunks_of_humans_only(episodes, horizon):
    # mutation: look into the next episode; ask for the first step alone
    grown = Grown(make_spec())
    for i, others in enumerate(episodes):
        grown.add(str(i), sourced(others, seed=i))
    labels = corrections.starts(grown.cache(), horizon, "dagger")
    expected = [all(others[t : t + horizon]) for others in episodes for t in range(len(others))]
    assert labels.weight.tolist() == [float(each) for each in expected]
    assert corrections.starts(grown.cache(), horizon, "rlif") is None


def test_windows_are_drawn_from_corrections_with_rewards_and_ends_as_recorded():
    # mutation: labels without weights
    grown = Grown(make_spec())
    flags = [0, 0, 1, 1, 1, 0, 1, 1, 1, 1, 0, 0]
    grown.add("a", sourced(flags, rewards=np.arange(12, dtype=np.float32)))
    cache = grown.cache()
    sampler = ChunkSampler(cache, 3, batch_size=64, labels=corrections.starts(cache, 3, "dagger"))
    batch = sampler.sample()
    assert set(batch.index.tolist()) == {2, 6, 7}
    np.testing.assert_array_equal(batch.rewards[:, 0], batch.index)


PAGE = Path(__file__).resolve().parents[1] / "docs" / "online" / "interventions.md"


def test_the_page_has_flags_and_links_that_exist():
    # mutation: --supervisor.patience=4 in docs/online/interventions.md
    text = PAGE.read_text(encoding="utf-8").replace("\\\n", " ")
    commands = re.findall(r"^robot-value train online (.*)$", text, re.MULTILINE)
    for words in map(shlex.split, commands):
        flags.parse(_train_online.TrainOnline, words, _train_online.CHOICES)
    named = set(re.findall(r"`--([a-z_.]+)[=`]", text))
    assert commands and len(named) >= 8 and named <= flags.flag_types(_train_online.TrainOnline).keys()
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (PAGE.parent / link).exists(), link
