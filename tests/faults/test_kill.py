"""SIGKILL at random moments: nothing acknowledged is lost, nothing half-committed is seen, the store stays writable."""

import numpy as np
import pytest
from append_until_killed import make_episode
from kills import kill

from robot_value.episodes import EpisodeStore

KILLS = 10  # 1,000: benchmarks/bench_durability.py


# mutation: in EpisodeStore._commit, `shutil.copytree(staged, target)` instead of `publish(staged, target)`
@pytest.mark.parametrize("commit", ["rename", "manifest"])
def test_kills_lose_nothing_that_was_acknowledged(tmp_path, commit):
    found = kill(tmp_path / "store", KILLS, commit=commit)
    assert found.losses == []
    assert found.acknowledged > KILLS // 3 and found.cut_short >= 1, "the kills must hit writers at work"
    with EpisodeStore.open(tmp_path / "store", "a") as store:
        before = store.names()
        assert store.names() == before and store.append(make_episode(store.spec, np.random.default_rng(0)))
        assert len(store) == len(before) + 1 and store.verify() == []
        assert not any((store.path / ".staging").iterdir())


def test_without_the_rename_the_same_kills_find_losses(memory):
    assert kill(memory / "store", 8, flag="--unprotected").losses
