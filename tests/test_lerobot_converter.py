"""LeRobotDataset v3.0 -> store: nothing lost, nothing invented, and what does not fit is an error by name."""

from __future__ import annotations

import json
import threading

import lerobot_sets as sets
import numpy as np
import pyarrow as pa
import pytest

from robot_value import untrusted
from robot_value.convert import ConversionError, convert
from robot_value.datasets import lerobot_converter, parquet_rows
from robot_value.datasets.video_frames import VideoFrames
from robot_value.episodes import EpisodeStore

LENGTHS = (5, 7, 6)
STARTS = (0, 5, 12)


@pytest.fixture
def opened():
    """open(path, **flags) -> Source; closed at the end."""
    sources = []

    def build(path, **flags):
        sources.append(lerobot_converter.Config(**flags).build(path))
        return sources[-1]

    yield build
    for source in sources:
        source.close()


def expect_error(opened, root, words, index=0, **flags):
    with pytest.raises(ConversionError, match=words):
        opened(root, **flags).read(index)


@pytest.mark.parametrize("group", [0, 1, 4, 100])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 1, 0)])
def test_every_row_comes_back_in_any_order_whatever_the_row_groups(tmp_path, opened, group, order):
    # mutation: keep the batch's first row where a new group starts / never go back
    source = opened(sets.write_set(tmp_path / "set", LENGTHS, per_file=3 if group else 2, group=group))
    for i in order:
        episode, truth = source.read(i), sets.columns(i, LENGTHS[i], STARTS[i])
        states = np.concatenate([truth["observation.state"], truth["observation.environment_state"]], 1)
        np.testing.assert_array_equal(episode.states, states)
        np.testing.assert_array_equal(episode.actions, truth["action"])
        np.testing.assert_array_equal(episode.rewards, truth["next.reward"])
        assert (episode.terminated, episode.truncated, episode.success) == (i % 2 == 0, i % 2 == 1, i % 2 == 0)
        assert episode.task == sets.TASKS[i % 2] and not episode.final_observed
        assert episode.provenance == {"robot": "so100"}


def test_the_survey_says_what_is_there_and_what_was_assumed(tmp_path, opened):
    source = opened(sets.write_set(tmp_path / "set", LENGTHS, camera="video"))
    survey, spec = source.survey, source.survey.spec
    assert survey.format == "LeRobotDataset v3.0" and survey.keys == ("0", "1", "2") and survey.steps == LENGTHS
    assert spec.state_names == ("x", "y", "z", "bx", "by") and spec.dt == 1 / sets.FPS and spec.language
    assert [(c.name, c.height, c.width) for c in spec.cameras] == [("top", sets.HEIGHT, sets.WIDTH)]
    actions = np.concatenate([sets.columns(i, n, 0)["action"] for i, n in enumerate(LENGTHS)])
    np.testing.assert_array_equal(spec.low, actions.min(0))
    np.testing.assert_array_equal(spec.high, actions.max(0))
    assert any("--source.spec=FILE" in line for line in survey.assumed)
    assert any("--source.done=" in line for line in survey.assumed)


def test_images_in_parquet_are_lossless_also_where_row_groups_split_episodes(tmp_path, opened):
    source = opened(sets.write_set(tmp_path / "set", LENGTHS, camera="image", group=4))
    for i, steps in enumerate(LENGTHS):
        truth = np.stack([sets.picture(i, t) for t in range(steps)])
        np.testing.assert_array_equal(source.read(i).images["top"], truth)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (1, 1, 0)])
def test_video_frames_are_the_ones_of_their_time_and_close_to_what_was_filmed(tmp_path, opened, order):
    # mutation: ignore from_timestamp / never seek back / off by one frame (5 grey levels per frame, 60 per episode)
    source = opened(sets.write_set(tmp_path / "set", LENGTHS, camera="video", per_file=3))
    for i in order:
        truth = np.stack([sets.picture(i, t) for t in range(LENGTHS[i])]).astype(int)
        error = np.abs(source.read(i).images["top"] - truth)[:, :, :38]  # beyond, red wraps around at 256
        assert error.mean() < 2.5


def test_reading_in_order_opens_every_video_once_and_decodes_every_frame_once(tmp_path, opened, monkeypatch):
    # mutation: seek before every episode
    opens, decoded = [], []
    monkeypatch.setattr(VideoFrames, "_open", spy(VideoFrames._open, opens))
    monkeypatch.setattr(VideoFrames, "_next", spy(VideoFrames._next, decoded))
    source = opened(sets.write_set(tmp_path / "set", LENGTHS, camera="video", per_file=3))
    for i in range(3):
        source.read(i)
    assert len(opens) == 1 and len(decoded) == sum(LENGTHS)


