"""Store -> LeRobotDataset v3.0: LeRobot loads it and trains on it, and what v3.0 can hold comes back bit for bit."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest
from recorded import assert_same, make_decision, make_episode, make_spec

from robot_value.convert import ConversionError
from robot_value.datasets import lerobot_converter, lerobot_exporter
from robot_value.episodes import EpisodeStore
from robot_value.types import Camera

H, W, FPS = 32, 48, 20
LENGTHS = (9, 12)


@pytest.fixture(scope="module")
def lerobot_dataset(tmp_path_factory):
    """LeRobot's class; its cache stays inside the test. The import alone takes seconds."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    import datasets

    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("cache")
    return LeRobotDataset


def smooth(seed: int, steps: int) -> np.ndarray:
    """uint8[T, h, w, 3], a picture that moves slowly: what a codec is made for."""
    t, y, x = np.mgrid[:steps, :H, :W]
    waves = [np.sin((x + 2 * t + seed) / 18), np.cos((y + t) / 16), np.sin((x + y - t) / 25)]
    return np.stack([127 + 100 * wave for wave in waves], -1).astype(np.uint8)


def episodes(cameras: tuple[str, ...] = ("top",)):
    spec = replace(make_spec(), cameras=tuple(Camera(name, H, W) for name in cameras))
    for i, steps in enumerate(LENGTHS):
        images = {name: smooth(10 * i + k, steps) for k, name in enumerate(cameras)}
        made = make_episode(make_spec(), steps, seed=i, final_observed=False, terminated=i == 0, success=i == 0)
        yield replace(made, spec=spec, images=images)


def export(folder, made, **flags):
    """(path, what was left out)"""
    made = list(made)
    with EpisodeStore.create(folder / "store", made[0].spec) as store:
        for episode in made:
            store.append(episode)
        left_out = lerobot_exporter.Config(**flags).build().export(store, folder / "set", progress=False)
    return folder / "set", left_out


def back(path):
    source = lerobot_converter.Config().build(path)
    try:
        return [source.read(i) for i in range(len(source.survey.keys))]
    finally:
        source.close()


@pytest.fixture(scope="module")
def lossless(tmp_path_factory, lerobot_dataset):
    return export(tmp_path_factory.mktemp("lossless"), episodes(("top", "wrist")))


@pytest.fixture(scope="module")
def filmed(tmp_path_factory, lerobot_dataset):
    return export(tmp_path_factory.mktemp("filmed"), episodes(), use_videos=True)


def test_what_v3_can_hold_comes_back_bit_for_bit(lossless):
    # mutation: drop a row / write float16 / swap terminated and truncated / lose the Spec
    for before, after in zip(episodes(("top", "wrist")), back(lossless[0]), strict=True):
        assert_same(after, before)


def test_objects_that_stand_apart_are_a_feature_of_their_own_and_come_back_behind_the_robot(tmp_path, lerobot_dataset):
    # mutation: split one number later / the two parts swapped
    path, _ = export(tmp_path, episodes(()), objects_from="s1")
    rows, made = lerobot_dataset("local/set", root=path).hf_dataset.with_format("numpy"), list(episodes(()))
    states = np.concatenate([episode.states for episode in made])
    np.testing.assert_array_equal(np.reshape(rows["observation.state"], (-1, 1)), states[:, :1])
    np.testing.assert_array_equal(rows["observation.environment_state"], states[:, 1:])
    for before, after in zip(made, back(path), strict=True):
        assert_same(after, before)


@pytest.mark.parametrize("name", ["s0", "cube"])
def test_objects_that_begin_nowhere_or_leave_nothing_to_the_robot_are_refused(name, tmp_path):
    # mutation: take whatever name there is
    with pytest.raises(ConversionError, match=f"one of s1, s2; got '{name}'"):
        export(tmp_path, episodes(()), objects_from=name)


def test_video_comes_back_within_a_stated_error_and_as_lerobot_decodes_it(filmed, lerobot_dataset):
    # mutation: shift the frames by one / swap two channels
    dataset = lerobot_dataset("local/set", root=filmed[0], video_backend="pyav")
    seen = iter(dataset[i]["observation.images.top"] for i in range(len(dataset)))
    for before, after in zip(episodes(), back(filmed[0]), strict=True):
        error = np.abs(after.images["top"].astype(int) - before.images["top"])
        assert error.mean() < 3
        theirs = np.stack([next(seen).numpy() for _ in range(len(after))])
        np.testing.assert_array_equal(np.rint(255 * theirs).astype(np.uint8).transpose(0, 2, 3, 1), after.images["top"])
        assert_same(replace(after, images={}, spec=make_spec()), replace(before, images={}, spec=make_spec()))


