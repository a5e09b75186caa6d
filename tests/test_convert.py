"""The driver of every conversion: whole or not at all, resumable, bad episodes named, nothing assumed silently."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from recorded import assert_same, make_episode, make_spec

from robot_value import components
from robot_value.convert import ConversionError, Survey, convert, identity_of, keys_in, recognise, spec_from
from robot_value.episodes import EpisodeStore
from robot_value.types import Episode


class Tape:
    """Five episodes, some of which may be broken."""

    def __init__(self, identity: str = "tape", broken: tuple[int, ...] = (), stop_at: int | None = None) -> None:
        keys = tuple(f"demo_{i}" for i in range(5))
        self.survey = Survey("tape", make_spec(), keys, (7,) * 5, identity, ("dt is 0.05 s; --source.hz",), ("sound",))
        self.broken, self.stop_at, self.asked = broken, stop_at, []

    def read(self, index: int) -> Episode:
        self.asked.append(index)
        if index == self.stop_at:
            raise KeyboardInterrupt
        if index in self.broken:
            raise ConversionError(f"tape.bin, {self.survey.keys[index]}: expected 7 rows, got 3")
        return make_episode(self.survey.spec, seed=index)

    def close(self) -> None:
        pass


@pytest.fixture
def store(tmp_path):
    with EpisodeStore.create(tmp_path / "store", make_spec()) as store:
        yield store


def test_every_episode_arrives_and_knows_where_it_came_from(store):
    done = convert(Tape(), store, progress=False)
    assert list(done.appended) == store.names() and done.there == 0 and done.skipped == ()
    for index, name in enumerate(store.names()):
        episode = store.read(name)
        origin = {"format": "tape", "identity": "tape", "key": f"demo_{index}"}
        assert episode.provenance == {"converted": origin}
        assert_same(replace(episode, provenance={}), make_episode(store.spec, seed=index))


def test_an_interrupted_conversion_goes_on_and_repeats_nothing(store):
    with pytest.raises(KeyboardInterrupt):
        convert(Tape(stop_at=3), store, progress=False)
    again = Tape()
    done = convert(again, store, progress=False)
    assert again.asked == [3, 4] and done.there == 3  # mutation: read first, look for it afterwards
    assert keys_in(store, "tape") == {f"demo_{i}" for i in range(5)} and len(store) == 5
    assert convert(Tape(), store, progress=False).appended == ()


def test_another_source_with_the_same_names_is_another_source(store):
    convert(Tape("one"), store, progress=False)
    assert len(convert(Tape("two"), store, progress=False).appended) == 5  # mutation: keys without the identity


def test_a_bad_episode_stops_or_is_left_out_and_named(store):
    with pytest.raises(ConversionError, match=r"episode demo_1: tape.bin.*1 episodes were converted, --skip_bad"):
        convert(Tape(broken=(1, 3)), store, progress=False)
    done = convert(Tape(broken=(1, 3)), store, skip_bad=True, progress=False)
    assert len(done.appended) == 2 and done.there == 1 and len(done.skipped) == 2
    assert "demo_3" in done.skipped[1]
    repaired = convert(Tape(), store, progress=False)  # the source was mended: what was left out comes now
    assert len(repaired.appended) == 2


def test_what_the_store_refuses_is_a_bad_episode(store):
    class Holes(Tape):
        def read(self, index):
            states = np.full((8, 3), np.nan, np.float32)
            return replace(super().read(index), states=states)

    with pytest.raises(ConversionError, match="demo_0: states: expected finite numbers"):
        convert(Holes(), store, progress=False)


def test_a_survey_says_what_would_happen():
    text = Tape().survey.to_text()
    assert "tape: 5 episodes, 35 steps (0.0 min at 20 Hz)" in text
    assert "assumed   dt is 0.05 s; --source.hz" in text and "left out  sound" in text
    assert "arm 0-1 (position, current) [m]  -1..1, -1..1" in text


def test_the_one_converter_that_knows_the_data_is_found(tmp_path, monkeypatch):
    for name in components.names("converters"):
        assert components.load("converters", name).recognises(tmp_path) is False
        assert components.load("converters", name).recognises(tmp_path / "missing") is False
    with pytest.raises(ConversionError, match=r"expected one known format, got none; choose --source.type of"):
        recognise(tmp_path)
    with pytest.raises(ConversionError, match="got nothing at that path"):
        recognise(tmp_path / "missing")
    for name in components.names("converters"):
        monkeypatch.setattr(components.load("converters", name), "recognises", lambda path: True)
    with pytest.raises(ConversionError, match="got more than one"):
        recognise(tmp_path)


def test_a_spec_in_a_file(tmp_path):
    import json

    assert spec_from("") is None
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(make_spec().to_json()))
    assert spec_from(str(path)) == make_spec()
    for content in ("{", '{"parts": []}', "[1]"):
        path.write_text(content)
        with pytest.raises(ConversionError, match="expected a Spec as JSON"):
            spec_from(str(path))


def test_an_identity_changes_with_metadata_and_sizes(tmp_path):
    file = tmp_path / "a.bin"
    file.write_bytes(b"123")
    first = identity_of({"fps": 20}, [file])
    assert identity_of({"fps": 20}, [Path(file)]) == first
    assert identity_of({"fps": 21}, [file]) != first
    file.write_bytes(b"1234")
    assert identity_of({"fps": 20}, [file]) != first
