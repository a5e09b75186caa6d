"""The episode store: exact round trips, one writer, refusals, and damage that is always reported and never read."""

import json
import os
import pickle
import random
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recorded import assert_same, make_episode, make_spec

from robot_value.episodes import EpisodeDamaged, EpisodeStore, Problem, StoreError, durable
from robot_value.episodes.manifest import canonical, sha256
from robot_value.types import SpecMismatch

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def store(tmp_path):
    with EpisodeStore.create(tmp_path / "store", make_spec(cameras=("front",))) as store:
        yield store


def full_episode(spec, seed=0, **changes):
    """Everything an Episode can hold."""
    extra = {
        "commanded": np.zeros((7, 3), np.float32),
        "source": np.array([0, 1, 2, 0, 0, 1, 2], np.uint8),
        "decisions": 3,
        "provenance": {"seed": 3, "quality": 0.5, "latents": {"noise": [0.1, None]}},
    }
    return make_episode(spec, 7, seed, **(extra | changes))


# mutation: `"success": bool(episode.success)` in encode, or `slice(None)` for `slice(int(n))` in decisions._unstack
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.integers(1, 12),
    seed=st.integers(0, 5),
    final_observed=st.booleans(),
    terminated=st.booleans(),
    success=st.sampled_from([True, False, None]),
    decisions=st.integers(0, 3),
    cameras=st.sampled_from([(), ("front",), ("front", "observation.images.wrist-1")]),
)
def test_what_was_appended_is_read_back_to_the_last_bit(tmp_path_factory, cameras, **fields):
    spec = make_spec(cameras=cameras)
    episode = make_episode(spec, **fields)
    with EpisodeStore.create(tmp_path_factory.mktemp("s") / "store", spec) as store:
        assert_same(store.read(store.append(episode)), episode)


def test_commanded_source_provenance_and_nan_in_decisions_survive(store):
    episode = full_episode(store.spec)
    assert_same(store.read(store.append(episode)), episode)
    assert np.isnan(store.read(store.names()[0]).decisions[2].value).all()


def test_parts_that_are_not_wanted_are_left_out(store):
    episode = full_episode(store.spec)
    lean = store.read(store.append(episode), images=False, decisions=False)
    assert lean.images == {} and lean.spec.cameras == () and lean.decisions == ()
    assert_same(lean.states, episode.states)


def test_names_are_unique_sortable_and_in_the_order_of_appending(tmp_path):
    episode = make_episode(make_spec())
    with EpisodeStore.create(tmp_path / "s", episode.spec) as store:
        names = [store.append(episode) for _ in range(3)]
    with EpisodeStore.open(tmp_path / "s", "a") as store:
        names.append(store.append(episode))
    assert names == sorted(set(names)) == EpisodeStore.open(tmp_path / "s").names()
    assert len(EpisodeStore.open(tmp_path / "s")) == 4
    assert len(list(EpisodeStore.open(tmp_path / "s"))) == 4


@pytest.mark.filterwarnings("ignore:Object at manifest.json")
def test_root_and_every_episode_open_with_the_stock_zarr_library(store):
    episode = full_episode(store.spec)
    name = store.append(episode)
    root = zarr.open_group(store.path, mode="r")
    assert root.attrs["spec"]["dt"] == 0.05
    group = zarr.open_group(store.path / "episodes" / name, mode="r")
    np.testing.assert_array_equal(group["states"][...], episode.states)
    np.testing.assert_array_equal(root[f"episodes/{name}/images/front"][...], episode.images["front"])
    assert group["states"].metadata.dimension_names == ("frame", "state")
    assert group["states"].attrs["unit"] == ["m", "m", "m"]
    assert group.attrs["success"] is True and group.attrs["task"] == "task 0"
    assert all("crc32c" in json.dumps(array.metadata.to_dict()["codecs"], default=str) for _, array in group.arrays())