def test_lerobot_loads_windows_of_it_and_a_policy_of_its_own_trains_on_them(lossless, lerobot_dataset):
    import torch
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
    from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
    from lerobot.policies.factory import make_pre_post_processors

    torch.manual_seed(0)
    shown = ["observation.state", "observation.images.top"]
    deltas = {"action": [i / FPS for i in range(-1, 7)]} | {key: [-1 / FPS, 0.0] for key in shown}
    dataset = lerobot_dataset("local/set", root=lossless[0], delta_timestamps=deltas, video_backend="pyav")
    assert (dataset.num_frames, dataset.num_episodes) == (sum(LENGTHS), 2)
    inputs = {"observation.state": PolicyFeature(FeatureType.STATE, (3,))}
    inputs |= {"observation.images.top": PolicyFeature(FeatureType.VISUAL, (3, H, W))}
    config = DiffusionConfig(
        input_features=inputs,
        output_features={"action": PolicyFeature(FeatureType.ACTION, (3,))},
        horizon=8,
        n_action_steps=4,
        pretrained_backbone_weights=None,
        crop_shape=None,
        down_dims=(16, 32),
        device="cpu",
        push_to_hub=False,
    )
    policy, (before, _) = DiffusionPolicy(config), make_pre_post_processors(config, dataset_stats=dataset.meta.stats)
    optimizer = torch.optim.Adam(policy.parameters(), 1e-3)
    batches = torch.utils.data.DataLoader(dataset, batch_size=8, drop_last=True)
    start = [parameter.clone() for parameter in policy.parameters()]
    for batch in batches:
        assert set(batch["task"]) <= {"task 0", "task 1"} and batch["next.reward"].shape == (8,)
        loss, _ = policy.forward(before(batch))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert torch.isfinite(loss)
    assert any(not torch.equal(a, b) for a, b in zip(start, policy.parameters(), strict=True))


def test_what_has_no_place_is_told_episode_by_episode(tmp_path, lerobot_dataset):
    # mutation: forget one kind
    spec = make_spec()
    full = make_episode(spec, 4, provenance={"seed": 3}, decisions=2, commanded=np.zeros((4, 3), np.float32))
    full = replace(full, source=np.ones(4, np.uint8), decisions=(make_decision(np.random.default_rng(0), 2),))
    unknown = make_episode(spec, 4, seed=1, final_observed=False, success=None)
    said = " | ".join(export(tmp_path, [full, unknown])[1])
    for what in ("observation after the last", "commanded", "source", "decisions", "provenance", "success is unknown"):
        assert f"{what}" in said
    assert said.count("in 1 episodes") == 6 and "lossy" not in said
    assert [episode.success for episode in back(tmp_path / "set")] == [True, False]


def test_success_that_nobody_knows_stays_unknown(tmp_path, lerobot_dataset):
    # mutation: always write next.success
    made = [make_episode(make_spec(), 3, final_observed=False, success=None, task="")]
    path, _ = export(tmp_path, made)
    assert_same(back(path)[0], made[0])


def test_an_export_that_fails_leaves_nothing(tmp_path, lerobot_dataset, monkeypatch):
    # mutation: write into the final path
    plain, reads = EpisodeStore.read, []

    def fail_at_second(self, name):
        reads.append(name)
        if len(reads) == 2:
            raise OSError("disk full")
        return plain(self, name)

    monkeypatch.setattr(EpisodeStore, "read", fail_at_second)
    with pytest.raises(OSError, match="disk full"):
        export(tmp_path, episodes(()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


def test_existing_paths_empty_stores_and_odd_rates_are_refused(tmp_path):
    spec = make_spec()
    exporter = lerobot_exporter.Config().build()
    with EpisodeStore.create(tmp_path / "store", spec) as store:
        with pytest.raises(ConversionError, match="expected episodes, got none"):
            exporter.export(store, tmp_path / "set", progress=False)
        store.append(make_episode(spec))
        with pytest.raises(ConversionError, match="expected a new path"):
            exporter.export(store, tmp_path, progress=False)
    with pytest.raises(ConversionError, match="whole number of steps/s"):
        export(tmp_path / "odd", [make_episode(replace(spec, dt=0.4))])
