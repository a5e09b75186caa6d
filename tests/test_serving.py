"""Decisions from another process are the same decisions; whatever else is sent harms nobody."""

import asyncio
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import draccus
import learning_fakes
import numpy as np
import pytest
import torch
from fakes import FixedPolicy, HomingCritic, HomingPolicy, PointMass, observation, point_spec

from robot_value import checkpoint, components
from robot_value.loop import run_episodes
from robot_value.serving.client import NoAnswer, Remote, ServerRefused
from robot_value.serving.frames import HEADER, MAGIC, framed
from robot_value.serving.observations import pack_observation, read_observation
from robot_value.serving.server import Limits, Server
from robot_value.steering.steerer import Steerer
from robot_value.steering.two_speeds import ThinkAhead
from robot_value.training import load_model, load_policy
from robot_value.types import NoFiniteChunk, SpecMismatch
from robot_value.wire import WireError, pack, unpack

ROOT = Path(__file__).resolve().parent.parent
DECIDED = ("chunk", "execute", "start_step", "index", "candidates", "value", "spread")


def steerer(n=6, seed=3):
    policy = HomingPolicy()
    selector = components.load("selectors", "coherent").Config().build()  # it remembers what was decided
    return Steerer(policy, HomingCritic(policy.spec), selector, n=n, seed=seed)


class Running:
    """A server in a thread of its own."""

    def __init__(self, make=steerer, host="127.0.0.1", port=0, **options):
        self.server, self.loop = Server(make, **options), asyncio.new_event_loop()
        self.address = self.loop.run_until_complete(self.server.start(host, port))
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def client(self, **options):
        return Remote(*self.address, **{"budget": 5.0, "patience": 5.0, **options})

    def raw(self):
        return socket.create_connection(self.address, timeout=5)

    def close(self):
        asyncio.run_coroutine_threadsafe(self.server.close(), self.loop).result(5)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)


@pytest.fixture
def serve():
    running = []

    def start(*arguments, **options):
        running.append(Running(*arguments, **options))
        return running[-1]

    yield start
    for each in running:
        each.close()


def same(a, b):
    assert a.reason == b.reason and a.seed == b.seed and a.versions == b.versions
    for name in DECIDED:
        assert getattr(a, name).tobytes() == getattr(b, name).tobytes(), name


def answer(connection):
    head = connection.recv(HEADER.size, socket.MSG_WAITALL)
    if not head:
        return None
    return unpack(connection.recv(HEADER.unpack(head)[1], socket.MSG_WAITALL))[0]


# -- the same decisions ------------------------------------------------------------------------------------------------


def test_a_remote_steerer_decides_bit_for_bit_as_one_at_home(serve):
    # mutation: drop `pending`, or the seed, from what is sent
    home, away = steerer(), serve().client()
    for step in range(4):
        seen = observation(home.policy.spec, 3, step, step=np.full(3, 2 * step), pending=np.full((3, 1, 2), 0.1, "f4"))
        same(home(seen), away(seen))


def test_it_takes_the_steerers_place_in_the_loop(serve):
    # mutation: never send reset: the coherent selector would remember the last episode
    there = serve()
    played = [run_episodes(PointMass(2), s, seeds=range(4)) for s in (steerer(), there.client())]
    assert played[0] == played[1] and there.server.decisions > 4


def test_it_thinks_ahead_like_any_steerer(serve):
    # mutation: forget `execute` in the greeting
    runs = []
    for each in (steerer(), serve().client()):
        thinker = ThinkAhead(each, lag=1, lockstep=True)
        runs.append(
            run_episodes(PointMass(1), thinker, components.load("followers", "splice").Config().build(), seeds=[5])
        )
        thinker.close()
    assert runs[0] == runs[1]


def test_rows_that_rest_are_said_to_rest(serve):
    # mutation: drop `active`
    spec = point_spec(horizon=4)
    bad = np.full((2, 1, 4, 2), 0.1, "f4")
    bad[1] = np.nan
    client = serve(lambda: Steerer(FixedPolicy(spec, torch.as_tensor(bad)))).client()
    seen = observation(spec, 2)
    assert client(seen, np.array([True, False])).reason[0] == "base"
    with pytest.raises(NoFiniteChunk, match="expected a finite chunk"):
        client(seen)