def test_chunks_run_along_time_and_decode_to_one_or_two_megabytes(tmp_path):
    episode = make_episode(make_spec(state_dim=1000), 1200)
    with EpisodeStore.create(tmp_path / "s", episode.spec) as store:
        group = zarr.open_group(store.path / "episodes" / store.append(episode), mode="r")
        assert 1e6 < np.prod(group["states"].chunks) * 4 < 2e6 and group["states"].chunks[1] == 1000
        assert_same(store.read(store.names()[0]), episode)


@pytest.mark.parametrize("key", ["states", "actions", "rewards", "commanded"])
def test_a_nonfinite_row_is_refused_with_key_and_row_and_nothing_is_written(store, key):
    episode = full_episode(store.spec)
    getattr(episode, key)[5] = np.nan
    with pytest.raises(StoreError, match=rf"^{key}: expected finite numbers, got nan in row 5"):
        store.append(episode)
    assert len(store) == 0 and not list((store.path / "episodes").glob("*/"))
    assert store.append(full_episode(store.spec))


@pytest.mark.parametrize("value", [float("nan"), np.float32(1), {1: "one"}, object()])
def test_provenance_that_json_cannot_hold_is_refused_by_name(store, value):
    with pytest.raises(StoreError, match=r"provenance\['latents'\]: expected a JSON value"):
        store.append(full_episode(store.spec, provenance={"latents": value}))


def test_an_episode_of_another_spec_is_refused_with_field_expected_and_got(store):
    other = make_spec(cameras=("front",), state_dim=2)
    with pytest.raises(SpecMismatch, match=r"the episode does not match: state_names: expected .*s2.*got"):
        store.append(make_episode(other))


def test_a_spec_that_chose_a_horizon_may_be_recorded(store):
    episode = make_episode(store.spec.choose(horizon=8, n_obs_steps=2))
    assert store.read(store.append(episode)).spec == store.spec


def test_only_one_writer_may_hold_the_store(store):
    with pytest.raises(StoreError, match=rf"is being written by process {os.getpid()}; expected one writer"):
        EpisodeStore.open(store.path, "a")
    store.close()
    EpisodeStore.open(store.path, "a").close()
    with pytest.raises(StoreError, match="open for reading"):
        EpisodeStore.open(store.path).append(full_episode(store.spec))


