"""The books of the conversion benchmark: both arms go through the same frames, and a busy machine has no verdict."""

from __future__ import annotations

import sys
from pathlib import Path

import lerobot_sets as sets
import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import bench_conversion as bench
from blocks import Arm

from robot_value.episodes import EpisodeStore

LENGTHS = (5, 7, 6)


@pytest.fixture
def timed(tmp_path, monkeypatch):
    """compare(decoder s, convert s, disturbed) -> the result, with times that are made up."""
    monkeypatch.setattr(bench, "make_set", lambda folder, episodes: sets.write_set(folder / "set", LENGTHS, "video"))

    def compare(decoder: float, convert: float, disturbed: bool = False) -> dict:
        def interleave(arms: dict[str, Arm], seconds: float, block: float) -> None:
            for name, time in {"decoder": decoder, "decoder_threads": 1.0, "convert": convert, "append": 1.0}.items():
                arms[name].run()
                (arms[name].disturbed if disturbed else arms[name].clean).extend([time] * 5)

        monkeypatch.setattr(bench, "interleave", interleave)
        folder = tmp_path / f"{decoder}-{disturbed}"
        folder.mkdir()
        return bench.compare(folder, len(LENGTHS), 0)

    return compare


def test_every_run_of_the_converters_arm_makes_a_whole_sound_store(timed, tmp_path):
    # mutation: convert one episode only / decode the first file only
    result, folder = timed(1.0, 1.0), tmp_path / "1.0-False"
    with EpisodeStore.open(folder / "store-0") as store:
        assert [len(episode) for episode in store] == list(LENGTHS) and store.verify() == []
    with EpisodeStore.open(folder / "appended-0") as store:
        assert len(store) == len(LENGTHS)
    assert result["frames"] == sum(LENGTHS) == bench.decode(folder / "set")
    assert result["frames_per_s"]["convert"] == sum(LENGTHS) and result["store_bytes"] > 0


def test_the_gate_is_the_share_of_the_decoders_speed_on_clean_blocks(timed):
    # mutation: turn the ratio around / judge what is not trusted
    assert timed(0.95, 1.0)["passed"] is True
    slow = timed(0.85, 1.0)
    assert slow["passed"] is False and slow["ratio"] == pytest.approx(0.85)
    assert timed(0.95, 1.0, disturbed=True)["passed"] is None


def test_the_scene_moves_and_is_no_noise_alone(monkeypatch):
    monkeypatch.setattr(bench, "STEPS", 3)
    frames = bench.scene(bench.make_spec(), np.random.default_rng(0)).images["front"].astype(int)
    assert 1 < np.abs(np.diff(frames, axis=0)).mean() < 60 and frames.std() > 30
