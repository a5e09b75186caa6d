"""Ranks in threads of the test's process: what processes agree on by Accelerate, these tell each other."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import Queue
from typing import Any

import torch
from torch import Tensor

from robot_value.ranks import RankLost, among


class Meeting:
    def __init__(self, number: int) -> None:
        self.boxes: list[list[Queue]] = [[Queue() for _ in range(number)] for _ in range(number)]  # to, from

    def tell(self, index: int, what: Tensor | None) -> None:
        """None is the last that anybody hears of this rank."""
        for box in self.boxes:
            box[index].put(what)

    def exchange(self, index: int, tensor: Tensor) -> Tensor:
        """Everybody's tensor, [ranks, ...]."""
        self.tell(index, tensor.detach().clone())
        every = [box.get(timeout=60) for box in self.boxes[index]]
        if any(each is None for each in every):
            raise RankLost("another thread has gone")
        return torch.stack(every)


@dataclass(frozen=True)
class Rank:
    index: int
    number: int
    meeting: Meeting

    def mean(self, tensor: Tensor) -> Tensor:
        return self.meeting.exchange(self.index, tensor).mean(0)

    def largest(self, tensor: Tensor) -> Tensor:
        return self.meeting.exchange(self.index, tensor).amax(0)


def on_ranks(number: int, work: Callable[[int], Any]) -> list[Future]:
    """work(index) in a thread per rank. Who raises is gone, and the others learn of it."""
    meeting = Meeting(number)

    def one(index: int) -> Any:
        try:
            with among(Rank(index, number, meeting)):
                return work(index)
        except BaseException:
            meeting.tell(index, None)
            raise

    with ThreadPoolExecutor(number) as threads:
        return [threads.submit(one, index) for index in range(number)]