def test_the_next_episode_is_decoded_while_this_one_is_stored_and_no_further(tmp_path, opened, monkeypatch):
    # mutation: decode ahead without bound / not at all
    reads, done = [], threading.Semaphore(0)
    plain = lerobot_converter.LeRobotSource._read

    def read(self, index):
        reads.append(index)
        done.release()
        return plain(self, index)

    monkeypatch.setattr(lerobot_converter.LeRobotSource, "_read", read)
    source = opened(sets.write_set(tmp_path / "set", LENGTHS))
    source.read(0)
    assert all(done.acquire(timeout=5) for _ in range(2))
    assert reads == [0, 1]
    monkeypatch.setattr(lerobot_converter, "AHEAD", -1)
    source.read(1)
    assert reads == [0, 1]


def test_a_conversion_goes_on_where_it_stopped_and_verifies(tmp_path, opened):
    root = sets.write_set(tmp_path / "set", LENGTHS, camera="image")
    source = opened(root)
    with EpisodeStore.create(tmp_path / "store", source.survey.spec) as store:
        store.append(source_episode(source, 0))
        assert convert(source, store, progress=False).there == 1
        assert len(store) == 3 and store.verify() == []
        assert convert(opened(root), store, progress=False).there == 3


def source_episode(source, index):
    from robot_value.convert import told

    return told(source.read(index), source.survey, source.survey.keys[index])


@pytest.mark.parametrize(
    ("meaning", "expected"),
    [
        ("terminated", [(True, False), (True, False)]),
        ("ended", [(True, False), (False, True)]),
        ("ignored", [(False, True), (False, True)]),
    ],
)
def test_what_done_means_is_a_flag(tmp_path, opened, meaning, expected):
    def always_done(episode, table):
        return table | {"next.done": np.arange(len(table["index"])) == len(table["index"]) - 1}

    source = opened(sets.write_set(tmp_path / "set", LENGTHS, change=always_done), done=meaning)
    assert [(e.terminated, e.truncated) for e in map(source.read, (0, 1))] == expected


def test_a_source_that_says_nothing_of_outcomes_is_not_given_any(tmp_path, opened):
    def bare(episode, table):
        return {key: values for key, values in table.items() if not key.startswith("next.")}

    source = opened(sets.write_set(tmp_path / "set", LENGTHS, change=bare))
    episode = source.read(0)
    assert (episode.terminated, episode.truncated, episode.success) == (False, True, None) and not episode.rewards.any()
    said = " ".join(source.survey.assumed)
    assert "rewards: 0" in said and "success: unknown" in said and "none terminated" in said


def test_truncated_is_taken_from_its_own_column(tmp_path, opened):
    def both(episode, table):
        return table | {"truncated": table["next.done"]}

    episode = opened(sets.write_set(tmp_path / "set", LENGTHS, change=both)).read(0)
    assert episode.terminated and episode.truncated


def test_the_state_can_be_restricted_and_what_is_not_used_is_listed(tmp_path, opened):
    def more(episode, table):
        return table | {"observation.force": np.ones((len(table["index"]), 2)), "action.raw": table["action"]}

    root = sets.write_set(tmp_path / "set", LENGTHS, change=more)
    source = opened(root, state=("observation.environment_state",))
    assert source.survey.spec.state_names == ("bx", "by") and source.read(0).states.shape == (5, 2)
    assert {"observation.state: float32[3]", "observation.force: float64[2]"} <= set(source.survey.left_out)
    everything = opened(root).survey
    assert everything.spec.state_names[-1] == "observation.force_1" and "action.raw: float32[2]" in everything.left_out
    assert any("float32 cannot hold" in line for line in everything.left_out)
    with pytest.raises(ConversionError, match=r"--source\.state"):
        opened(root, state=("observation.images.top",))


def test_a_written_spec_replaces_what_would_be_assumed_and_must_fit(tmp_path, opened):
    # mutation: skip the check of one of dims, cameras, rate
    root = sets.write_set(tmp_path / "set", LENGTHS, camera="image")
    spec = opened(root).survey.spec
    file = tmp_path / "spec.json"
    told = json.loads(json.dumps(spec.to_json()))
    told["parts"][0] |= {"unit": "rad", "kind": "joint", "low": [-2, -2], "high": [2, 2]}
    file.write_text(json.dumps(told))
    source = opened(root, spec=str(file))
    assert source.survey.spec.parts[0].unit == "rad" and source.read(0).spec.parts[0].high == (2, 2)
    assert not any("--source.spec" in line for line in source.survey.assumed)
    camera = {"name": "top", "height": 1, "width": 1, "encoding": "rgb8"}
    for wrong in ({"dt": 0.1}, {"cameras": []}, {"cameras": [camera]}, {"state_names": ["x"], "state_units": ["m"]}):
        file.write_text(json.dumps(told | wrong))
        with pytest.raises(ConversionError, match="as the Spec says"):
            opened(root, spec=str(file))


