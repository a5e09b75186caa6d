"""Processes that train one model together: each has its share of every batch, and all make the same update.

    mean over ranks of (sum_own v w / mean over ranks of sum_own w) = sum v w / sum w

so a loss that divides by `shared(w.sum())` has the whole batch's gradient once the ranks' gradients are averaged.
Random numbers are drawn for the whole batch by everybody, and each rank keeps those of its rows: generators stay alike
on all ranks, and as they would in one process. What compares the rows of a batch with each other sees its own only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn


class RankLost(ConnectionError):
    """Another process of this training has died or is stuck; nothing can be agreed on any more."""


class Ranks(Protocol):
    index: int  # of this process, 0 to number - 1; 0 writes files and talks
    number: int

    def mean(self, tensor: Tensor) -> Tensor:
        """Over all ranks, the same bits on each. Waits for the others; raises RankLost."""
        ...

    def largest(self, tensor: Tensor) -> Tensor:
        """Over all ranks, number by number. Waits for the others; raises RankLost."""
        ...


@dataclass(frozen=True)
class Alone:
    index: int = 0
    number: int = 1

    def mean(self, tensor: Tensor) -> Tensor:
        return tensor

    def largest(self, tensor: Tensor) -> Tensor:
        return tensor


ALONE = Alone()
_here: ContextVar[Ranks] = ContextVar("ranks", default=ALONE)


def here() -> Ranks:
    """The ranks that this process is one of; ALONE unless `among` says otherwise."""
    return _here.get()


@contextmanager
def among(ranks: Ranks) -> Iterator[None]:
    token = _here.set(ranks)
    try:
        yield
    finally:
        _here.reset(token)


def shared(total: Tensor) -> Tensor:
    """What a rank's rows sum up to, on average over the ranks: what to divide by where rows are weighed."""
    ranks = here()
    return total if ranks.number == 1 else ranks.mean(total.detach())


def own(whole: Tensor, dim: int = 0) -> Tensor:
    """This rank's part of what was made for all rows of the batch, which lie along `dim`."""
    ranks = here()
    return whole if ranks.number == 1 else whole.chunk(ranks.number, dim)[ranks.index]


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Between backward and clipping: every rank's gradients become their mean, in one exchange."""
    ranks = here()
    if ranks.number == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    mean = ranks.mean(torch.cat([gradient.flatten() for gradient in gradients]))
    parts = mean.split([gradient.numel() for gradient in gradients])
    torch._foreach_copy_(gradients, [part.view_as(g) for part, g in zip(parts, gradients, strict=True)])


def most(number: int) -> int:
    """The largest of the ranks' numbers; whoever asks has waited for all."""
    return number if here().number == 1 else int(here().largest(torch.tensor(number)))


def differ(numbers: Tensor) -> bool:
    """Whether the ranks' own versions of these numbers are not the same."""
    if here().number == 1:
        return False
    highest, lowest = here().largest(torch.stack([numbers, -numbers]).nan_to_num())
    return not torch.equal(highest, -lowest)
