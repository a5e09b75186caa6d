"""Ray actors as Executors of one process each. Functions travel as pickles: Ray is for one cluster that you trust.

A cluster is joined where RAY_ADDRESS names one. Else one is begun that listens on this machine's loopback only and asks
for Ray's token, as Ray does by itself. Actors on other machines need the run's folder and the checkpoints under the
same absolute paths.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import contextmanager
from typing import Any

OWN = {  # Ray reads these when it is imported
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # one machine: loopback, as Ray does by itself on macOS
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anybody
}
OBJECTS = 100 << 20  # bytes of shared memory; rounds and what became of them are small, episodes go through the store


@contextmanager
def cluster(number: int) -> Iterator[None]:
    """`number` free CPUs of Ray, one per actor."""
    address = os.environ.get("RAY_ADDRESS")
    if address is None:
        os.environ.update(OWN)
    import ray

    quiet = {"include_dashboard": False, "object_store_memory": OBJECTS, "num_cpus": number}
    ray.init(address or "local", logging_level="warning", **({} if address else quiet))
    try:
        if address is None and not (host := ray.util.get_node_ip_address()).startswith("127."):
            raise RuntimeError(f"ray: expected to listen on loopback, got {host}; was ray imported before?")
        if (cpus := ray.cluster_resources().get("CPU", 0)) < number:
            raise ValueError(f"actors: expected at most the cluster's {cpus:g} CPUs, got {number}")
        yield
    finally:
        ray.shutdown()


class RayActor(Executor):
    """Its futures raise BrokenExecutor where the actor has died."""

    def __init__(self) -> None:
        import ray

        self._actor = ray.remote(num_cpus=1, max_restarts=0)(_Process).remote(sys.path)

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future:
        return _translated(self._actor.call.remote(function, *arguments).future())

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        import ray

        ray.kill(self._actor)


class _Process:
    """What runs in the actor: one thread, like the processes of this machine (workers.process_pool)."""

    def __init__(self, path: list[str]) -> None:
        import torch

        sys.path.extend(each for each in path if each not in sys.path)  # the robot may be a module of the user's
        torch.set_num_threads(1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)


def _translated(asked: Future) -> Future:
    """Ray's word for a death becomes that of concurrent.futures."""
    from ray.exceptions import RayActorError, RayTaskError

    answer: Future = Future()

    def tell(done: Future) -> None:
        error = done.exception()
        if error is None:
            answer.set_result(done.result())
        elif isinstance(error, RayActorError):
            answer.set_exception(BrokenExecutor(str(error)))
        else:
            answer.set_exception(error.cause if isinstance(error, RayTaskError) else error)

    asked.add_done_callback(tell)
    return answer
