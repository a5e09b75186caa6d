"""Mixed batches: the shares asked for, no row lost or repeated, the same rows after a resume."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_fakes import TASKS, random_batch, spec

from robot_value.mixing import MixedSampler, apportion, concatenate, take


class Counting:
    """A sampler whose rows are numbered on from `first`."""

    def __init__(self, first: int, batch_size: int = 8) -> None:
        self.first, self.batch_size, self.position = first, batch_size, 0

    def __len__(self) -> int:
        return 100

    def sample(self):
        index = self.first + self.position * self.batch_size + torch.arange(self.batch_size)
        self.position += 1
        return replace(random_batch(spec(), self.batch_size, seed=self.position), index=index)

    def state(self):
        return {"position": self.position}

    def load_state(self, state):
        self.position = state["position"]


def half_and_half(online_batch: int = 8) -> MixedSampler:
    return MixedSampler([(Counting(0), 0.5), (Counting(1000, online_batch), 0.5)])


def indices(sampler: MixedSampler, batches: int) -> list[list[int]]:
    return [sampler.sample().index.tolist() for _ in range(batches)]


def test_symmetric_sampling_takes_half_of_every_batch_from_each_source():
    # mutation: rows of all sources from the first sampler
    first, second = indices(half_and_half(), 2)
    assert first == [0, 1, 2, 3, 1000, 1001, 1002, 1003]
    assert second == [4, 5, 6, 7, 1004, 1005, 1006, 1007]


@pytest.mark.parametrize("online_batch", [1, 3, 8, 20])
def test_sources_with_other_batch_sizes_are_read_row_by_row_without_loss(online_batch):
    # mutation: drop what is left of a source's batch
    rows = [row for batch in indices(half_and_half(online_batch), 10) for row in batch if row >= 1000]
    assert rows == list(range(1000, 1040))


@settings(max_examples=50, deadline=None)
@given(total=st.integers(1, 300), parts=st.lists(st.floats(0.01, 1), min_size=1, max_size=5))
def test_shares_become_whole_rows_that_sum_to_the_batch(total, parts):
    shares = [part / sum(parts) for part in parts]
    rows = apportion(total, shares)
    assert sum(rows) == total
    assert all(abs(n - total * share) < 1 for n, share in zip(rows, shares, strict=True))


@pytest.mark.parametrize("before", [0, 1, 3])
@pytest.mark.parametrize("online_batch", [3, 8])
def test_a_loaded_state_gives_the_batches_that_would_have_come(before, online_batch):
    # mutation: save where the sources stand instead of where they stood before the batch at hand
    sampler = half_and_half(online_batch)
    indices(sampler, before)
    state, expected = sampler.state(), indices(sampler, 3)
    other = half_and_half(online_batch)
    indices(other, 5)
    other.load_state(state)
    assert indices(other, 3) == expected


def test_every_field_of_a_row_comes_from_that_row():
    # mutation: concatenate only the tensors of the batch itself, not of its observations
    a, b = (random_batch(spec(images=True), 4, seed=seed) for seed in (1, 2))
    both = concatenate([a, b])
    assert both.chunks.equal(torch.cat([a.chunks, b.chunks]))
    assert both.next[4].state.equal(torch.cat([a.next[4].state, b.next[4].state]))
    assert both.observation.images["front"][5].equal(b.observation.images["front"][1])
    part = take(both, slice(1, None, 2))
    assert part.mc_return.equal(both.mc_return[1::2]) and part.observation.state.equal(both.observation.state[1::2])


def test_sources_may_name_their_tasks_in_another_order():
    # mutation: keep the first source's list of tasks and all indices
    a, b = random_batch(spec(), 2), random_batch(spec(), 2, seed=1)
    turned = replace(b.observation, tasks=(TASKS[1], "sweep"))
    both = concatenate([a, replace(b, observation=turned)]).observation
    assert both.tasks == (*TASKS, "sweep")
    assert [both.tasks[i] for i in both.task] == [TASKS[0], TASKS[1], TASKS[1], "sweep"]


def test_what_cannot_be_mixed_is_refused():
    with pytest.raises(ValueError, match=r"shares: expected numbers >= 0 that sum to 1, got \[0.5, 0.6\]"):
        MixedSampler([(Counting(0), 0.5), (Counting(0), 0.6)])
    with pytest.raises(ValueError, match=r"expected the same keys, got \[\[4\], \[2\]\]"):
        concatenate([random_batch(spec(), 2), random_batch(spec(), 2, scope=2)])
    with pytest.raises(ValueError, match=r"expected rows \[4, 4\] of the sources, got \[2, 6\]"):
        half_and_half().load_state({"rows": [2, 6], "sources": []})