FORKING = """
import os, sys
from robot_value.episodes.store import EpisodeStore
store = EpisodeStore.open(sys.argv[1], "a")
pid = os.fork()
if pid == 0:
    os._exit(0 if store._lock._handle is None else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_a_forked_worker_does_not_inherit_the_writer_s_lock(store):
    store.close()
    # a small process forks: pytest's own, with torch and MuJoCo in it, may be too large to
    done = subprocess.run([sys.executable, "-c", FORKING, str(store.path)], cwd=ROOT, check=False)
    assert done.returncode == 0


def test_wrong_paths_and_modes_are_answered_with_one_clear_line(tmp_path, store):
    for action, message in [
        (lambda: EpisodeStore.open(tmp_path / "none"), "no episode store at"),
        (lambda: EpisodeStore.open(store.path, "w"), "mode: expected 'r' or 'a', got 'w'"),
        (lambda: EpisodeStore.create(store.path, store.spec), "is a store already"),
        (lambda: EpisodeStore.create(tmp_path, store.spec), "expected a new or empty folder"),
        (lambda: EpisodeStore.create(tmp_path / "c", make_spec(cameras=("../x",))), "camera name '../x'"),
        (lambda: EpisodeStore.open(store.path / "episodes"), "not an episode store"),
    ]:
        with pytest.raises(StoreError, match=message) as caught:
            action()
        assert "\n" not in str(caught.value)
    for name in ("00000009-00000000", "../..", "zarr.json"):
        with pytest.raises(KeyError, match="no episode"):
            store.read(name)


def test_unlimited_joints_are_refused_because_json_has_no_infinity(tmp_path):
    spec = make_spec()
    low = spec.parts[0].__class__("arm", 0, 3, "joint", "rad", (-np.inf,) * 3, (np.inf,) * 3)
    with pytest.raises(StoreError, match="finite limits"):
        EpisodeStore.create(tmp_path / "s", spec.choose(parts=(low,)))


def test_a_newer_format_is_refused_and_says_to_upgrade(store):
    name = store.append(full_episode(store.spec))
    edit(store.path / "zarr.json", '"format_version": 1', '"format_version": 2')
    with pytest.raises(StoreError, match=r"format_version 2, newer than .* \(1\); upgrade"):
        EpisodeStore.open(store.path)
    folder, manifest = store.path / "episodes" / name, replace(store.manifest(name), format_version=2)
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    with pytest.raises(StoreError, match="upgrade robot_value"):
        store.manifest(name)
    edit(folder / "manifest.json", '"format_version":2', '"format_version":3')  # a flipped bit is not a new version
    with pytest.raises(EpisodeDamaged, match=r"manifest.json: expected sha256 .*, got content with"):
        store.manifest(name)


def test_a_changed_spec_in_the_root_is_noticed(store):
    edit(store.path / "zarr.json", '"dt": 0.05', '"dt": 0.06')
    with pytest.raises(StoreError, match="damaged: expected a Spec with sha256"):
        EpisodeStore.open(store.path)
    (store.path / "zarr.json").write_text("{")
    with pytest.raises(StoreError, match="damaged: expected JSON"):
        EpisodeStore.open(store.path)


# mutation: `digest != entry.sha256` -> `False` in read_files, or `manifest.to_bytes() != content` -> `False`
def test_every_flipped_bit_truncation_and_deletion_is_reported_and_never_read(store):
    name = store.append(full_episode(store.spec))
    folder, rng = store.path / "episodes" / name, random.Random(0)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    assert len(files) > 30
    for path in files:
        sound = path.read_bytes()
        at = rng.randrange(len(sound))
        flipped = bytes([*sound[:at], sound[at] ^ (1 << rng.randrange(8)), *sound[at + 1 :]])
        for damaged in (flipped, sound[: len(sound) // 2], b"", sound + b" ", None):
            path.unlink()
            if damaged is not None:
                path.write_bytes(damaged)
            assert_damaged(store, name, path.relative_to(folder).as_posix())
            path.write_bytes(sound)
    assert store.verify() == []


def assert_damaged(store, name: str, file: str) -> None:
    problems = store.verify(name)
    assert [(p.episode, p.file) for p in problems] == [(name, file)], file
    assert "expected" in str(problems[0]) and "got" in str(problems[0]) and "\n" not in str(problems[0])
    with pytest.raises(EpisodeDamaged, match="damaged episode") as caught:
        store.read(name)
    assert caught.value.problems == problems


def test_a_swapped_chunk_an_extra_file_and_a_link_to_elsewhere_are_reported(store, tmp_path):
    name = store.append(full_episode(store.spec))
    folder = store.path / "episodes" / name
    a, b = folder / "decisions/execute/c/0/0", folder / "decisions/index/c/0/0"
    one, two = a.read_bytes(), b.read_bytes()
    a.write_bytes(two), b.write_bytes(one)
    assert len(store.verify(name)) == 2
    a.write_bytes(one), b.write_bytes(two)
    (folder / "states/c/9").mkdir()
    (folder / "states/c/9/0").write_bytes(b"x")
    assert [str(p) for p in store.verify()] == [
        f"{name}/states/c/9/0: expected no such file, got a file not in manifest.json"
    ]
    (folder / "states/c/9/0").unlink()
    (tmp_path / "elsewhere").write_bytes(one)
    a.unlink()
    a.symlink_to(tmp_path / "elsewhere")
    assert [p.file for p in store.verify()] == ["decisions/execute/c/0/0"]


def test_verify_lists_every_damaged_episode(store):
    names = [store.append(full_episode(store.spec, seed)) for seed in range(3)]
    (store.path / "episodes" / names[0] / "rewards/c/0").unlink()
    (store.path / "episodes" / names[2] / "actions/zarr.json").write_bytes(b"{}")
    assert [p.episode for p in store.verify()] == [names[0], names[2]]
    assert store.verify(names[1]) == []


@pytest.mark.parametrize("file", ["../../../outside", "/etc/passwd", "a//b", "./states"])
def test_a_manifest_that_points_outside_its_episode_is_refused(store, file):
    name = store.append(full_episode(store.spec))
    path = store.path / "episodes" / name / "manifest.json"
    data = json.loads(path.read_bytes())
    data["files"][file] = {"size": 1, "sha256": "0"}
    del data["hash"]
    path.write_bytes(canonical(data | {"hash": sha256(canonical(data))}))
    with pytest.raises(EpisodeDamaged, match="unsafe file name"):
        store.read(name)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            '"shape": [\n    7\n  ]',
            '"shape": [\n    4000000000000\n  ]',
            "571428571429 chunks|decoded bytes|at most 1000 decoded",
        ),
        ('"chunk_shape": [\n        7\n', '"chunk_shape": [\n        4000000000000\n', "expected chunks of at most"),
        ('"data_type": "float32"', '"data_type": "int32"', "expected float32"),
    ],
)
def test_a_consistent_manifest_over_lying_metadata_is_still_refused(store, old, new, message):
    """Hostile sizes and wrong types: refused before memory is given to them."""
    name = store.append(full_episode(store.spec))
    folder = store.path / "episodes" / name
    edit(folder / "rewards/zarr.json", old, new)
    folder = resign(folder, store.manifest(name))
    with pytest.raises(EpisodeDamaged, match=message):
        store.read(folder.name)
    (folder / "rewards/zarr.json").write_bytes((folder / "images/zarr.json").read_bytes())
    name = resign(folder, store.manifest(folder.name)).name
    with pytest.raises(EpisodeDamaged, match="rewards: expected an array, got a group"):
        store.read(name)


def test_an_episode_of_another_store_is_not_taken_for_ours(store, tmp_path):
    with EpisodeStore.create(tmp_path / "other", make_spec(cameras=("front",), state_dim=2)) as other:
        name = other.append(make_episode(other.spec))
    os.rename(other.path / "episodes" / name, store.path / "episodes" / name)
    with pytest.raises(EpisodeDamaged, match="spec: expected"):
        store.read(name)


def test_leftovers_of_a_crashed_writer_are_invisible_and_swept_by_the_next(store):
    store.append(full_episode(store.spec))
    store.close()
    (store.path / ".staging" / "half" / "states").mkdir(parents=True)
    assert len(EpisodeStore.open(store.path)) == 1
    with EpisodeStore.open(store.path, "a") as again:
        assert not (store.path / ".staging").exists() and len(again) == 1


def test_a_full_disk_leaves_the_store_as_it_was_and_writable(store, monkeypatch):
    episode = full_episode(store.spec)
    before = store.append(episode)
    for failing in range(1, 40, 4):
        fail_at(monkeypatch, failing)
        with pytest.raises(OSError, match="No space left"):
            store.append(episode)
        monkeypatch.undo()
        assert store.names() == [before] and store.verify() == []
        assert not any((store.path / ".staging").iterdir())
    assert len({store.append(episode), *store.names()}) == 2


def test_an_interrupted_create_can_be_repeated(tmp_path, monkeypatch):
    fail_at(monkeypatch, 2)
    with pytest.raises(OSError, match="No space left"):
        EpisodeStore.create(tmp_path / "s", make_spec())
    monkeypatch.undo()
    with pytest.raises(StoreError, match="no episode store"):
        EpisodeStore.open(tmp_path / "s")
    EpisodeStore.create(tmp_path / "s", make_spec()).close()


def test_everything_is_on_disk_before_the_name_is(store, monkeypatch):
    """Every file and folder of the staged episode is fsynced before the rename, and its parent after it."""
    events = []
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(os, "fsync", lambda h: (events.append(os.readlink(f"/proc/self/fd/{h}")), fsync(h))[1])
    monkeypatch.setattr(os, "rename", lambda a, b: (events.append("rename"), rename(a, b))[1])
    folder = store.path / "episodes" / store.append(full_episode(store.spec))
    at = events.index("rename")
    synced = {path.split("/.staging/")[1].partition("/")[2] for path in events[:at]}
    assert synced == {"", *(path.relative_to(folder).as_posix() for path in folder.rglob("*"))}
    assert events[at + 1 :] == [str(store.path / "episodes")]


# mutation: names() without `self._committed`, or the manifest among the files that write_tree writes
def test_committed_in_place_an_episode_is_seen_when_its_manifest_is_whole_and_not_before(tmp_path, monkeypatch):
    with EpisodeStore.create(tmp_path / "s", make_spec(), commit="manifest") as store:
        kept, seen = store.append(make_episode(store.spec)), []
        write_file = durable.write_file

        def watched(path, content):
            seen.append(EpisodeStore.open(store.path).names())
            write_file(path, content)

        monkeypatch.setattr(durable, "write_file", watched)
        name = store.append(make_episode(store.spec, seed=1))
        assert len(seen) > 6 and all(names == [kept] for names in seen)
        assert store.names() == [kept, name] and store.verify() == []
    (store.path / "episodes" / name / "manifest.json").unlink()  # deleted later: damage, not an episode that never was
    assert [p.file for p in EpisodeStore.open(store.path).verify()] == ["manifest.json"]
    with EpisodeStore.open(store.path, "a") as again:
        assert again.names() == [kept, name] and again.append(make_episode(store.spec)).startswith("00000002")


def test_an_unknown_way_to_commit_is_refused(tmp_path):
    with pytest.raises(StoreError, match="commit: expected one of rename, manifest, got 'copy'"):
        EpisodeStore.create(tmp_path / "s", make_spec(), commit="copy")
    assert not (tmp_path / "s").exists()


def test_the_store_s_own_files_and_names_are_verified_too(store):
    one, two = (store.append(full_episode(store.spec, seed)) for seed in range(2))
    edit(store.path / "zarr.json", '"zarr_format": 3', '"zarr_format": 2')
    (store.path / "episodes" / "zarr.json").unlink()
    (store.path / "episodes" / "1").mkdir()
    assert [(p.episode, p.file) for p in store.verify()] == [(".", "zarr.json"), (".", "episodes/zarr.json"), ("1", "")]
    os.rename(store.path / "episodes" / one, store.path / "swap")
    os.rename(store.path / "episodes" / two, store.path / "episodes" / one)
    with pytest.raises(EpisodeDamaged, match=f"manifest.json: expected an episode whose hash begins with {one[9:]}"):
        store.read(one)


def test_damage_comes_back_whole_from_a_worker_process():
    damage = EpisodeDamaged([Problem("e", "f", "this", "that")])
    again = pickle.loads(pickle.dumps(damage))
    assert again.problems == damage.problems and str(again) == str(damage)


def test_no_warning_reaches_the_user(store):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.read(store.append(full_episode(store.spec)))


def edit(path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, text
    path.write_text(text.replace(old, new))


def resign(folder, manifest) -> Path:
    """A manifest and a name that match whatever is in the folder now."""
    files = {name: (folder / name).read_bytes() for name in manifest.files}
    signed = manifest.of(files, manifest.steps, manifest.frames)
    (folder / "manifest.json").write_bytes(signed.to_bytes())
    return folder.rename(folder.with_name(f"{folder.name[:8]}-{signed.hash[:8]}"))


def fail_at(monkeypatch, call: int) -> None:
    """The disk is full from the n-th fsync on."""
    fsync, calls = os.fsync, iter(range(1, 10_000))

    def full(handle):
        if next(calls) >= call:
            raise OSError(28, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
