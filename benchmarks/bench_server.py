"""Is the policy server alive, and right, after thousands of hostile requests and after being killed?

    python benchmarks/bench_server.py            # 10,000 requests, 20 kills
    python benchmarks/bench_server.py --quick

A well-behaved client asks in between: every answer must be bit for bit the one of before. A canary file shows whether
anything that was sent was executed. Writes outputs/bench/server.json.
"""

from __future__ import annotations

import argparse
import json
import pickle
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from robot_value.normalize import Statistics
from robot_value.provenance import provenance
from robot_value.results import plain, write_atomic
from robot_value.serving.client import Remote
from robot_value.serving.frames import HEADER, MAGIC, framed
from robot_value.serving.observations import pack_observation
from robot_value.types import Observation, Spec
from robot_value.wire import WireError, pack, unpack

EVERY = 50  # hostile requests between two honest ones


class Canary:
    """Executed only by who unpickles it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


class Process:
    """The server as a user starts it."""

    def __init__(self, policy: Path, critic: Path, port: int) -> None:
        self.models, self.port = (policy, critic), port
        flags = [f"--policy={policy}", f"--critic={critic}", "--n=4", f"--port={port}", "--threads=1"]
        code = "import sys; from robot_value.cli import main; sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", code, "serve", *flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        if f":{port}" not in self.process.stdout.readline():
            raise RuntimeError(f"the server did not start: {' '.join(command)}")

    def memory(self) -> float:
        """Resident, MB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) / 1024

    def replaced(self) -> Process:
        """Killed, and started again."""
        self.end(signal.SIGKILL)
        return Process(*self.models, self.port)

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="200 requests, 2 kills")
    parser.add_argument("--requests", type=int, default=10_000, help="hostile ones")
    parser.add_argument("--kills", type=int, default=20, help="SIGKILLs of a server with a robot at work")
    parser.add_argument("--seed", type=int, default=0, help="of what is sent")
    parser.add_argument("--out", type=Path, default=Path("outputs/bench/server.json"), help="result file")
    options = parser.parse_args(argv)
    requests, kills = (200, 2) if options.quick else (options.requests, options.kills)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        models = save_models(Path(folder))
        found = {"hostile": hostile(models, requests, options.seed, Path(folder) / "canary")}
        found |= {"kills": killed(models, kills, options.seed)}
    report = {"format_version": 1, **provenance(started), "seed": options.seed, **found}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(options.out, json.dumps(plain(report), indent=1) + "\n")
    print(json.dumps(plain({key: report[key] for key in ("hostile", "kills")}), indent=1), options.out, sep="\n")
    return 0 if report["hostile"]["survived"] and report["kills"]["survived"] else 1


def save_models(folder: Path) -> tuple[Path, Path]:
    """A small flow policy and critic as training leaves them; what they say does not matter here."""
    import draccus

    from robot_value import checkpoint, components
    from robot_value.types import ActionPart

    part = ActionPart("arm", 0, 7, "joint", "rad", (-1.0,) * 7, (1.0,) * 7)
    names = tuple(f"q{i}" for i in range(14))
    spec = Spec((part,), names, ("rad",) * 14, 0.05, horizon=8, n_obs_steps=1)
    scale = {key: _standard(size) for key, size in (("state", 14), ("action", 7))}
    for kind, name, values in (("policies", "flow", {"width": 32, "depth": 1}), ("critics", "iql", {"members": 2})):
        config = components.load(kind, name).Config(**values)
        words = {"kind": kind, "name": name, "config": draccus.encode(config), "spec": spec, "statistics": scale}
        checkpoint.save(folder / kind, **words, tensors=config.build(spec, scale).state_dict(), step=1)
    return folder / "policies", folder / "critics"


def _standard(size: int) -> Statistics:
    one = np.ones(size, np.float32)
    return Statistics(mean=0 * one, std=one, low=-one, high=one, count=9)


def observation(spec: Spec, step: int) -> Observation:
    rng = np.random.default_rng(step)
    return Observation(
        state=rng.normal(size=(1, spec.n_obs_steps, spec.state_dim)).astype(np.float32),
        images={},
        task=("",),
        time=np.array([step * spec.dt]),
        step=np.array([step]),
        episode=np.array([0]),
        pending=np.zeros((1, 0, spec.action_dim), np.float32),
        committed=np.array([0]),
    )


# -- hostile requests --------------------------------------------------------------------------------------------------


