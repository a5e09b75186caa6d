"""Select, merge and split: proven bytes move, nothing twice, nothing lost, and the same split for the same seed."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import assert_same, make_episode, make_spec

from robot_value.episodes import EpisodeDamaged, EpisodeStore, StoreError, edit
from robot_value.episodes.edit import merge, select, shares, split

SPEC = make_spec(cameras=("front",))
ENDINGS = (True, False, None)


def store_of(path, seeds, spec=SPEC, **changes):
    with EpisodeStore.create(path, spec) as store:
        for seed in seeds:
            store.append(make_episode(spec, 3, seed, success=ENDINGS[seed % 3], **changes))
    return EpisodeStore.open(path)


@pytest.fixture
def target(tmp_path):
    with EpisodeStore.create(tmp_path / "target", SPEC) as target:
        yield target


def hashes(store, names=None):
    return [store.manifest_hash(name) for name in (store.names() if names is None else names)]


def test_a_merge_holds_all_episodes_in_order_to_the_last_byte(tmp_path, target):
    # mutation: read and append in adopt (bytes differ where the encoder changes), or sources sorted
    stores = [store_of(tmp_path / "b", [4, 5], provenance={"seed": 4}), store_of(tmp_path / "a", [1, 2])]
    merged = merge(stores, target, progress=False)
    assert hashes(target) == [*hashes(stores[0]), *hashes(stores[1])]
    assert list(merged.appended) == target.names() and merged.there == 0
    assert target.verify() == []
    for name, episode in zip(target.names(), itertools.chain(*stores), strict=True):
        assert_same(target.read(name), episode)


def test_bytes_are_copied_not_encoded_again(tmp_path, target, monkeypatch):
    source = store_of(tmp_path / "a", [1])
    monkeypatch.setattr(EpisodeStore, "append", None)
    [name] = merge([source], target, progress=False).appended
    mine, theirs = target.path / "episodes" / name, source.path / "episodes" / source.names()[0]
    contents = [
        {p.relative_to(f).as_posix(): p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in (mine, theirs)
    ]
    assert contents[0] == contents[1] and len(contents[0]) > 5


def test_what_is_there_already_is_counted_and_not_copied_again(tmp_path, target):
    # mutation: drop `known.add(key)`: a duplicate inside one source would be copied twice
    a, b = store_of(tmp_path / "a", [1, 2, 1]), store_of(tmp_path / "b", [2, 3])
    first = merge([a, b], target, progress=False)
    assert (len(first.appended), first.there) == (3, 2)
    assert sorted(hashes(target)) == sorted({*hashes(a), *hashes(b)})
    assert merge([a, b], target, progress=False) == edit.Copied((), 5)


def test_an_interrupted_merge_goes_on_where_it_stopped(tmp_path, target):
    source = store_of(tmp_path / "a", range(4))
    damaged = source.path / "episodes" / source.names()[2] / "actions" / "c" / "0" / "0"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(EpisodeDamaged, match=source.names()[2]):
        merge([source], target, progress=False)
    assert len(target) == 2 and target.verify() == []
    damaged.write_bytes(content)
    assert merge([source], target, progress=False).there == 2
    assert hashes(target) == hashes(source)


def test_another_spec_is_refused_before_anything_is_copied(tmp_path, target):
    # mutation: check each source only when its turn comes
    fits, other = store_of(tmp_path / "a", [1]), store_of(tmp_path / "b", [1], make_spec(4, ("front",)))
    with pytest.raises(StoreError, match="state_names"):
        merge([fits, other], target, progress=False)
    assert len(target) == 0


def test_a_spec_that_differs_by_rounding_is_refused_too_because_episodes_carry_its_hash(tmp_path, target):
    close = store_of(tmp_path / "a", [1], SPEC.choose(dt=SPEC.dt * (1 + 1e-9)))
    with pytest.raises(StoreError, match="rounding"):
        merge([close], target, progress=False)


def test_an_episode_of_another_spec_inside_a_source_is_damage(tmp_path, target):
    # mutation: drop the spec check in adopt
    source, other = store_of(tmp_path / "a", []), store_of(tmp_path / "b", [1], SPEC.choose(dt=1.0))
    [name] = other.names()
    (other.path / "episodes" / name).rename(source.path / "episodes" / name)
    with pytest.raises(EpisodeDamaged, match="spec"):
        select(source, target, [name], progress=False)
    assert len(target) == 0


def test_a_selection_copies_the_named_episodes_only(tmp_path, target):
    source = store_of(tmp_path / "a", range(4))
    names = source.names()
    select(source, target, [names[2], names[0]], progress=False)
    assert hashes(target) == hashes(source, [names[2], names[0]])
    with pytest.raises(KeyError, match="00000009"):
        select(source, target, ["00000009-abcdef01"], progress=False)


def test_a_target_that_is_only_read_is_refused(tmp_path):
    source = store_of(tmp_path / "a", [1])
    with pytest.raises(StoreError, match="mode='a'"):
        select(source, store_of(tmp_path / "b", []), source.names(), progress=False)


class Fake:
    """An episode store of endings; content is a number, equal numbers are duplicates."""

    def __init__(self, contents, endings):
        self.contents, self.endings = contents, endings

    def names(self):
        return [f"{i:08d}" for i in range(len(self.contents))]

    def manifest_hash(self, name):
        return f"{self.contents[int(name)]:04d}"

    def about(self, name):
        return {"success": self.endings[self.contents[int(name)] % len(self.endings)]}


def test_a_split_is_disjoint_complete_and_a_function_of_the_seed():
    # mutation: draw without the seed, or forget a stratum
    store = Fake(range(12), ENDINGS)
    parts = {"train": 0.75, "test": 0.25}
    chosen = shares(store, parts, seed=1)
    assert sorted(chosen["train"] + chosen["test"]) == store.names()
    assert [len(chosen[key]) for key in parts] == [9, 3]
    assert chosen == shares(store, parts, seed=1) != shares(store, parts, seed=2)
    assert {store.about(name)["success"] for name in chosen["test"]} == set(ENDINGS)  # one of the three for each


@settings(max_examples=100, deadline=None)
@given(
    contents=st.lists(st.integers(0, 60), min_size=12, max_size=60),
    endings=st.lists(st.sampled_from(ENDINGS), min_size=1, max_size=7),
    percent=st.integers(20, 80),
    seed=st.integers(0, 3),
)
def test_shares_are_exact_within_one_episode_also_among_successes_and_never_share_content(
    contents, endings, percent, seed
):
    # mutation: duplicates drawn one by one; positions drawn over all episodes instead of within each ending
    store, fractions = Fake(contents, endings), {"a": percent / 100, "b": 1 - percent / 100}
    try:
        chosen = shares(store, fractions, seed)
    except StoreError:
        assert len(set(contents)) <= 5
        return
    drawn = {key: hashes(store, names) for key, names in chosen.items()}
    assert sorted(drawn["a"] + drawn["b"]) == sorted({f"{content:04d}" for content in contents})
    assert abs(len(drawn["a"]) - fractions["a"] * len(set(contents))) <= 0.5 + 1e-9
    for ending in ENDINGS:
        alike = [c for c in set(contents) if endings[c % len(endings)] is ending]
        mine = [c for c in alike if f"{c:04d}" in drawn["a"]]
        assert abs(len(mine) - fractions["a"] * len(alike)) <= 1 + 1e-9


def test_a_split_writes_stores_that_can_be_gone_on_with_but_not_mixed(tmp_path):
    store = store_of(tmp_path / "a", range(6))
    parts = {tmp_path / "train": 0.5, tmp_path / "test": 0.5}
    done = split(store, parts, seed=3, progress=False)
    made = [EpisodeStore.open(path) for path in parts]
    assert sorted(hashes(made[0]) + hashes(made[1])) == sorted(hashes(store))
    assert [len(done[path].appended) for path in parts] == [3, 3]
    assert [copied.there for copied in split(store, parts, seed=3, progress=False).values()] == [3, 3]
    other = next(seed for seed in range(4, 99) if shares(store, parts, seed) != shares(store, parts, 3))
    with pytest.raises(StoreError, match="another seed"):  # mutation: reuse a target without looking
        split(store, parts, seed=other, progress=False)
    assert sorted(hashes(made[0]) + hashes(made[1])) == sorted(hashes(store))


@pytest.mark.parametrize(
    "fractions", [{}, {"a": 0.5}, {"a": 1.5, "b": -0.5}, {"a": 1.0, "b": 0.0}, {"a": float("nan")}]
)
def test_shares_that_are_no_split_are_refused(fractions):
    with pytest.raises(StoreError, match="sum to 1"):
        shares(Fake([1, 2], ENDINGS), fractions)


def test_a_share_that_would_stay_empty_is_refused():
    with pytest.raises(StoreError, match="too few"):
        shares(Fake([1, 2], ENDINGS), {"train": 0.9, "test": 0.1})
