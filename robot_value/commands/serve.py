"""`robot-value serve`: policy and critic on this machine, robots elsewhere (robot_value.serving.client.Remote)."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import flags
from ..arms import MAIN
from ._arm import PARTS, asked_arm


@dataclass(frozen=True)
class Serve:
    """Answer decisions over the network: framed safetensors, no pickle, a token wherever others can reach it."""

    policy: str = ""  # checkpoint of the policy (its folder, or the run's)
    critic: str = ""  # checkpoint of the critic; empty: the plain policy is served
    selector: Any = None  # how the critic's scores become one chunk; softmax_average unless chosen
    proposer: Any = None  # where candidates come from; samples of the policy unless chosen
    guide: Any = None  # what steps into the sampler
    gate: Any = None  # whether the selection is used at all
    n: int = 16  # N, candidates per decision, where there is a critic
    execute: int = 0  # steps of a chunk until the next decision; 0: the critic's scope, else the horizon
    seed: int = 0  # key of the candidates' noise
    device: str = "cpu"  # cpu, cuda, cuda:1, ...
    threads: int = 0  # of torch; 0: its own choice
    host: str = "127.0.0.1"  # address to listen on; any but loopback needs a token
    port: int = 5055  # 0: a free one, which is printed
    token_file: str = ""  # file with what clients must know; read once
    versions: str = ""  # folder below which clients may name other critics to load; empty: they may not
    connections: int = 8  # clients at once


def run(argv: Sequence[str]) -> int:
    parsed = flags.parse(Serve, argv, PARTS, "robot-value serve")
    config = parsed.values
    if not config.policy:
        raise flags.FlagError("--policy: expected the folder of a checkpoint, got nothing")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    asyncio.run(_serve(config, _maker(parsed)))
    return 0


async def _serve(config: Serve, make: Callable[[], Any]) -> None:
    from ..serving.server import Limits, Server

    token = Path(config.token_file).read_text().strip() if config.token_file else ""
    versions = Path(config.versions) if config.versions else None
    server = Server(make, token, versions, Limits(connections=config.connections))
    host, port = await server.start(config.host, config.port)
    print(f"serving {config.policy} on {host}:{port}", flush=True)
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await ended.wait()
    await server.close()
    print(f"{server.decisions} decisions, {server.refused} requests refused")


def _maker(parsed: flags.Parsed) -> Callable[[], Any]:
    """Networks are read once; every connection gets parts with a memory of their own."""
    import torch

    from ..evaluate import Arm, executed_steps
    from ..training import load_model, load_policy

    config = parsed.values
    if config.threads:
        torch.set_num_threads(config.threads)
    policy = load_policy(config.policy, config.device)
    critics = {MAIN: load_model(config.critic, config.device)} if config.critic else {}
    arm = asked_arm(parsed, "served") if critics else Arm("served")
    execute = executed_steps(config.execute or None, policy, critics)

    def make() -> Any:
        return arm.steerer(policy, critics, execute, config.seed, config.device)

    make()  # what does not fit together is said now
    return make