def hostile(models: tuple[Path, Path], count: int, seed: int, canary: Path) -> dict[str, Any]:
    rng, port = np.random.default_rng(seed), free_port()
    server, answers, wrong = Process(*models, port), Counter(), 0
    try:
        client = Remote(port=port, budget=10.0)
        honest = pack_observation(observation(client.policy.spec, 0), {"op": "decide", "budget": 10.0}, {})
        expected, began = fresh_answer(port), server.memory()
        for i in range(count):
            kind = KINDS[int(rng.integers(len(KINDS)))]
            answers[send(port, kind(rng, honest, canary), greet=bool(rng.integers(2)))] += 1
            if (i + 1) % EVERY == 0 or i + 1 == count:
                wrong += fresh_answer(port) != expected
        memory, code = server.memory(), server.end()
    finally:
        server.process.kill()
    executed = canary.exists()
    return {
        "requests": count,
        "crashes": int(code != 0),
        "executions": int(executed),
        "wrong_honest_answers": wrong,
        "honest_answers": -(-count // EVERY),
        "answers": dict(answers),
        "memory_mb": [began, memory],
        "survived": code == 0 and not executed and not wrong,
    }


def fresh_answer(port: int) -> bytes:
    """Of a new client's first decision."""
    client = Remote(port=port, budget=10.0, patience=20.0)
    decision = client(observation(client.policy.spec, 0))
    client.close()
    return decision.chunk.tobytes() + decision.candidates.tobytes() + decision.value.tobytes()


def send(port: int, payload: bytes, greet: bool) -> str:
    """What came back: an error's kind, ok, decision, or nothing."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2.0) as connection:
            if greet:
                connection.sendall(framed(pack({"op": "hello", "protocol": 1}, {})))
                _receive(connection)
            connection.sendall(payload)
            connection.shutdown(socket.SHUT_WR)
            return _receive(connection)
    except OSError as error:
        return type(error).__name__


def _receive(connection: socket.socket) -> str:
    head = connection.recv(HEADER.size, socket.MSG_WAITALL)
    if len(head) < HEADER.size:
        return "closed"
    payload = connection.recv(HEADER.unpack(head)[1], socket.MSG_WAITALL)
    try:
        about, arrays = unpack(payload)
    except WireError:
        return "garbage"
    return about.get("error") or ("decision" if "chunk" in arrays else "ok")


def random_bytes(rng: np.random.Generator, honest: bytes, canary: Path) -> bytes:
    return rng.bytes(int(rng.integers(1, 2000)))


def random_payload(rng: np.random.Generator, honest: bytes, canary: Path) -> bytes:
    return framed(rng.bytes(int(rng.integers(0, 2000))))


def mutated(rng: np.random.Generator, honest: bytes, canary: Path) -> bytes:
    payload = bytearray(framed(honest))
    for _ in range(int(rng.integers(1, 8))):
        payload[int(rng.integers(len(payload)))] = int(rng.integers(256))
    return bytes(payload)


def truncated(rng: np.random.Generator, honest: bytes, canary: Path) -> bytes:
    return framed(honest)[: int(rng.integers(1, len(honest)))]


def oversize(rng: np.random.Generator, honest: bytes, canary: Path) -> bytes:
    return struct.pack("!4sI", MAGIC, int(rng.integers(1 << 26, 1 << 32))) + rng.bytes(100)


def pickled(rng: np.random.Generator, honest: bytes, canary: Path) -> bytes:
    evil = pickle.dumps(Canary(canary))
    return framed(
        evil if rng.integers(2) else pack({"op": "decide", "budget": 1.0}, {"x": np.frombuffer(evil, np.uint8)})
    )


def nested(rng: np.random.Generator, honest: bytes, canary: Path) -> bytes:
    text = b"[" * int(rng.integers(1, 50_000))
    return framed(struct.pack("<Q", len(text)) + text)


def absurd(rng: np.random.Generator, honest: bytes, canary: Path) -> bytes:
    """Understood, and refused for what it asks."""
    about, arrays = unpack(honest)
    name = list(arrays)[int(rng.integers(len(arrays)))]
    odd = [np.full_like(arrays[name], -1), np.zeros((3, 0), "f4"), np.zeros(arrays[name].shape, "i2")]
    arrays[name] = odd[int(rng.integers(len(odd)))]
    about["budget"] = [1.0, -1, 1e300, None, "x"][int(rng.integers(5))]
    return framed(pack(about, arrays))


def traversal(rng: np.random.Generator, honest: bytes, canary: Path) -> bytes:
    name = ["../../etc/passwd", "/etc/passwd", "a\0b", "x" * 5000, ""][int(rng.integers(5))]
    return framed(pack({"op": "load", "name": name}, {}))


KINDS = (random_bytes, random_payload, mutated, truncated, oversize, pickled, nested, absurd, traversal)


# -- kills -------------------------------------------------------------------------------------------------------------


def killed(models: tuple[Path, Path], count: int, seed: int) -> dict[str, Any]:
    """A robot asks step by step; the server is killed at a random moment and started again. The robot holds."""
    rng, port = np.random.default_rng(seed), free_port()
    server = Process(*models, port)
    client = Remote(port=port, budget=10.0, patience=120.0)
    reference = [client(observation(client.policy.spec, step)).chunk for step in range(8)]
    held, wrong, decisions = [], 0, 0
    try:
        for _ in range(count):
            before, restarted = client.held, []
            moment = float(rng.uniform(0, 0.1))
            murder = threading.Timer(moment, lambda: restarted.append(server.replaced()))  # noqa: B023
            murder.start()
            while murder.is_alive() or client.held == before:  # the robot works on
                step = decisions % len(reference)
                chunk = client(observation(client.policy.spec, step)).chunk
                wrong, decisions = wrong + (chunk.tobytes() != reference[step].tobytes()), decisions + 1
            server = restarted[0]
            held.append(client.held - before)
        code = server.end()
    finally:
        server.process.kill()
    return {
        "kills": count,
        "decisions": decisions,
        "wrong_decisions": wrong,  # a client that gives up raises: then there is no result at all
        "held_seconds": {"median": float(np.median(held)), "max": float(np.max(held))},
        "survived": code == 0 and wrong == 0,
    }


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