def test_two_clients_do_not_share_a_memory(serve):
    # mutation: one Steerer for all connections
    there, home = serve(), steerer()
    first, second = there.client(), there.client()
    spec = home.policy.spec
    seen = [observation(spec, 1, s, episode=np.array([7]), step=np.array([2 * s])) for s in range(3)]
    for each in seen:
        first(each)
    same(home(seen[0]), second(seen[0]))


@pytest.mark.parametrize("frames", [1, 3])
def test_a_goal_may_have_any_history_as_at_home(serve, frames):
    # mutation: check a goal against the Spec with its n_obs_steps
    home, away = steerer(), serve().client()
    spec = home.policy.spec
    goal = observation(spec.choose(n_obs_steps=frames), 3, seed=9)
    seen = observation(spec, 3, goal=goal)
    same(home(seen), away(seen))
    got = read_observation(*unpack(pack_observation(seen, {}, {})), spec)
    np.testing.assert_array_equal(got.goal.state, goal.state)


@pytest.mark.parametrize("shape", [(), (3,), (3, 0, 2), (3, 1, 3), (2, 1, 2)])
def test_a_goal_that_is_no_observation_is_refused(shape):
    # mutation: no shape of states without a history; frames may be none
    spec = steerer().policy.spec
    seen = observation(spec, 3, goal=observation(spec, 3))
    about, arrays = unpack(pack_observation(seen, {}, {}))
    with pytest.raises(WireError, match=r"goal\.state: expected"):
        read_observation(about, arrays | {"goal.state": np.zeros(shape, "f4")}, spec)


def test_another_robot_is_refused_by_field(serve):
    # mutation: check() does nothing
    spec = steerer().policy.spec
    with pytest.raises(SpecMismatch, match="dt"):
        serve().client().check(replace(spec, dt=spec.dt * 2))


# -- who may ask, and what ---------------------------------------------------------------------------------------------


def test_an_address_that_others_reach_needs_a_token():
    # mutation: drop the check in start
    with pytest.raises(ValueError, match="expected a token"):
        asyncio.run(Server(steerer).start("0.0.0.0"))


def test_a_wrong_token_is_refused_and_a_right_one_accepted(serve):
    # mutation: compare only the length
    there = serve(token="open sesame")
    assert there.client(token="open sesame").n == 6
    with pytest.raises(ServerRefused, match="token"):
        there.client(token="open sesamo")
    with pytest.raises(ServerRefused, match="token"):
        there.client()


@pytest.mark.parametrize("request_", [{"op": "decide", "budget": 1.0}, {"op": "load", "name": "x"}, {"op": "reset"}])
def test_strangers_get_nothing_and_few_tries(serve, request_):
    # mutation: serve decide without a steerer; STRANGERS = 10 ** 6
    with serve(token="t").raw() as connection:
        for _ in range(3):
            connection.sendall(framed(pack(request_, {})))
            assert answer(connection)["error"] == "refused"
        assert answer(connection) is None


def test_health_is_for_everybody(serve):
    # mutation: health behind the token
    with serve(token="t").raw() as connection:
        connection.sendall(framed(pack({"op": "health"}, {})))
        said = answer(connection)
    assert said["ok"] and said["protocol"] == 1 and "spec" not in said


