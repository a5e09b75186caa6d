"""What was mined becomes a smaller store, or weights that the label store keeps."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from recorded import make_episode, make_spec
from replayed import synthetic

from robot_value.commands.mine import run
from robot_value.episodes import EpisodeStore
from robot_value.labelers.mined import Config as Labeler
from robot_value.labels.run import label
from robot_value.labels.store import LabelStore
from robot_value.replay import subgoals
from robot_value.replay.label_errors import LabelError
from robot_value.replay.mining import mine
from robot_value.replay.moments import Mark
from robot_value.replay.selection import Config, choose, export, read_table, write_table
from robot_value.replay.tables import save

LOG = synthetic(8, steps=(20, 24), success=0.5)
NAMES = [episode.name for episode in LOG.episodes]


@pytest.fixture(scope="module")
def mined():
    found = mine(LOG)
    repeated = replace(found.redundancy, groups=((NAMES[0], NAMES[5]),))
    wrong = (LabelError(NAMES[2], True, 0.0, 5.0, 0.001),)
    moments = (Mark("worse", NAMES[1], 10, 0.5, 3.0), Mark("worse", NAMES[2], 10, 0.5, 3.0))
    return replace(found, worse=moments, redundancy=repeated, label_errors=wrong)


def test_defects_weigh_nothing_and_moments_more(mined):
    found = choose(LOG, mined, Config(take=("worse",), emphasis=3.0, around=0.1))  # 2 steps of 0.05 s
    expected = np.ones(LOG.episodes[1].steps)
    expected[8:13] = 3.0  # mutation: one step less, seconds for steps
    np.testing.assert_array_equal(found.weights[NAMES[1]], expected)
    assert not found.weights[NAMES[2]].any() and not found.weights[NAMES[5]].any() and found.weights[NAMES[0]].all()
    assert found.marked == (NAMES[1],)  # the other moment is in an episode that is left out
    assert found.names == tuple(name for name in NAMES if name not in (NAMES[2], NAMES[5]))


def test_nothing_is_left_out_that_was_not_asked_for(mined):
    assert choose(LOG, mined, Config(leave=())).names == tuple(NAMES)


def test_the_most_diverse_are_kept_after_defects_are_gone(mined):
    found = choose(LOG, mined, Config(most=3))
    healthy = [name for name in mined.redundancy.diverse if name not in (NAMES[2], NAMES[5])]
    assert set(found.names) == set(healthy[:3])  # mutation: cut to `most` before leaving out


def test_an_unknown_kind_is_an_error_that_names_the_known_ones(mined):
    with pytest.raises(ValueError, match=r"take: expected some of worse, .* got wrose"):
        choose(LOG, mined, Config(take=("wrose",)))


@pytest.fixture
def store(tmp_path):
    with EpisodeStore.create(tmp_path / "store", make_spec()) as made:
        names = [made.append(make_episode(make_spec(), e.steps, i)) for i, e in enumerate(LOG.episodes)]
    return EpisodeStore.open(made.path), names


def renamed(names):
    return replace(LOG, episodes=tuple(replace(e, name=n) for e, n in zip(LOG.episodes, names, strict=True)))


def test_a_selection_becomes_a_store_of_the_same_bytes(store, tmp_path):
    source, names = store
    log = renamed(names)
    found = choose(log, mine(log), Config(most=3))
    assert len(export(found, source, tmp_path / "kept").appended) == 3
    kept = EpisodeStore.open(tmp_path / "kept")
    assert {kept.manifest_hash(n) for n in kept.names()} == {source.manifest_hash(n) for n in found.names}
    assert export(found, source, tmp_path / "kept").there == 3


def test_weights_become_labels_bound_to_the_tables_content(store, tmp_path):
    source, names = store
    log = renamed(names)
    selection = choose(log, mine(log), Config(take=("action",), most=4))
    table = write_table(replace(selection, weights=dict(list(selection.weights.items())[:-1])), tmp_path)
    label(source, "mined", Labeler(table=str(table), missing=0.5), "mined", progress=False)
    labels = LabelStore.open(source, "mined")
    for name in names[:-1]:
        np.testing.assert_array_equal(labels.read(name).weights, selection.weights[name])
    assert (labels.read(names[-1]).weights == 0.5).all() and labels.read(names[-1]).about == {"mined": False}
    assert labels.verify() == []


def test_a_table_that_was_edited_is_refused(tmp_path):
    table = write_table(choose(LOG, mine(LOG)), tmp_path)
    assert read_table(table).keys() == set(NAMES)
    table.write_text(table.read_text().replace("1.0", "2.0", 1))
    with pytest.raises(ValueError, match="edited or renamed"):
        read_table(table)


def test_a_table_of_another_store_is_refused(tmp_path):
    episode = make_episode(make_spec(), LOG.episodes[0].steps + 1)
    labeler = Labeler(table=str(write_table(choose(LOG, mine(LOG)), tmp_path))).build()
    with pytest.raises(ValueError, match="another store"):
        labeler.label(NAMES[0], episode)


def test_the_command_goes_from_a_replays_parts_to_a_store_and_weights(store, tmp_path, capsys):
    source, names = store
    log = renamed(names)
    (tmp_path / ".parts").mkdir()
    save(log, tmp_path / ".parts" / "0.npz")
    flags = ["--choose.most=3", f"--store={source.path}", f"--out={tmp_path / 'kept'}", f"--weights={tmp_path / 'w'}"]
    assert run([str(tmp_path), *flags]) == 0
    said = capsys.readouterr().out
    assert "3 of 8 episodes kept" in said and "3 episodes copied" in said
    (table,) = (tmp_path / "w").iterdir()
    assert sum(weights.any() for weights in read_table(table).values()) == 3


def test_the_command_writes_the_subgoals_of_what_is_kept(store, tmp_path):
    # mutation: all episodes instead of the kept ones; decisions' subgoals although frames are there
    source, names = store
    log = renamed(names)
    (tmp_path / ".parts").mkdir()
    save(log, tmp_path / ".parts" / "0.npz")
    flags = ["--choose.most=3", f"--subgoals={tmp_path / 'goals.json'}", "--cut.tolerance=0.2"]
    config = subgoals.Config(tolerance=0.2)
    kept = choose(log, mine(log), Config(most=3)).names
    assert run([str(tmp_path), *flags]) == 0
    coarse = dict(zip(names, subgoals.of_replayed(log, config), strict=True))
    assert json.loads((tmp_path / "goals.json").read_text()) == {name: coarse[name].tolist() for name in kept}
    assert run([str(tmp_path), *flags, f"--store={source.path}"]) == 0
    fine = {name: subgoals.of_episode(source.read(name), config).tolist() for name in kept}
    assert json.loads((tmp_path / "goals.json").read_text()) == fine
    with pytest.raises(ValueError, match="--store too, where the images are"):
        run([str(tmp_path), *flags, "--cut.embed=my_eyes:look"])


@pytest.mark.parametrize(
    ("flags", "says"),
    [(["--out=x"], "--store"), (["--critic=mian"], "one of main"), ([], r"got one without \.parts")],
)
def test_the_command_says_what_is_missing(flags, says, tmp_path):
    if "--critic=mian" in flags:
        (tmp_path / ".parts").mkdir()
        save(LOG, tmp_path / ".parts" / "0.npz")
    with pytest.raises(ValueError, match=says):
        run([str(tmp_path), *flags])
