"""Ranks by Hugging Face Accelerate: `accelerate launch` or torchrun starts the processes, here they find each other.

Gradients and losses travel where the tensors are (NCCL between GPUs), the few words about stopping and saving by gloo
on the CPU, so that no GPU is waited for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta

from torch import Tensor, distributed

from .ranks import ALONE, RankLost, Ranks
from .training import choose_device

PATIENCE = timedelta(minutes=30)  # for a process that neither answers nor ends: another may be building a cache


def launched() -> int:
    """How many processes a launcher has started for this command; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def joined(device: str = "auto") -> Iterator[Ranks]:
    """The processes that were launched together, each with a GPU of its own or all on CPUs; ALONE where it is one."""
    if launched() == 1:
        yield ALONE
        return
    try:
        from accelerate import PartialState
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{launched()} processes were started to train together and Accelerate is not installed; "
            "pip install robot_value[scale]"
        ) from error
    state = PartialState(cpu=choose_device(device).type == "cpu", timeout=PATIENCE)
    try:
        yield Processes(
            state.process_index, state.num_processes, distributed.new_group(timeout=PATIENCE, backend="gloo")
        )
    finally:
        with suppress(RuntimeError):  # one that has lost a member cannot be closed together
            state.destroy_process_group()


@dataclass(frozen=True)
class Processes:
    index: int
    number: int
    words: distributed.ProcessGroup = field(repr=False)  # for tensors on the CPU

    def mean(self, tensor: Tensor) -> Tensor:
        return self._all(tensor, distributed.ReduceOp.SUM).div_(self.number)

    def largest(self, tensor: Tensor) -> Tensor:
        return self._all(tensor, distributed.ReduceOp.MAX)

    def _all(self, tensor: Tensor, how: distributed.ReduceOp) -> Tensor:
        tensor = tensor.clone()
        try:
            distributed.all_reduce(tensor, how, self.words if tensor.device.type == "cpu" else None)
        except RuntimeError as error:
            raise RankLost(
                f"process {self.index} of {self.number}: expected the others to answer, got {_first_line(error)}; one "
                "has died, see its own message; the last checkpoint is whole, and the same command goes on from there"
            ) from error
        return tensor


def _first_line(error: RuntimeError) -> str:
    return str(error).strip().partition("\n")[0][:200]
