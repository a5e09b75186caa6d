"""What would hurt training is found where it was put, and a clean store is left alone."""

from dataclasses import replace

import numpy as np
import pytest
from recorded import make_spec

from robot_value.episodes import EpisodeStore
from robot_value.episodes.findings import frames, judge, measure
from robot_value.episodes.inspect import inspect_command
from robot_value.types import Episode

SPEC = make_spec(state_dim=4, cameras=("front",))
STEPS = 40


def smooth(seed: int, success: bool = True, spec=SPEC, **changes) -> Episode:
    """A clean episode: every state swings at its own speed, frames change, actions stay inside."""
    rng = np.random.default_rng(seed)
    time = np.arange(STEPS + 1)[:, None] / 10 + rng.uniform(0, 9)
    states = np.sin(time * np.linspace(0.5, 1.5, spec.state_dim)).astype(np.float32)
    fields = {
        "spec": spec,
        "states": states,
        "images": {c.name: rng.integers(9, 256, (STEPS + 1, c.height, c.width, 3), np.uint8) for c in spec.cameras},
        "actions": rng.uniform((-0.9, -0.9, 0.1), (0.9, 0.9, 0.9), (STEPS, 3)).astype(np.float32),
        "rewards": np.eye(1, STEPS, STEPS - 1, dtype=np.float32)[0] * success,
        "terminated": success,
        "truncated": not success,
        "success": success,
        "task": "lift",
    }
    return Episode(**(fields | changes))


def clean() -> list[Episode]:
    return [smooth(seed, success=seed % 3 > 0) for seed in range(6)]


def found(episodes: list[Episode], spec=SPEC) -> list[str]:
    named = [(f"e{i}", episode) for i, episode in enumerate(episodes)]
    seen = [frame for name, episode in named for frame in frames(name, episode)]
    return [str(finding) for finding in judge(spec, [measure(*each) for each in named], seen)]


def changed(at: int, **changes) -> list[Episode]:
    episodes = clean()
    return [replace(e, **changes) if i == at else e for i, e in enumerate(episodes)]


def test_nothing_is_said_about_a_clean_store():
    assert found(clean()) == []


def test_an_empty_store_says_so():
    assert "empty" in str(judge(SPEC, [])[0])


@pytest.mark.parametrize(
    ("success", "said"),
    [(None, "success is unknown in every"), (True, "every episode succeeded"), (False, "no episode succeeded")],
)
def test_outcomes_that_teach_a_critic_nothing(success, said):
    lines = found([replace(episode, success=success) for episode in clean()])
    assert len(lines) == 1 and lines[0].startswith(said)


def test_unrewarded_unstable_and_unfinished_episodes():
    assert "all rewards are zero" in found([replace(e, rewards=np.zeros(STEPS, np.float32)) for e in clean()])[0]
    assert "warned (e3)" in found(changed(3, provenance={"unstable": True}))[0]
    cut = clean()[0]  # a failure: not terminated
    cut = replace(cut, states=cut.states[:-1], images={"front": cut.images["front"][:-1]})
    assert "without a last frame (e0)" in found([cut, *clean()[1:]])[0]  # mutation: terminated ones are listed too


def test_copies_are_found_by_their_content():
    # mutation: the name is part of the content
    assert "1 episode with the content of another (e6)" in found([*clean(), clean()[2]])[0]


def test_short_episodes():
    short = smooth(9)
    short = replace(
        short, states=short.states[:5], actions=short.actions[:4], rewards=np.ones(4, np.float32),
        images={"front": short.images["front"][:5]},
    )  # fmt: skip
    assert "1 episode with fewer than 8 steps (e6)" in found([*clean(), short])[0]