def test_another_protocol_is_refused_with_what_to_do(serve):
    # mutation: ignore the number
    with serve().raw() as connection:
        connection.sendall(framed(pack({"op": "hello", "protocol": 2}, {})))
        assert "install one robot_value" in answer(connection)["message"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"state": np.zeros((3, 2, 5), "f4")}, "state"),
        ({"state": np.full((3, 2, 2), np.nan, "f4")}, "finite"),
        ({"step": np.zeros(3, "f8")}, "step"),
        ({"pending": np.zeros((3, 1, 3), "f4")}, "pending"),
        ({"episode": np.zeros(2, "i8")}, "episode"),
        ({"task": ["a"]}, "task|state|time"),
        ({"task": "abc"}, "task"),
        ({"budget": 1e9}, "budget"),
        ({"budget": True}, "budget"),
        ({"active": np.zeros(3, "i8")}, "active"),
        ({"op": "eval"}, "op"),
    ],
)
def test_a_request_that_is_not_understood_is_refused_and_the_next_one_served(serve, changes, said):
    # mutation: drop any check of read_observation or _decide
    spec = HomingPolicy().spec
    seen = observation(spec, 3)
    arrays = {name: getattr(seen, name) for name in ("state", "time", "step", "episode", "pending", "committed")}
    about = {"op": "decide", "budget": 5.0, "task": list(seen.task)}
    good = framed(pack(about, arrays))
    about |= {k: v for k, v in changes.items() if not isinstance(v, np.ndarray)}
    arrays |= {k: v for k, v in changes.items() if isinstance(v, np.ndarray)}
    with serve().raw() as connection:
        connection.sendall(framed(pack({"op": "hello", "protocol": 1}, {})))
        assert answer(connection)["ok"]
        connection.sendall(framed(pack(about, arrays)))
        refused = answer(connection)
        assert refused["error"] == "refused"
        assert re.search(said, refused["message"]), refused
        connection.sendall(good)
        head = connection.recv(HEADER.size, socket.MSG_WAITALL)
        about, arrays = unpack(connection.recv(HEADER.unpack(head)[1], socket.MSG_WAITALL))
        assert arrays["chunk"].shape[0] == 3


def test_more_robots_than_allowed_are_refused(serve):
    # mutation: drop the check
    client = serve(limits=Limits(robots=2)).client()
    with pytest.raises(ServerRefused, match="at most 2 robots"):
        client(observation(client.policy.spec, 3))


def test_an_internal_error_tells_the_client_nothing_about_the_server(serve):
    # mutation: send str(error)
    def make():
        made = steerer()
        made.critic.score = lambda *_: 1 / 0
        return made

    client = serve(make).client()
    with pytest.raises(ServerRefused, match="server's log") as caught:
        client(observation(client.policy.spec, 1))
    assert "division" not in str(caught.value) and "Traceback" not in str(caught.value)


# -- hostile bytes -----------------------------------------------------------------------------------------------------


def test_hostile_bytes_end_their_own_connection_only(serve):
    # mutation: let one connection's exception stop the loop
    there = serve(limits=Limits(receive=0.5, greeting=0.5, connections=64))
    rng = np.random.default_rng(0)
    evil = [
        rng.bytes(200),
        struct.pack("!4sI", MAGIC, 0xFFFFFFFF),
        struct.pack("!4sI", MAGIC, 100) + b"x",
        framed(b""),
        framed(b"\x80\x04c" + b"os\nsystem\n(S'touch /nowhere'\ntR."),
        framed(struct.pack("<Q", 1 << 60) + b"{}"),
        framed(struct.pack("<Q", 40000) + b"[" * 40000),
        framed(pack({"op": "hello", "protocol": 1}, {}) + b"trailing"),
    ]
    evil += [framed(rng.bytes(int(rng.integers(1, 300)))) for _ in range(50)]
    for payload in evil:
        with there.raw() as connection:
            connection.sendall(payload)
    client, home = there.client(), steerer()
    same(home(observation(home.policy.spec, 2)), client(observation(home.policy.spec, 2)))


def test_a_slow_sender_is_cut_off(serve):
    # mutation: a timeout per byte instead of per request
    with serve(limits=Limits(receive=0.4)).raw() as connection:
        began = time.monotonic()
        with pytest.raises(OSError):
            for byte in framed(pack({"op": "health"}, {})):
                connection.sendall(bytes([byte]))
                time.sleep(0.05)
            if not connection.recv(1):
                raise ConnectionError
        assert time.monotonic() - began < 4


def test_too_many_connections_are_told_so(serve):
    # mutation: count but never refuse
    there = serve(limits=Limits(connections=2))
    kept = [there.client(), there.client()]
    with there.raw() as connection:
        assert answer(connection)["error"] == "busy"
    kept[0].close()
    time.sleep(0.1)
    assert there.client().n == 6


# -- time --------------------------------------------------------------------------------------------------------------


