"""The live view's watcher: the loop neither waits nor changes, what is lost is counted and said, numbers are the
decision's own."""

import threading
from dataclasses import dataclass, fields, replace
from itertools import pairwise

import numpy as np
import pytest
from display_scene import Kept, moments
from fakes import DT, HomingCritic, HomingPolicy, Notebook, PointMass, observation, point_spec
from hypothesis import given
from hypothesis import strategies as st
from recorded import assert_same

from robot_value.display.display import Clock, Display
from robot_value.display.places import Unfinished, check_place, host_and_port, of_part
from robot_value.display.shown import Shown, cut
from robot_value.loop import run_episodes
from robot_value.steering.selectors import argmax
from robot_value.steering.steerer import Steerer

SEEDS = range(4)


class Stuck(Kept):
    """Takes one decision and does not come back until it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may, self.reached = threading.Event(), threading.Event()

    def write(self, shown: Shown) -> None:
        self.reached.set()
        self.may.wait(60)
        super().write(shown)


class Broken(Kept):
    """Dies at its third decision."""

    def write(self, shown: Shown) -> None:
        if len(self.shown) == 2:
            raise OSError("the window was closed")
        super().write(shown)


def steerer():
    return Steerer(HomingPolicy(), critic=HomingCritic(), selector=argmax.Config().build(), n=4, execute=4)


def played(*watchers, batch_size=2):
    """A Notebook of the same four episodes."""
    notebook = Notebook()
    run_episodes(PointMass(batch_size=batch_size), steerer(), watchers=(notebook, *watchers), seeds=SEEDS)
    return notebook


def of_row(notebook, row):
    """What a display of that robot should have shown, cut out anew."""
    moments = [each for each in notebook.decisions if each[1].execute[row]]
    return [cut(*each, row, 0.0) for each in moments]


def same(a: Shown, b: Shown) -> None:
    for name in (each.name for each in fields(Shown) if each.name not in ("time", "images")):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


@pytest.mark.parametrize("robots", [1, 2])
def test_every_decision_of_the_robots_asked_for_is_shown_in_order(robots):
    # mutation: rows at rest too; one robot only; the newest first
    kept = Kept()
    with Display(kept, DT, robots) as display:
        notebook = played(display)
    assert kept.closed and display.dropped == 0
    for row in range(robots):
        mine, expected = [each for each in kept.shown if each.robot == row], of_row(notebook, row)
        assert len(mine) == len(expected) > 4
        for a, b in zip(mine, expected, strict=True):
            same(a, b)
    assert {each.robot for each in kept.shown} == set(range(robots))


@pytest.mark.parametrize("sink", [Kept, Stuck, Broken])
def test_decisions_and_episodes_are_bit_for_bit_those_without_a_display(sink):
    # mutation: `observation.state[row] *= 0` in cut; raise in on_decision
    sink = sink()
    display = Display(sink, DT, backlog=2, say=lambda line: None)
    with_it, without = played(display), played()
    getattr(sink, "may", threading.Event()).set()
    display.close()
    assert len(with_it.decisions) == len(without.decisions)
    for (seen, made, _), (seen_without, made_without, _) in zip(with_it.decisions, without.decisions, strict=True):
        for name in ("state", "step", "time"):
            np.testing.assert_array_equal(getattr(seen, name), getattr(seen_without, name))
        for name in ("chunk", "candidates", "value", "spread", "index", "execute"):
            np.testing.assert_array_equal(getattr(made, name), getattr(made_without, name))
    for a, b in zip(with_it.episodes, without.episodes, strict=True):
        assert_same(replace(a, decisions=()), replace(b, decisions=()))


def test_a_stuck_viewer_costs_the_oldest_decisions_which_are_counted_and_said():
    # mutation: wait for room; an unbounded queue; drop the newest
    stuck, said = Stuck(), []
    display = Display(stuck, DT, backlog=3, say=said.append)
    notebook = played(display)
    assert stuck.reached.wait(10)
    assert not stuck.shown, "the loop ended while the viewer still held its first decision"
    stuck.may.set()
    display.close()
    steps = [(each.episode, each.step) for each in of_row(notebook, 0)]
    shown = [(each.episode, each.step) for each in stuck.shown]
    assert shown[-3:] == steps[-3:] and set(shown) <= set(steps) and len(shown) <= 5
    assert display.drawn == len(shown) and display.dropped == len(steps) - len(shown)
    lost = f"display: {display.dropped} of {len(steps)} decisions were not shown: the viewer was slower than the robot"
    assert said == [lost]


def test_a_viewer_that_never_answers_is_given_up_at_the_end():
    # mutation: join without a limit; forget what waited
    stuck, said = Stuck(), []
    display = Display(stuck, DT, backlog=3, say=said.append)
    notebook = played(display)
    display.close(patience=0.05)
    assert "expected the viewer to take what is left within 0.05 s" in said[0]
    assert display.dropped == len(of_row(notebook, 0)) - 1, "all but the one it holds"
    stuck.may.set()


def test_a_viewer_that_dies_is_said_once_and_the_rest_is_counted():
    # mutation: let the error escape; try again at every decision
    broken, said = Broken(), []
    with Display(broken, DT, say=said.append) as display:
        notebook = played(display)
    assert display.failed == "OSError: the window was closed"
    assert display.drawn == 2 and display.dropped == len(of_row(notebook, 0)) - 2
    assert said[0] == "display: nothing is shown any more (OSError: the window was closed); the robot goes on"
    assert len(said) == 2 and said[1].endswith("not shown: OSError: the window was closed")


def test_a_file_that_cannot_be_finished_is_said_and_no_decision_is_counted_twice():
    # mutation: one more lost than there was
    class Full(Kept):
        def close(self):
            raise OSError("no space left on device")

    said = []
    with Display(Full(), DT, say=said.append) as display:
        notebook = played(display)
    assert display.drawn == len(of_row(notebook, 0)) and display.dropped == 0
    assert said == ["display: nothing is shown any more (OSError: no space left on device); the robot goes on"]


def test_what_comes_after_the_end_is_not_shown_and_what_waited_before_it_is():
    # mutation: the late one takes the waiting ones along
    stuck = Stuck()
    display = Display(stuck, DT, say=lambda line: None)
    show = [each for each in played().decisions if each[1].execute[0]][:3]
    for each in show[:2]:
        display.on_decision(*each)
    assert stuck.reached.wait(10)
    closing = threading.Thread(target=display.close)
    closing.start()
    while not display._closed:
        pass
    display.on_decision(*show[2])
    stuck.may.set()
    closing.join()
    assert (display.drawn, display.dropped) == (2, 1)


def test_what_is_shown_is_a_copy():
    # mutation: views of the batch's arrays
    notebook = played()
    seen, made, outcome = notebook.decisions[0]
    picture = np.arange(2 * 2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 2, 3, 4, 3)
    seen = replace(seen, images={"front": picture})
    shown = cut(seen, made, outcome, 1, 0.0)
    arrays = [seen.state, picture, made.candidates, made.value, made.spread, made.chunk, outcome.executed]
    ours = [
        shown.state,
        shown.images["front"],
        shown.candidates,
        shown.value,
        shown.spread,
        shown.chunk,
        shown.executed,
    ]
    assert not any(np.shares_memory(a, b) for a, b in zip(arrays, ours, strict=True))
    np.testing.assert_array_equal(shown.images["front"], picture[1, -1])
    np.testing.assert_array_equal(shown.executed, outcome.executed[1][outcome.executed_valid[1]])


@given(st.lists(st.one_of(st.floats(-5, 5, width=32), st.just(float("nan"))), max_size=6), st.integers(-1, 5))
def test_headroom_is_the_best_score_minus_candidate_0s(scores, index):
    # mutation: NaN counts as best; the chosen score instead of the best
    value = np.array(scores, np.float32)
    shown = replace(cut(*moments()[0], 0, 0.0), value=value, index=index)
    known = [score for score in scores if score == score]
    best = max(known) if known else float("nan")
    plain = scores[0] if scores else float("nan")
    np.testing.assert_array_equal([shown.best, shown.plain, shown.headroom], [best, plain, best - plain])
    np.testing.assert_array_equal(shown.chosen, scores[index] if 0 <= index < len(scores) else float("nan"))


@given(st.lists(st.tuples(st.integers(1, 5), st.floats(0, 9)), min_size=1, max_size=8), st.floats(0, 1e6))
def test_time_begins_at_zero_and_episodes_follow_each_other(episodes, start):
    # mutation: the robot's own time; restart at 0 with every episode
    clock, dt, found, lengths = Clock(0.5), 0.5, [], []
    for number, (count, begins) in enumerate(episodes):
        for i in range(count):
            seen = replace(
                observation(point_spec(), batch=1),
                time=np.array([start + begins + 2 * i * dt]),
                step=np.array([2 * i]),
                episode=np.array([7]),
            )
            found.append((number, clock(seen, Executed(2), 0)))
            lengths.append(2 * dt)
    times = np.array([time for _, time in found])
    assert times[0] == 0 and (np.diff(times) >= np.array(lengths[:-1]) - 1e-6).all()
    for (a, s), (b, t) in pairwise(found):
        if a == b:
            assert t - s == pytest.approx(2 * dt, abs=1e-6)


class Executed:
    def __init__(self, k):
        self.executed_valid = np.ones((1, k), bool)


def test_on_an_arm_whose_clock_goes_on_the_pause_between_episodes_is_kept():
    # mutation: close every gap
    clock, times = Clock(0.1), []
    for episode, now in ((1, 50.0), (1, 50.2), (2, 60.0)):
        seen = replace(
            observation(point_spec(), batch=1),
            time=np.array([now]),
            step=np.array([0 if now != 50.2 else 2]),
            episode=np.array([episode]),
        )
        times.append(clock(seen, Executed(2), 0))
    assert times == pytest.approx([0, 0.2, 10.0])


# -- where it goes -----------------------------------------------------------------------------------------------------


def test_a_file_has_its_name_when_it_is_whole(tmp_path):
    # mutation: write at the name itself
    path = tmp_path / "new" / "look.rrd"
    path.parent.mkdir()
    path.write_bytes(b"of the last run")
    file = Unfinished(path)
    file.partial.write_bytes(b"half")
    assert path.read_bytes() == b"of the last run" and file.partial.suffix == ".rrd"
    file.finish()
    assert path.read_bytes() == b"half" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("address", ["9876", ":9876", "here:", "127.0.0.1:x", "127.0.0.1:0", "127.0.0.1:70000"])
def test_an_address_is_a_host_and_a_port(address):
    # mutation: a port of 0
    assert host_and_port("address", "127.0.0.1:9876") == ("127.0.0.1", 9876)
    with pytest.raises(ValueError, match="expected HOST:PORT"):
        host_and_port("address", address)


def test_a_display_is_a_file_or_an_address_and_files_have_the_viewers_suffix():
    # mutation: the file wins silently
    with pytest.raises(ValueError, match="at most one of them"):
        check_place("look.rrd", ".rrd", "127.0.0.1:9876")
    with pytest.raises(ValueError, match=r"expected a file \*.rrd, got 'look.mcap'"):
        check_place("look.mcap", ".rrd", "")
    with pytest.raises(ValueError, match="robots: expected at least 1, got 0"):
        check_place("look.rrd", ".rrd", "", robots=0)


def test_every_round_has_a_file_of_its_own():
    # mutation: one file that every round overwrites
    @dataclass(frozen=True)
    class Config:
        to: str

    assert of_part(Config("out/look.rrd"), "round_0003").to == "out/look_round_0003.rrd"
    assert of_part(Config(""), "round_0003").to == ""
