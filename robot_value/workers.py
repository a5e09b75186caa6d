"""A pool of processes of one thread each: models are trained and arms are played side by side, a core each."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

from tqdm import tqdm


def process_pool(workers: int) -> ProcessPoolExecutor:
    """Fresh interpreters that end with the process that asked for them, however it ends."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_begin)


def run_all(
    pool: ProcessPoolExecutor, calls: Mapping[Any, tuple[Callable[..., Any], tuple]], what: str, progress: bool = True
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


def _begin() -> None:
    import torch

    torch.set_num_threads(1)
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)