def test_actions_outside_at_and_never_leaving_a_value():
    actions = clean()[1].actions.copy()
    actions[3, 1] = 1.5
    assert "action arm[1] is outside its limits in 0.4 % of steps (e1)" in found(changed(1, actions=actions))[0]
    pushed = [replace(e, actions=np.where(np.arange(STEPS)[:, None] % 2, e.actions, 1)) for e in clean()]
    lines = found([replace(e, actions=e.actions.astype(np.float32)) for e in pushed])
    what = "actions are often at a limit (arm[0] in 50 %, arm[1] in 50 % of steps)"
    assert [line.split(":")[0] for line in lines] == [what]  # mutation: a warning per dimension
    stuck = [
        replace(e, actions=np.concatenate([np.ones((STEPS, 1), np.float32), e.actions[:, 1:]], 1)) for e in clean()
    ]
    assert ["arm[0] never changes (1)" in line for line in found(stuck)] == [True]
    closed = [
        replace(e, actions=np.concatenate([e.actions[:, :2], np.ones((STEPS, 1), np.float32)], 1)) for e in clean()
    ]
    assert ["gripper never changes" in line for line in found(closed)] == [True]  # a gripper lives at its limits


def test_pauses():
    episode = clean()[1]
    states, actions = episode.states.copy(), episode.actions.copy()
    states[5:], actions[5:] = states[5], actions[5]
    still = replace(episode, states=states, actions=actions)
    lines = found([replace(still, task=str(i)) for i in range(3)])
    assert any(line.startswith("nothing moves in 85 % of steps") for line in lines)


def test_a_frame_that_leaves_its_neighbours_and_frames_that_are_missing():
    episode = clean()[4]
    spiked = episode.states.copy()
    spiked[20, 2] += 1.5
    assert "1 episode with spikes in state s2 (e4)" in found(changed(4, states=spiked))[0]
    time = np.arange(STEPS + 1)[:, None] / 10
    time[20:] += 1.5  # 15 frames were lost
    slow = np.concatenate([0.3 * time * np.linspace(0.5, 1.5, 4)]).astype(np.float32)
    assert "frames seem to be missing inside 1 episode (e4)" in found(changed(4, states=slow))[0]


def test_a_dead_sensor():
    dead = [
        replace(e, states=np.concatenate([e.states[:, :3], np.zeros((STEPS + 1, 1), np.float32)], 1)) for e in clean()
    ]
    assert [line.split(":")[0] for line in found(dead)] == ["state s3 never changes"]


def test_cameras_that_freeze_are_slow_or_black():
    images = clean()[2].images["front"].copy()
    images[10:20] = images[10]
    assert "camera front freezes in 1 of 6 episodes looked at (e2)" in found(changed(2, images={"front": images}))[0]
    images = clean()[2].images["front"].copy()
    images[10:19] = images[10]  # mutation: a run of n equal pairs counted as n + 2 frames
    assert found(changed(2, images={"front": images})) == []
    halved = [replace(e, images={"front": np.repeat(e.images["front"][::2], 2, 0)[: STEPS + 1]}) for e in clean()]
    assert "camera front: 50 % of frames repeat" in found(halved)[0]
    black = {"front": clean()[2].images["front"] // 128}
    assert "camera front is black in 1 episode (e2)" in found(changed(2, images=black))[0]


def test_missing_and_rare_task_texts():
    spec = make_spec(state_dim=4, cameras=("front",), language=True)
    told = [replace(e, spec=spec) for e in clean()]
    assert "1 episode without a task text (e5)" in found([*told[:5], replace(told[5], task="")], spec)[0]
    many = [smooth(seed, success=seed % 3 > 0, task="stack" if seed == 7 else "lift") for seed in range(30)]
    assert "task 'stack' has 1 of 30 episodes" in found(many)[0]


def test_the_command_and_the_page_say_it_and_look_at_images_only_when_asked(tmp_path, capsys):
    with EpisodeStore.create(tmp_path / "store", SPEC) as store:
        for episode in clean():
            store.append(replace(episode, images={"front": np.zeros_like(episode.images["front"])}))
    assert inspect_command(tmp_path / "store") == 0
    assert "WARNING" not in capsys.readouterr().out
    page = tmp_path / "page.html"
    assert inspect_command(tmp_path / "store", page, looked_at=3) == 0
    assert "WARNING camera front is black in 3 episodes" in capsys.readouterr().out
    assert "camera front is black" in page.read_text(encoding="utf-8") and "hurt training" in page.read_text()