def test_a_number_that_never_changes_has_room_on_both_sides(tmp_path, opened):
    def still(episode, table):
        return table | {"action": np.full_like(table["action"], 3)}

    spec = opened(sets.write_set(tmp_path / "set", LENGTHS, change=still)).survey.spec
    assert spec.parts[0].low == (2, 2) and spec.parts[0].high == (4, 4)


def test_statistics_that_contradict_the_data_are_told(tmp_path, opened):
    root = sets.write_set(tmp_path / "set", LENGTHS)
    spec = opened(root).survey.spec
    stats = root / "meta/stats.json"
    for low, words in ((spec.low - 1, "say otherwise"), (spec.low, None)):
        stats.write_text(json.dumps({"action": {"min": low.tolist(), "max": spec.high.tolist()}}))
        (line,) = [line for line in opened(root).survey.left_out if "stats.json" in line]
        assert ("say otherwise" in line) == bool(words)


# -- what does not fit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["frame_index", "index", "episode_index", "timestamp"])
def test_gaps_repetitions_and_disorder_are_errors_that_name_file_and_episode(tmp_path, opened, key):
    # mutation: skip any one of the four index columns
    def shuffled(episode, table):
        values = table[key].copy()
        values[2] += episode == 1 and (1 / sets.FPS if key == "timestamp" else 1)
        return table | {key: values}

    root = sets.write_set(tmp_path / "set", LENGTHS, change=shuffled)
    opened(root).read(0)
    expect_error(opened, root, rf"file-000.parquet episode 1: expected {key} .* in frame 2", index=1)


def test_done_before_the_last_frame_is_an_error_that_names_the_flag(tmp_path, opened):
    def early(episode, table):
        return table | {"next.done": np.ones(len(table["index"]), bool)}

    root = sets.write_set(tmp_path / "set", LENGTHS, change=early)
    expect_error(opened, root, "--source.done=ignored")
    assert not opened(root, done="ignored").read(0).terminated


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.slice(1), "expected episodes 0 to 2"),
        (lambda t: pa.concat_tables([t, t.slice(0, 1)]), "expected episodes 0 to 2"),
        (lambda t: t.set_column(2, "length", pa.array([5, 7, 5])), "episode 2: expected frames"),
        (lambda t: t.set_column(5, "dataset_from_index", pa.array([0, 6, 12])), "episode 1: expected frames"),
        (lambda t: t.drop_columns(["length"]), "expected a column length"),
        (lambda t: t.set_column(2, "length", pa.array(["5", "7", "6"])), "length: expected int64, got string"),
    ],
)
def test_episode_metadata_that_does_not_add_up_is_an_error(tmp_path, opened, change, words):
    root = sets.write_set(tmp_path / "set", LENGTHS)
    sets.edit_rows(root, sets.EPISODES, change)
    expect_error(opened, root, words)


@pytest.mark.parametrize(
    ("info", "words"),
    [
        ({"codebase_version": "v2.1"}, "convert_dataset_v21_to_v30"),
        ({"total_frames": 17}, "total_frames 18, got 17"),
        ({"total_episodes": 4}, "expected episodes 0 to 3"),
        ({"fps": 0}, "fps above 0"),
        ({"features": {}}, "feature 'action'"),
        ({"data_path": "data/{chunk_index.__class__}"}, "expected a path of"),
        ({"data_path": "data/{0}"}, "expected a path of"),
        ({"data_path": 3}, "expected data_path"),
    ],
)
def test_an_info_that_cannot_be_true_is_refused(tmp_path, opened, info, words):
    expect_error(opened, sets.write_set(tmp_path / "set", LENGTHS, info=info), words)


@pytest.mark.parametrize("template", ["../{chunk_index}/x.parquet", "/etc/{file_index}"])
def test_no_path_template_leaves_the_set(tmp_path, opened, template):
    root = sets.write_set(tmp_path / "set", LENGTHS, info={"data_path": template})
    with pytest.raises(untrusted.Refused):
        opened(root)


def test_missing_and_truncated_files_are_named_and_cost_only_their_episodes(tmp_path, opened):
    # mutation: let the survey stop at the first unreadable file
    root = sets.write_set(tmp_path / "set", LENGTHS, camera="video")
    (root / sets.DATA.format(1)).write_bytes(b"PAR1")
    assert len(opened(root).read(0)) == 5
    expect_error(opened, root, "file-001.parquet: expected a readable file", index=2)
    (root / sets.VIDEO.format(0)).unlink()
    expect_error(opened, root, "file-000.mp4: expected a video, got none")