def slow(seconds):
    def make():
        made = steerer()
        score = made.critic.score
        made.critic.score = lambda *a: (time.sleep(seconds), score(*a))[1]
        return made

    return make


def test_a_request_whose_sender_has_given_up_is_not_computed(serve):
    # mutation: drop the deadline in compute
    there = serve(slow(0.5))
    clients = [there.client(budget=0.7, patience=0.0) for _ in range(3)]
    outcomes = []

    def ask(client):
        try:
            client(observation(client.policy.spec, 1))
            outcomes.append("decided")
        except NoAnswer:
            outcomes.append("late")

    threads = [threading.Thread(target=ask, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["decided", "late", "late"]
    time.sleep(1.2)
    assert there.server.decisions <= 2  # the third would have begun after its sender's 0.7 s


def test_a_late_answer_is_never_taken_for_the_next_one(serve):
    # mutation: keep the connection after a timeout
    there = serve(slow(0.4))
    client, home = there.client(budget=0.2, patience=0.0), steerer()
    first, second = (observation(home.policy.spec, 1, s) for s in (0, 1))
    with pytest.raises(NoAnswer):
        client(first)
    client.budget, client.patience = 5.0, 5.0
    same(home(second), client(second))


def test_two_threads_share_a_connection(serve):
    # mutation: no turns: one thread reads the other's answer
    client, outcomes = serve(slow(0.05)).client(patience=0.5), []
    seen = observation(client.policy.spec, 1)

    def decide():
        for _ in range(5):
            outcomes.append(type(client(seen)).__name__)

    thread = threading.Thread(target=decide)
    thread.start()
    while thread.is_alive():
        client.reset([0])  # as ThinkAhead does for an episode that begins while another robot's decision is made
    thread.join()
    assert outcomes == ["Decision"] * 5 and client.retries == 0


# mutation: leave the socket open where an exchange is interrupted -> the next decision is the last one's.
def test_an_answer_that_nobody_waited_for_is_never_taken_for_the_next_one(serve, monkeypatch):
    client, home = serve().client(), steerer()
    read = client._read

    def interrupted(*arguments):
        monkeypatch.setattr(client, "_read", read)
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "_read", interrupted)
    first, second = (observation(home.policy.spec, 1, s) for s in (0, 1))
    with pytest.raises(KeyboardInterrupt):
        client(first)
    same(home(second), client(second))


def test_without_a_server_the_client_says_so_within_its_patience():
    # mutation: retry for ever
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.monotonic()
    with pytest.raises(NoAnswer, match="no answer within"):
        Remote(port=port, budget=0.2, patience=0.5)
    assert time.monotonic() - began < 3


def test_a_server_that_came_back_with_another_policy_is_refused_each_time(serve):
    # mutation: keep the connection over which it has greeted
    there = serve()
    client, other = there.client(), Steerer(HomingPolicy(point_spec(horizon=6)))
    seen = observation(client.policy.spec, 1)
    client.close()
    there.server.make = lambda: other
    for _ in range(2):
        with pytest.raises(SpecMismatch, match="the server that came back does not match: horizon"):
            client(seen)
    there.server.make = steerer
    same(steerer()(seen), client(seen))


# -- the command -------------------------------------------------------------------------------------------------------


def save_pair(folder, seed=0):
    """A tiny flow policy and a tiny critic of that seed, as training would leave them."""
    spec = learning_fakes.spec()
    told = {"spec": spec, "statistics": learning_fakes.statistics(spec), "step": 1}
    configs = {
        "policy": ("policies", "flow", {"width": 8, "depth": 1}),
        "critic": ("critics", "iql", {"members": 1, "seed": seed}),
    }
    for folder_name, (kind, name, config) in configs.items():
        made = components.load(kind, name).Config(**config)
        tensors = made.build(spec, told["statistics"]).state_dict()
        words = {"kind": kind, "name": name, "config": draccus.encode(made)}
        checkpoint.save(folder / folder_name, **told, **words, tensors=tensors)


def launched(folder, port):
    code = "import sys; from robot_value.cli import main; sys.exit(main(sys.argv[1:]))"
    flags = [f"--policy={folder / 'policy'}", f"--critic={folder / 'critic'}", "--n=4", f"--port={port}", "--threads=1"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, "serve", *flags], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert f":{port}" in process.stdout.readline()
    return process


@pytest.mark.timeout(120)
def test_a_server_that_is_killed_and_comes_back_is_waited_for(tmp_path):
    # mutation: raise on the first lost connection
    save_pair(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = launched(tmp_path, port)
    try:
        client = Remote(port=port, budget=10.0, patience=60.0)
        seen = observation(client.policy.spec, 1)
        before = client(seen)
        process.send_signal(signal.SIGKILL)
        process.wait()
        again = threading.Timer(1.0, lambda: restarted.append(launched(tmp_path, port)))
        restarted = []
        again.start()
        same(before, client(seen))
        again.join()
        process = restarted[0]
        assert client.held > 1.0 and client.retries
    finally:
        process.send_signal(signal.SIGTERM)
        out = process.communicate(timeout=20)[0]
    assert process.returncode == 0 and "1 decisions" in out


# -- loaded critics ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def versions(tmp_path_factory):
    """a, b and c: a policy, the same in all, and a critic of its own in each."""
    folder = tmp_path_factory.mktemp("versions")
    for seed, name in enumerate("abc"):
        save_pair(folder / name, seed)
    return folder


@pytest.fixture
def judged(versions):
    policy, critic = load_policy(versions / "a" / "policy"), load_model(versions / "a" / "critic")
    return lambda: Steerer(policy, critic, n=4)


def judge(client):
    """Which critic decides."""
    return client(observation(client.policy.spec, 1)).versions["critic"]


def test_a_loaded_critic_decides_from_the_next_reset_on_as_at_home(serve, versions, judged):
    # mutation: answer without loading; let it enter at once
    home, away = judged(), serve(judged, versions=versions).client()
    seen = observation(home.policy.spec, 2)
    before = away(seen)
    home.load(versions / "b" / "critic")
    away.load("b/critic")
    same(before, away(seen))
    for each in (home, away):
        each.reset()
    same(home(seen), away(seen))
    assert (before.value != away(seen).value).all()


def test_a_new_connection_has_the_critics_that_the_old_one_had(serve, versions, judged):
    # mutation: forget what has entered, or what has not yet; let that enter with the connection
    client = serve(judged, versions=versions).client()
    first = judge(client)
    client.load("b/critic")
    client.close()
    assert judge(client) == first
    client.reset()
    client.close()
    second = judge(client)
    client.load("c/critic")
    client.close()
    assert judge(client) == second
    client.close()
    client.reset()
    third = judge(client)
    client.close()
    assert judge(client) == third and len({first, second, third}) == 3


def test_a_critic_that_a_new_server_lacks_is_refused_each_time(serve, versions, judged, tmp_path):
    # mutation: decide with the server's own critic
    there = serve(judged, versions=versions)
    client = there.client()
    client.load("b/critic")
    client.reset()
    client.close()
    there.server.versions = tmp_path
    for _ in range(2):
        with pytest.raises(ServerRefused, match="expected a critic's checkpoint, got 'b/critic'"):
            judge(client)


def test_a_critic_may_take_longer_to_load_than_a_decision(serve, versions, judged):
    # mutation: give it the budget of a decision
    def make():
        made = judged()
        load = made.load
        made.load = lambda path: (time.sleep(0.6), load(path))
        return made

    client = serve(make, versions=versions).client()
    before, client.budget = judge(client), 0.3
    client.load("b/critic")
    assert client.retries == 0
    client.budget = 5.0
    client.reset()
    assert judge(client) != before


def test_a_critic_that_nobody_waits_for_is_not_loaded(serve, versions, judged):
    # mutation: drop the deadline before a load
    loads = []

    def make():
        made = judged()
        made.load = loads.append
        return made

    there = serve(make, versions=versions)
    client = there.client()
    client.budget = client.patience = 0.2
    there.server._worker.submit(time.sleep, 0.6)  # busy
    with pytest.raises(NoAnswer):
        client.load("b/critic")
    there.server._worker.submit(int).result(5)  # what came before is over
    assert loads == []
