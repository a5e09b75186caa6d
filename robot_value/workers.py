"""Pools of processes of one thread each: models are trained and arms are played side by side, a core each.

Actors are such processes one by one, each an Executor: of this machine ("local") or of a Ray cluster ("ray").
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from typing import Any

from tqdm import tqdm

BACKENDS = ("local", "ray")
PATIENCE = 3  # times in a row that actors die and nothing came of it, before one gives up


def process_pool(workers: int) -> ProcessPoolExecutor:
    """Fresh interpreters that end with the process that asked for them, however it ends."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_begin)


def run_all(
    pool: Executor, calls: Mapping[Any, tuple[Callable[..., Any], tuple]], what: str, progress: bool = True
) -> dict[Any, Any]:
    """Every call's result by key. The first error cancels what has not begun, waits for the rest and is raised."""
    running = {pool.submit(function, *arguments): key for key, (function, arguments) in calls.items()}
    found = {}
    with tqdm(total=len(running), desc=what, disable=not progress) as bar:
        try:
            for future in as_completed(running):
                found[running[future]] = future.result()
                bar.update()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return {key: found[key] for key in calls}


@contextmanager
def hiring(backend: str, number: int) -> Iterator[Callable[[], Executor]]:
    """What makes an actor, `number` of which there is room for."""
    if backend not in BACKENDS:
        raise ValueError(f"backend: expected one of {', '.join(BACKENDS)}, got {backend!r}")
    if number < 1:
        raise ValueError(f"actors: expected at least 1, got {number}")
    if backend == "local":
        yield LocalActor
        return
    from .ray_actors import RayActor, cluster

    with cluster(number):
        yield RayActor


class LocalActor(Executor):
    """A process of this machine, begun at once. Ctrl-C is the affair of who hired it."""

    def __init__(self) -> None:
        self._pool = process_pool(1)
        self._number = self._pool.submit(_deaf)

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future:
        return self._pool.submit(function, *arguments)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """With `cancel_futures` the process ends now, whatever it is doing."""
        if cancel_futures:
            with suppress(BrokenExecutor):  # it has ended already
                number = self._number.result()
                for process in multiprocessing.active_children():
                    if process.pid == number:
                        process.kill()
        self._pool.shutdown(wait, cancel_futures=cancel_futures)


@contextmanager
def team(backend: str, number: int) -> Iterator[Executor]:
    """`number` processes or Ray actors as one Executor; at the end they are ended, whatever they are doing."""
    with hiring(backend, number) as hire:
        members = Team(hire, number)
        try:
            yield members
        finally:
            members.shutdown(cancel_futures=True)


class Team(Executor):
    """Actors as one Executor. Who dies is replaced, and its call made again: a call may be begun more than once.

    A call is given up after PATIENCE deaths in a row that nothing came of; `done` says of its arguments what has.
    """

    def __init__(
        self, hire: Callable[[], Executor], number: int, done: Callable[..., Any] = lambda *arguments: None
    ) -> None:
        self._hire, self._actors, self._done = hire, [hire() for _ in range(number)], done
        self._ending = False
        self._threads = ThreadPoolExecutor(number, "team")  # each waits for one actor
        self._free: SimpleQueue[int] = SimpleQueue()
        for k in range(number):
            self._free.put(k)

    def submit(self, function: Callable[..., Any], /, *arguments: Any) -> Future:
        return self._threads.submit(self._call, function, arguments)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """With `cancel_futures` the actors end now, whatever they are doing."""
        self._ending = cancel_futures
        if cancel_futures:
            self._dismiss()
        self._threads.shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            self._dismiss()

    def _call(self, function: Callable[..., Any], arguments: tuple) -> Any:
        k, fruitless = self._free.get(), 0
        try:
            while fruitless < PATIENCE:
                before = self._done(*arguments)
                try:
                    return self._actors[k].submit(function, *arguments).result()
                except BrokenExecutor as error:
                    self._replace(k, error)
                fruitless = fruitless + 1 if self._done(*arguments) == before else 0
        finally:
            self._free.put(k)
        raise ChildProcessError(
            f"{function.__name__}: expected an actor that finishes it, got {PATIENCE} deaths in a row; is there memory "
            "enough? What was recorded is kept, the same command goes on"
        )

    def _replace(self, k: int, died: BrokenExecutor) -> None:
        self._actors[k].shutdown(wait=False)
        if not self._ending:
            self._actors[k] = self._hire()
        if self._ending:  # since then, perhaps
            self._actors[k].shutdown(wait=False, cancel_futures=True)
            raise died

    def _dismiss(self) -> None:
        for actor in self._actors:
            actor.shutdown(wait=False, cancel_futures=True)


def _deaf() -> int:
    """To Ctrl-C from now on; the process's number."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return os.getpid()


def _begin() -> None:
    import torch

    torch.set_num_threads(1)
    end_with_parent()


def end_with_parent() -> None:
    """From now on this process ends when the one that asked for it does, however that ends."""
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)