def test_rows_that_are_missing_from_a_file_are_noticed_before_reading(tmp_path, opened):
    root = sets.write_set(tmp_path / "set", LENGTHS)
    sets.edit_rows(root, sets.DATA.format(0), lambda table: table.slice(1))
    expect_error(opened, root, r"file-000.parquet: expected 12 rows as meta/ says, got 11")


def test_a_row_group_that_claims_more_than_may_be_decoded_is_refused(tmp_path, opened, monkeypatch):
    root = sets.write_set(tmp_path / "set", LENGTHS)
    monkeypatch.setattr(parquet_rows, "LARGEST_BATCH", 10)
    expect_error(opened, root, "write the set with smaller row groups")


def test_ragged_rows_are_refused_even_where_their_sum_is_right(tmp_path, opened):
    root = sets.write_set(tmp_path / "set", LENGTHS)

    def ragged(table):
        rows = table["action"].to_pylist()
        rows[0], rows[1] = rows[0][:1], rows[1] + rows[0][1:]
        return table.set_column(table.schema.get_field_index("action"), "action", pa.array(rows))

    sets.edit_rows(root, sets.DATA.format(0), ragged)
    expect_error(opened, root, "action: expected 2 numbers in every row")


@pytest.mark.parametrize(("lost", "episode"), [(2, 0), (4, 0), (11, 1)])
def test_a_video_that_lacks_a_frame_is_an_error(tmp_path, opened, lost, episode):
    # mutation: take whatever frame comes next
    root = sets.write_set(tmp_path / "set", LENGTHS, camera="video")
    ticks = [tick for tick in range(12) if tick != lost]
    sets.encode(root / sets.VIDEO.format(0), [sets.picture(0, tick) for tick in ticks], ticks)
    expect_error(opened, root, r"file-000.mp4: expected frame", index=episode)


def test_videos_of_another_size_or_format_are_refused(tmp_path, opened):
    root = sets.write_set(tmp_path / "set", LENGTHS, camera="video")
    sets.encode(root / sets.VIDEO.format(0), [np.zeros((64, 64, 3), np.uint8)] * 12)
    expect_error(opened, root, "expected 32 x 48 pixels")
    (root / sets.VIDEO.format(0)).write_bytes(b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")
    expect_error(opened, root, "expected a readable video")


def test_images_of_another_size_are_refused_before_they_are_decoded(tmp_path, opened):
    root = sets.write_set(tmp_path / "set", LENGTHS, camera="image")
    big = [{"bytes": sets.png(np.zeros((8, 8, 3), np.uint8)), "path": ""}] * 12

    def swapped(table):
        return table.set_column(
            table.schema.get_field_index("observation.images.top"), "observation.images.top", pa.array(big)
        )

    sets.edit_rows(root, sets.DATA.format(0), swapped)
    expect_error(opened, root, "expected 32 x 48 pixels, got 8 x 8")


def test_texts_where_numbers_should_be_are_refused_by_their_type(tmp_path, opened):
    # mutation: decode first, look at the type afterwards
    root = sets.write_set(tmp_path / "set", LENGTHS)
    words = pa.array(["x" * 1000] * 12)
    sets.edit_rows(
        root, sets.DATA.format(0), lambda t: t.set_column(t.schema.get_field_index("action"), "action", words)
    )
    expect_error(opened, root, "action: expected float32, got string")


def test_cameras_whose_short_names_clash_keep_their_long_ones(tmp_path, opened):
    # mutation: let one camera hide the other
    root = sets.write_set(tmp_path / "set", LENGTHS, camera="image")
    about = json.loads((root / "meta/info.json").read_text())["features"]
    top = about["observation.images.top"]
    sets.edit_info(root, features=about | {"observation.top": top})
    for number in range(2):
        file = sets.DATA.format(number)
        sets.edit_rows(root, file, lambda t: t.append_column("observation.top", t["observation.images.top"]))
    episode = opened(root).read(0)
    assert sorted(episode.images) == ["observation.images.top", "observation.top"]


def test_an_unknown_task_is_an_error(tmp_path, opened):
    root = sets.write_set(tmp_path / "set", LENGTHS)
    sets.edit_rows(root, "meta/tasks.parquet", lambda table: table.slice(1))
    expect_error(opened, root, "got task_index 0")


def test_only_folders_with_an_info_are_recognised(tmp_path):
    assert not lerobot_converter.recognises(tmp_path) and not lerobot_converter.recognises(tmp_path / "none")
    assert lerobot_converter.recognises(sets.write_set(tmp_path / "set"))


def spy(function, calls):
    def called(*args):
        calls.append(args)
        return function(*args)

    return called
