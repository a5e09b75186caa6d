"""Older format_versions are lifted step by step into a new store; the old one is kept as it was."""

import json

import pytest
from recorded import assert_same, make_episode, make_spec

from robot_value.episodes import EpisodeStore, StoreError
from robot_value.episodes import migrate as module
from robot_value.episodes.manifest import MANIFEST, Manifest
from robot_value.episodes.migrate import STEPS, Step, migrate
from robot_value.types import FORMAT_VERSION

RENAMED = {"spec": "layout", "spec_sha256": "fingerprint"}  # a version 0 that never was; there, episodes were `ended`


def to_0(document: dict) -> dict:
    attributes = document["attributes"] | {"format_version": 0}
    if "terminated" in attributes:
        attributes["ended"] = attributes.pop("terminated")
    if "spec_sha256" in attributes:
        for new, old in RENAMED.items():
            attributes[old] = attributes.pop(new)
    return document | {"attributes": attributes}


def root_to_1(attributes: dict) -> dict:
    names = {old: new for new, old in RENAMED.items()}
    return {names.get(key, key): value for key, value in attributes.items()}


def episode_to_1(files, root) -> dict[str, bytes]:
    document = json.loads(files["zarr.json"])
    attributes = {"terminated" if key == "ended" else key: value for key, value in document["attributes"].items()}
    document["attributes"] = attributes | {"format_version": 1, "spec": root["spec_sha256"]}
    return {**files, "zarr.json": json.dumps(document).encode()}


FROM_0 = {0: Step(root_to_1, episode_to_1)}


@pytest.fixture
def old(tmp_path):
    """A store of the invented version 0 with three episodes, and what they hold."""
    path, spec = tmp_path / "s", make_spec(cameras=("front",))
    episodes = [make_episode(spec, seed=seed, terminated=seed != 1) for seed in range(3)]
    with EpisodeStore.create(path, spec) as store:
        for episode in episodes:
            store.append(episode)
    for folder in list((path / "episodes").glob("*-*")):
        manifest = EpisodeStore.open(path).manifest(folder.name)
        files = {name: (folder / name).read_bytes() for name in manifest.files}
        files["zarr.json"] = json.dumps(to_0(json.loads(files["zarr.json"]))).encode()
        (folder / "zarr.json").write_bytes(files["zarr.json"])
        older = Manifest(manifest.steps, manifest.frames, Manifest.of(files, 0, 0).files, format_version=0)
        (folder / MANIFEST).write_bytes(older.to_bytes())
        folder.rename(folder.with_name(f"{folder.name[:8]}-{older.hash[:8]}"))
    (path / "zarr.json").write_text(json.dumps(to_0(json.loads((path / "zarr.json").read_text()))))
    return path, episodes


def test_a_store_of_an_older_version_is_refused_and_says_how_to_lift_it(old):
    with pytest.raises(StoreError, match=r"format_version 0, older than .*robot-value data migrate"):
        EpisodeStore.open(old[0])


# mutation: `publish(new, path)` before `publish(path, kept)`, or `roots` instead of `roots[1:]`
def test_every_episode_is_lifted_and_the_old_store_is_kept_as_it_was(old):
    path, episodes = old
    before = contents(path)
    done = migrate(path, FROM_0)
    assert (done.old, done.episodes, done.kept, done.left_behind) == (0, 3, path.with_name("s.v0"), ())
    assert done.code == 0 and "3 episodes lifted" in done.to_text()
    store = EpisodeStore.open(path)
    assert store.verify() == [] and [name[:8] for name in store.names()] == ["00000000", "00000001", "00000002"]
    for read, episode in zip(store, episodes, strict=True):
        assert_same(read, episode)
    assert contents(done.kept) == before


def test_a_current_store_says_so_and_is_not_touched(tmp_path):
    EpisodeStore.create(tmp_path / "s", make_spec()).close()
    before = contents(tmp_path)
    done = migrate(tmp_path / "s")
    assert done.to_text() == f"format_version {FORMAT_VERSION} is current; nothing to migrate"
    assert contents(tmp_path) == before and STEPS == {}


def test_damage_stays_behind_with_its_name_and_labels_are_mentioned(old):
    path, _ = old
    next((path / "episodes").glob("00000001-*/rewards/c/0")).unlink()
    (path / "labels").mkdir()
    done = migrate(path, FROM_0)
    assert (done.code, done.episodes, len(done.left_behind)) == (3, 2, 2)
    assert "labels/" in done.left_behind[0] and "rewards/c/0: expected" in done.left_behind[1]


def test_without_a_way_or_with_a_writer_nothing_happens(old):
    path, _ = old
    before = contents(path.parent)
    with pytest.raises(StoreError, match="expected a step from 0, got none"):
        migrate(path)
    lock = module.WriterLock(path / ".lock")
    with pytest.raises(StoreError, match="is being written"):
        migrate(path, FROM_0)
    lock.release()
    broken = Step(root_to_1, lambda files, root: dict(files))  # forgets the episodes
    with pytest.raises(StoreError, match="a step made what the store cannot read"):
        migrate(path, {0: broken})
    after = contents(path.parent)
    assert {name: after[name] for name in before} == before
    assert migrate(path, FROM_0).episodes == 3  # what a failed one left is begun anew


@pytest.mark.parametrize("renames", [0, 1])
def test_a_migration_cut_at_its_swap_is_finished_by_the_next(old, monkeypatch, renames):
    path, episodes = old
    publish, calls = module.publish, iter(range(9))

    def dies(source, target):
        if next(calls) == renames:
            raise KeyboardInterrupt
        publish(source, target)

    monkeypatch.setattr(module, "publish", dies)
    with pytest.raises(KeyboardInterrupt):
        migrate(path, FROM_0)
    monkeypatch.undo()
    assert migrate(path, FROM_0).episodes == 3
    assert_same(EpisodeStore.open(path).read(EpisodeStore.open(path).names()[2]), episodes[2])
    assert path.with_name("s.v0").exists() and not path.with_name("s.migrating").exists()


def contents(path):
    files = (p for p in path.rglob("*") if p.is_file() and p.name != ".lock")
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in files}
