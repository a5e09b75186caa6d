"""A store's life at random: appends, crashes at any syscall, damage, repairs, readers; a model knows what there is."""

import random
import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
from cuts import episode, make_spec
from filesystem import Crash, Syscalls
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from robot_value.episodes import EpisodeDamaged, EpisodeStore
from robot_value.episodes.repair import repair


class Life(RuleBasedStateMachine):
    """`hashes`: what was acknowledged and is sound. `damaged`: what was, and is not."""

    @initialize(commit=st.sampled_from(["rename", "manifest"]))
    def begin(self, commit):
        self.folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.path = self.folder / "s"
        EpisodeStore.create(self.path, make_spec(), commit).close()
        self.reader = EpisodeStore.open(self.path)  # as old as the store
        self.hashes, self.damaged = {}, set()

    @rule(seed=st.integers(0, 3))
    def append(self, seed):
        with EpisodeStore.open(self.path, "a") as store:
            name = store.append(episode(seed))
            self.hashes[name] = store.manifest_hash(name)

    @rule(seed=st.integers(0, 3), at=st.integers(1, 70))
    def crash(self, seed, at):
        """The process ends at one call; nothing after it happens. The episode may be there whole: nobody knows."""

        def before(count, call):
            if count >= at:
                raise Crash

        store = EpisodeStore.open(self.path, "a")
        try:
            with Syscalls(self.folder, before):
                name = store.append(episode(seed))
            self.hashes[name] = store.manifest_hash(name)
        except Crash:
            found = set(self.reader.names()) - self.hashes.keys() - self.damaged
            assert len(found) <= 1
            self.hashes |= {name: self.reader.manifest_hash(name) for name in found}
        finally:
            store.close()

    @precondition(lambda self: self.hashes)
    @rule(seed=st.integers(0, 99))
    def damage(self, seed):
        rng = random.Random(seed)
        name = rng.choice(sorted(self.hashes))
        files = sorted(p for p in (self.path / "episodes" / name).rglob("*") if p.is_file())
        rng.choice(files).unlink()
        self.damaged.add(name)
        del self.hashes[name]

    @rule()
    def repair(self):
        done = repair(self.path)
        assert done.kept == len(self.hashes) and (done.code == 3 or not self.damaged)
        assert all((self.path / "quarantine" / name).is_dir() for name in self.damaged)
        assert EpisodeStore.open(self.path).verify() == []
        self.damaged.clear()

    @invariant()
    def readers_see_what_was_committed_and_nothing_else(self):
        if not hasattr(self, "reader"):
            return
        assert set(self.reader.names()) == self.hashes.keys() | self.damaged
        for name, hash in self.hashes.items():
            assert self.reader.manifest_hash(name) == hash and self.reader.verify(name) == []
        for name in self.damaged:
            try:
                self.reader.read(name)
                raise AssertionError(f"{name} is damaged and was read")
            except EpisodeDamaged:
                pass

    def teardown(self):
        shutil.rmtree(getattr(self, "folder", "/nonexistent"), ignore_errors=True)


# mutation: `_begun` answers set() (in place: half-written episodes are seen), or repair that deletes
TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=8, stateful_step_count=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
