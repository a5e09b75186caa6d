"""Damage is reported with file and episode. All 10,000: benchmarks/bench_durability.py."""

from mutations import KINDS, mutate

from robot_value.episodes import manifest


def test_every_mutation_is_noticed_where_it_is(memory):
    found = mutate(memory / "s", 150)
    assert found.losses == []
    assert found.trials > 130 and min(found.kinds.values()) > 10 and len(found.kinds) == len(KINDS)


def test_without_checksums_the_same_mutations_find_losses(memory, monkeypatch):
    differs = manifest._differs
    monkeypatch.setattr(manifest, "_differs", lambda entry, size, content: differs(entry, size, None))
    assert len(mutate(memory / "s", 50).losses) > 5
