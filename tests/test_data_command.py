"""`robot-value data` as a user types it: every action, its exit codes, its one-line errors."""

import json

import numpy as np
import pytest
from recorded import assert_same, make_episode, make_spec

from robot_value import cli
from robot_value.commands.data import ACTIONS
from robot_value.episodes import EpisodeStore
from robot_value.labels.store import LabelStore


def store_of(path, seeds=range(6), **changes) -> EpisodeStore:
    with EpisodeStore.create(path, make_spec()) as store:
        for seed in seeds:
            rewards = np.zeros(7, np.float32)
            store.append(make_episode(store.spec, seed=seed, success=seed % 2 == 0, rewards=rewards, **changes))
    return EpisodeStore.open(path)


def data(*words: object) -> int:
    return cli.main(["data", *map(str, words)])


def test_without_an_action_all_are_listed(capsys):
    assert data() == 0
    out = capsys.readouterr().out
    assert all(f"robot-value data {name} " in out for name in ACTIONS)


def test_a_wrong_action_or_number_of_paths_is_one_clear_line(tmp_path, capsys):
    assert data("inspct", tmp_path) == 2
    assert "did you mean 'inspect'" in capsys.readouterr().err
    assert data("merge", tmp_path) == 2
    assert "expected robot-value data merge STORE ... TARGET, got 1 paths" in capsys.readouterr().err
    assert data("inspect", tmp_path, tmp_path) == 2
    assert data("verify", tmp_path / "nothing") == 1
    text = capsys.readouterr().err
    assert "no episode store" in text and text.count("\n") == 2


def test_verify_says_sound_and_names_damage_also_in_labels(tmp_path, capsys):
    store = store_of(tmp_path / "s")
    assert data("verify", store.path) == 0
    assert data("label", store.path, "--labeler.type=terminal_success", "--progress=false") == 0
    assert data("verify", store.path) == 0
    assert "labels terminal_success: 0 problems" in capsys.readouterr().out
    victim = next(path for path in (store.path / "labels").rglob("c/*") if path.is_file())
    victim.write_bytes(victim.read_bytes()[:-1])
    assert data("verify", store.path) == 1  # mutation: only the episodes are verified
    assert f"{victim.relative_to(store.path)}: expected" in capsys.readouterr().out


def test_stats_are_those_of_all_rows(tmp_path, capsys):
    store = store_of(tmp_path / "s")
    assert data("stats", store.path, f"--json={tmp_path}/stats.json") == 0
    found = json.loads((tmp_path / "stats.json").read_text())
    states = np.concatenate([episode.states for episode in store])
    np.testing.assert_allclose(found["state"]["mean"], states.mean(0), atol=1e-6)
    np.testing.assert_allclose(found["state"]["high"], states.max(0))
    assert found["action"]["names"] == ["arm[0]", "arm[1]", "gripper"] and found["action"]["count"] == 42
    assert "state s1" in capsys.readouterr().out


def test_merge_and_split_keep_every_episode_as_it_was(tmp_path):
    one, two = store_of(tmp_path / "one"), store_of(tmp_path / "two", range(4, 10))
    assert data("merge", one.path, two.path, tmp_path / "all", "--progress=false") == 0
    whole = EpisodeStore.open(tmp_path / "all")
    assert len(whole) == 10  # seeds 4 and 5 are in both
    parts = {tmp_path / "train": 0.8, tmp_path / "test": 0.2}
    words = [f"{path}={share}" for path, share in parts.items()]
    assert data("split", whole.path, *words, "--seed=3", "--progress=false") == 0
    sizes = {path: EpisodeStore.open(path) for path in parts}
    assert [len(store) for store in sizes.values()] == [8, 2]
    hashes = sorted(store.manifest_hash(name) for store in sizes.values() for name in store.names())
    assert hashes == sorted(whole.manifest_hash(name) for name in whole.names())
    assert data("split", whole.path, f"{tmp_path}/x", "--seed=3") == 2  # no share


def test_label_writes_beside_the_episodes(tmp_path, capsys):
    store = store_of(tmp_path / "s")
    words = ["label", store.path, "--labeler.type=minus_one", "--labeler.last_steps=3", "--name=sparse"]
    assert data(*words, "--progress=false") == 0
    assert "6 episodes labelled" in capsys.readouterr().out
    labels = LabelStore.open(store, "sparse")
    name = store.names()[0]  # a success
    np.testing.assert_array_equal(labels.read(name).rewards, [-1] * 4 + [0] * 3)
    assert data("label", store.path) == 2
    assert "--labeler.type" in capsys.readouterr().err


def test_repair_moves_what_is_damaged_and_says_so_by_its_exit_code(tmp_path, capsys):
    store = store_of(tmp_path / "s")
    assert data("repair", store.path) == 0
    bad = store.names()[2]
    (store.path / "episodes" / bad / "actions/zarr.json").unlink()
    assert data("repair", store.path) == 3
    assert bad in capsys.readouterr().out
    assert data("verify", store.path) == 0 and len(EpisodeStore.open(store.path)) == 5
    assert data("repair", tmp_path) == 1
    assert "nothing to repair" in capsys.readouterr().err


def test_a_store_of_this_version_needs_no_migration(tmp_path, capsys):
    store = store_of(tmp_path / "s")
    assert data("migrate", store.path) == 0
    assert "current" in capsys.readouterr().out


def test_pack_and_convert_are_each_others_inverse_in_what_the_format_holds(tmp_path, capsys):
    store = store_of(tmp_path / "s", final_observed=False)
    packed, back = tmp_path / "packed.zarr", tmp_path / "back"
    assert data("pack", store.path, packed, "--progress=false") == 0
    assert data("convert", packed, back, "--dry_run=true") == 0
    out = capsys.readouterr().out
    assert "6 episodes" in out and "assumed" in out and "left out" in out and not back.exists()
    assert data("convert", packed, back, "--source.hz=20", "--progress=false") == 0
    again = EpisodeStore.open(back)
    for ours, theirs in zip(store, again, strict=True):
        assert_same(ours.states, theirs.states)
        assert_same(ours.actions, theirs.actions)
    assert data("convert", packed, back, "--source.hz=20", "--progress=false") == 0
    assert "0 episodes converted, 6 were already there" in capsys.readouterr().out
    assert data("convert", tmp_path, back) == 2
    assert "expected one known format, got none" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["export", "a", "b"], ["convert", "a", "b", "--source.type=nothing"]])
def test_a_format_that_nobody_named_is_one_clear_line(words, capsys):
    assert data(*words) in (1, 2)
    assert capsys.readouterr().err.count("\n") == 1
