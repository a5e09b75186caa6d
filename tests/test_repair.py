"""Repair: what is damaged is kept aside with a note, what is sound is never touched, and twice is as once."""

import json
import shutil

import pytest
from recorded import assert_same, make_episode, make_spec

from robot_value.episodes import EpisodeStore, StoreError
from robot_value.episodes.repair import repair


@pytest.fixture
def path(tmp_path):
    with EpisodeStore.create(tmp_path / "s", make_spec()) as store:
        for seed in range(3):
            store.append(make_episode(store.spec, seed=seed))
    return tmp_path / "s"


def everything(path):
    return {
        p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file() and p.name != ".lock"
    }


def test_a_sound_store_is_left_as_it_is(path):
    before = everything(path)
    done = repair(path)
    assert (done.code, done.kept, done.moved, done.mended) == (0, 3, (), ()) and everything(path) == before
    assert done.to_text() == "3 episodes are sound\nnothing to repair"


# mutation: `shutil.rmtree(source)` for `move(source, target)` in _quarantine
def test_damaged_episodes_go_to_quarantine_whole_with_a_note_and_the_others_stay_bit_for_bit(path):
    names = EpisodeStore.open(path).names()
    (path / "episodes" / names[1] / "actions/c/0/0").write_bytes(b"damage")
    (path / "episodes" / names[2] / "manifest.json").unlink()
    before = everything(path)
    done = repair(path)
    assert done.code == 3 and done.kept == 1 and len(done.moved) == 2 and names[1] in done.to_text()
    after = everything(path)
    for name, content in before.items():
        moved = name.replace("episodes/", "quarantine/", 1) if names[1] in name or names[2] in name else name
        assert after[moved] == content
    note = json.loads(after[f"quarantine/{names[1]}.json"])
    assert note["was"] == f"episodes/{names[1]}" and "actions/c/0/0: expected" in note["problems"][0]
    assert EpisodeStore.open(path).verify() == [] and repair(path).code == 0
    assert everything(path) == after


# mutation: without `self._quarantined()` in EpisodeStore.__init__
def test_the_number_of_a_quarantined_episode_is_not_given_again(path):
    name = EpisodeStore.open(path).names()[2]
    (path / "episodes" / name / "manifest.json").unlink()
    repair(path)
    with EpisodeStore.open(path, "a") as store:
        assert store.append(make_episode(store.spec)).startswith("00000003-")


def test_a_file_too_many_leaves_its_episode_and_the_episode_stays(path):
    name = EpisodeStore.open(path).names()[0]
    (path / "episodes" / name / "states/c/9").mkdir()
    (path / "episodes" / name / "states/c/9/0").write_bytes(b"x")
    assert repair(path).kept == 3
    assert (path / "quarantine" / f"{name}-states-c-9-0").read_bytes() == b"x"
    assert EpisodeStore.open(path).verify() == []


def test_strangers_and_half_written_episodes_are_moved_too(path):
    (path / "episodes" / "mine").mkdir()
    (path / "episodes" / "0000000-short").write_bytes(b"?")
    (path / ".staging" / "abc" / "states").mkdir(parents=True)
    assert len(EpisodeStore.open(path).verify()) == 2
    done = repair(path)
    assert (done.code, done.kept, len(done.moved)) == (3, 3, 3)
    assert {"mine", "0000000-short", "staging-abc"} <= {p.name for p in (path / "quarantine").iterdir()}


def test_an_episode_begun_in_place_by_a_dead_writer_is_no_loss_of_an_episode(tmp_path):
    path = tmp_path / "s"
    with EpisodeStore.create(path, make_spec(), commit="manifest") as store:
        kept, half = (store.append(make_episode(store.spec, seed=seed)) for seed in range(2))
    (path / "episodes" / half / "manifest.json").unlink()
    (path / ".staging").mkdir(exist_ok=True)
    (path / ".staging" / half).touch()
    assert EpisodeStore.open(path).names() == [kept] and EpisodeStore.open(path).verify() == []
    assert "never acknowledged" in repair(path).moved[0]
    assert not (path / "episodes" / half).exists() and not list((path / ".staging").iterdir())


def test_a_lost_root_is_written_anew_from_a_copy_of_its_spec_and_from_no_other(path):
    sound = (path / "zarr.json").read_bytes()
    (path / "zarr.json").write_bytes(sound[:100])
    with pytest.raises(StoreError, match="--spec=FILE"):
        repair(path)
    with pytest.raises(StoreError, match="--spec: expected the Spec with sha256"):
        repair(path, make_spec(state_dim=2))
    done = repair(path, make_spec())
    assert done.code == 0 and done.mended and (path / "zarr.json").read_bytes() == sound
    assert next((path / "quarantine").glob("zarr.json-*")).read_bytes() == sound[:100]
    assert_same(EpisodeStore.open(path).read(EpisodeStore.open(path).names()[0]), make_episode(make_spec(), seed=0))


def test_repair_waits_for_no_writer_and_knows_what_is_no_store(path, tmp_path):
    with EpisodeStore.open(path, "a"), pytest.raises(StoreError, match="is being written by process"):
        repair(path)
    with pytest.raises(StoreError, match="nothing to repair"):
        repair(tmp_path / "none")


def test_damage_that_comes_back_under_the_same_name_is_kept_beside_the_first(path, tmp_path):
    name = EpisodeStore.open(path).names()[0]
    shutil.copytree(path / "episodes" / name, tmp_path / "copy")
    for _ in range(2):
        (path / "episodes" / name / "manifest.json").write_bytes(b"{}")
        repair(path)
        shutil.copytree(tmp_path / "copy", path / "episodes" / name)
    assert {name, f"{name}.2"} <= {p.name for p in (path / "quarantine").iterdir()}
    assert repair(path).code == 0
