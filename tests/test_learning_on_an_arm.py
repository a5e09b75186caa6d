"""Learning on an arm end to end: simulated arm, guard, steering, recorder and learner, each a process, in lock-step."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from robot_value import checkpoint
from robot_value.commands import _train_online
from robot_value.episodes.store import EpisodeStore
from robot_value.online.publication import newest
from robot_value.types import HUMAN

ROOT = Path(__file__).resolve().parents[1]
STEPS, EPISODES, TAKEN_OVER = 24, 4, 1  # control steps of an episode, how many, the one in which a human helps
PATIENCE = 120.0  # s


@pytest.fixture(scope="module")
def bench():
    pytest.importorskip("rclpy")
    sys.path.append(str(ROOT / "benchmarks"))
    import bench_one_loop

    return bench_one_loop


def site_of(bench, work):
    """Untrained models of the seven-joint arm without a camera, and what its topics mean."""
    from robot_value import components
    from robot_value.critics import sarsa
    from robot_value.deploy import topics_writer
    from robot_value.policies import flow
    from robot_value.topics import load

    config = components.load("robots", "first_order").Config(max_steps=STEPS)
    topics = work / "topics.yaml"
    topics.write_text(topics_writer.text(topics_writer.arm_topics(config.simulator().spec)))
    spec = load(topics).spec.choose(horizon=8, n_obs_steps=2)
    policy = bench.save(work, "policies", "flow", flow.Config(width=16, depth=1, sample_steps=2), spec)
    critic = bench.save(work, "critics", "sarsa", sarsa.Config(scope=4, hidden=(16,), members=2), spec)
    return bench.Site(work, topics, policy, critic, STEPS)


def learning(site, run):
    """Flags of `robot-value train online`: a round is an episode."""
    told = {"policy": site.policy, "critic": site.critic, "robot.type": "first_order"}
    told |= {"follow.store": site.work / "episodes", "follow.poll": 0.1, "schedule.folder": run}
    told |= {"schedule.episodes": EPISODES, "schedule.batch_size": 16, "schedule.interventions": "rlif"}
    told |= {
        "schedule.per_round": 1,
        "schedule.device": "cpu",
        "schedule.progress": "false",
        "schedule.tensorboard": "false",
    }
    return [f"--{name}={value}" for name, value in told.items()]


class Learner:
    """The learner's process, which may be killed and begun again."""

    def __init__(self, site, run):
        self.command = [sys.executable, "-m", "robot_value.cli", "train", "online", *learning(site, run)]
        self.run, self.log = run, site.work / "learner.log"
        self.begin()

    def begin(self):
        variables = os.environ | {"OMP_NUM_THREADS": "1"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, cwd=ROOT, env=variables, stdout=log, stderr=log)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def wait_for(self, version):
        wait(lambda: (found := newest(self.run)) is not None and found.number >= version, f"version {version}", self)


def wait(true, what, learner):
    end = time.monotonic() + PATIENCE
    while not true():
        assert learner.process.poll() in (None, 0, -signal.SIGKILL), learner.log.read_text()[-2000:]
        assert time.monotonic() < end, f"{what}: {learner.log.read_text()[-2000:]}"
        time.sleep(0.02)


def test_the_arm_gets_newer_versions_between_episodes_and_a_killed_learner_loses_none(bench, tmp_path, request):
    # mutation: reload within an episode; begin versions anew after a kill; learn from an episode twice
    site, run = site_of(bench, tmp_path), tmp_path / "run"
    learner = Learner(site, run)
    request.addfinalizer(learner.kill)  # it would wait for ever for an arm that is gone
    learner.wait_for(0)
    lockstep = {"topics": str(site.topics), "lockstep": True}
    models = {"policy": str(site.policy), "critic": str(site.critic), "online": str(run)}
    with bench.Graph(tmp_path) as graph:
        settings = json.dumps({"max_steps": STEPS + 1})
        graph.start("simulated_arm_node", {**lockstep, "model": "first_order", "settings": settings})
        graph.start("guard_node", {**lockstep, **bench.UNLIMITED, "enabled": True, "real": False})
        steering = graph.start("steering_node", {**lockstep, **models, "n": 4, "max_steps": STEPS})
        graph.start("recorder_node", {**lockstep, "store": str(tmp_path / "episodes")})
        for process in graph.processes:
            graph.wait_state(process, timeout=PATIENCE)
        hand = bench.Hand(graph, site)
        for number in range(EPISODES):
            hand.play(graph, number, human=number == TAKEN_OVER)
            if number == 1:  # the next episode is played while nobody learns
                learner.kill()
                continue
            if number == 2:
                learner.begin()
            if number + 1 < EPISODES:
                learner.wait_for(number + 1)
                wait(lambda v=number + 1: f"'online': '{v}'" in steering.said, f"reload of {number + 1}", learner)
        wait(lambda: learner.process.poll() == 0, "the learner's end", learner)
        assert "Traceback" not in steering.said
    check(site, run)
    assert _train_online.run(learning(site, tmp_path / "later")) == 0  # nobody was killed, and all was there
    assert weights(tmp_path / "later") == weights(run)


def check(site, run):
    store, told = EpisodeStore.open(site.work / "episodes"), json.loads((run / "progress.json").read_text())["rounds"]
    assert store.verify() == [] and [each["names"] for each in told] == [[name] for name in store.names()]
    assert len(told) == EPISODES and [each["steps"] for each in told] == [[STEPS]] * EPISODES
    episodes = [store.read(name) for name in store.names()]
    acted = [{int(decision.versions["online"]) for decision in each.decisions} for each in episodes]
    versions = [each.pop() for each in acted]
    assert not any(acted), "one version per episode"
    assert versions[:2] == [0, 1] and versions[2] in (1, 2) and versions[3] == 3
    critics = [each.decisions[0].versions["critic"] for each in episodes]
    assert critics[0] == critics[1] != critics[3]  # version 1 was made before anything was there to learn from
    human = [int((each.source == HUMAN).sum()) if each.source is not None else 0 for each in episodes]
    assert human[TAKEN_OVER] > 0 and [each["human_steps"] for each in told] == [[n] for n in human]
    assert newest(run).number == EPISODES and np.isfinite(episodes[-1].actions).all()


def weights(run):
    return (checkpoint.newest(run) / "model.safetensors").read_bytes()
