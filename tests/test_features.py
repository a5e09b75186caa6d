"""A frozen policy's features beside the episodes: computed once per frame, bound to what they are of, trained on."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from learning_fakes import spec, statistics
from recorded import make_episode

from robot_value import cli
from robot_value.critics import iql, qc
from robot_value.critics.regularizers import RegularizerConfig
from robot_value.episodes.cache import open_cache
from robot_value.episodes.errors import StoreError
from robot_value.episodes.manifest import MANIFEST, Manifest, read_files, read_manifest
from robot_value.episodes.store import EpisodeStore
from robot_value.features.cached import RecordedEyes, find, read_features
from robot_value.features.encoding import FEATURES
from robot_value.features.run import encode_store, observations
from robot_value.fit import Job, Windowing, fit, make_learner
from robot_value.labels.root import LabelsDamaged, names
from robot_value.labels.store import LabelStore, verify
from robot_value.mixing import MixedSampler
from robot_value.networks.observation import EncoderConfig
from robot_value.networks.packed import packable
from robot_value.policies import flow, mild, one_step
from robot_value.sampling import ChunkSampler
from robot_value.training import TrainConfig, load_model
from robot_value.types import Seen

SPEC = spec(horizon=3, n_obs_steps=2, state=2)


@dataclass
class Looker(torch.nn.Module):
    """A policy whose features tell what it was shown: the newest state and the sum over the history."""

    spec: object = SPEC
    version: str = "lerobot looker 0123456789ab"
    tokens: int = 0  # width; then as many tokens are there as the task has letters
    scale: float = 1.0
    shown: list[int] = field(default_factory=list)  # frames per call

    def __post_init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    __hash__ = torch.nn.Module.__hash__

    @property
    def widths(self):
        return 4, self.tokens

    def encoder(self, observation):
        self.shown.append(len(observation.state))
        state = self.scale * observation.state
        vector = torch.cat([state[:, -1], state.sum(1)], 1)
        if not self.tokens:
            return vector
        length = torch.tensor([len(observation.tasks[i]) for i in observation.task.tolist()])
        mask = torch.arange(int(length.max()) + 2) < length[:, None]  # two that are nowhere there
        return Seen(vector, vector[:, :1, None].expand(-1, mask.shape[1], self.tokens).contiguous(), mask)


class Dies(Looker):
    """At the fourth batch."""

    def encoder(self, observation):
        if len(self.shown) == 3:
            raise KeyboardInterrupt
        return super().encoder(observation)


def episode(start: float = 0.0, steps: int = 5, task: str = "lift", final_observed: bool = True, s=SPEC):
    """Frame i has the state (start + i, 100): its features say which frame it is."""
    states = np.stack([start + np.arange(steps + final_observed), np.full(steps + final_observed, 100.0)], 1)
    changes = {"states": states.astype(np.float32), "task": task}
    return make_episode(s, steps, seed=int(start), final_observed=final_observed, **changes)


@pytest.fixture
def store(tmp_path):
    """Three episodes of frames 0..5, 10..17 and, without a final one, 20..22."""
    with EpisodeStore.create(tmp_path / "data", SPEC.choose(horizon=0, n_obs_steps=0)) as made:
        for each in (episode(), episode(10, 7, "push"), episode(20, 3, "go", final_observed=False)):
            made.append(each)
    return EpisodeStore.open(tmp_path / "data")


def encode(store, policy, **options):
    return encode_store(store, policy, progress=False, **options)


def read(store, policy, pooling="mean"):
    return read_features(store, find(store, policy.version, pooling), open_cache(store, progress=False))


# What is written ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_every_frame_is_seen_once_with_the_history_that_ends_in_it(store, batch_size):
    # mutation: history newest first; the last frame of an episode left out; history across episodes
    policy = Looker()
    done = encode(store, policy, batch_size=batch_size)
    assert sum(policy.shown) == done.frames == 6 + 8 + 3 and max(policy.shown) <= batch_size
    found = read(store, policy).frames
    numbers = np.concatenate([np.arange(6), 10 + np.arange(8), 20 + np.arange(3)]).astype(np.float32)
    before = np.maximum(numbers - 1, np.repeat([0, 10, 20], [6, 8, 3]))
    expected = [numbers, 0 * numbers + 100, numbers + before, 0 * numbers + 200]
    np.testing.assert_array_equal(found.vector, np.stack(expected, 1))
    assert found.tokens.shape == (17, 0, 0) and found.mask.shape == (17, 0)


def test_a_second_run_encodes_what_was_appended_and_what_is_not_of_its_episode_any_more(store):
    # mutation: parent written and never compared; all computed again
    policy = Looker()
    encode(store, policy)
    with EpisodeStore.open(store.path, "a") as more:
        name = more.append(episode(30, 4))
    policy.shown.clear()
    done = encode(store, policy)
    assert (done.frames, done.episodes, done.there) == (5, 1, 3) and sum(policy.shown) == 5
    first = store.names()[0]
    folder = store.path / "features" / find(store, policy.version, "mean")
    (folder / name).rename(folder / "aside")  # the features of another episode in the place of the first one's
    (folder / first).rename(folder / name)
    (folder / "aside").rename(folder / first)
    assert "of parent" in str(verify(store, FEATURES)[0])
    with pytest.raises(LabelsDamaged, match=r"damaged features .*run `robot-value data features` again"):
        read(store, policy)
    assert encode(store, policy).episodes == 2 and verify(store, FEATURES) == []
    assert read(store, policy).frames.vector[:3, 0].tolist() == [0, 1, 2] and encode(store, policy).frames == 0


def test_a_run_that_was_ended_is_gone_on_with_and_leaves_no_half_episode(store):
    with pytest.raises(KeyboardInterrupt):
        encode(store, Dies(), batch_size=4)  # 4 and 2 frames of the first episode, 4 of the second
    policy = Looker()
    with pytest.raises(StoreError, match="expected all 3 episodes, got none for 2"):
        read(store, policy)
    assert verify(store, FEATURES) == [] and encode(store, policy).episodes == 2
    assert read(store, policy).frames.vector[:, 0].tolist() == [*range(6), *range(10, 18), *range(20, 23)]


def test_other_weights_another_spec_pooling_or_dtype_lie_apart(store):
    # mutation: the dtype, or the Spec, is no part of the key
    plain, talking = Looker(), Looker(tokens=3)
    for policy, options in (
        (plain, {}),
        (plain, {"dtype": "float16"}),
        (talking, {"pooling": "query"}),
        (replace(plain, version="lerobot looker other"), {}),
        (replace(plain, spec=SPEC.choose(horizon=2)), {}),
    ):
        assert encode(store, policy, **options).episodes == 3
    assert len(names(store, FEATURES)) == 5 and all(name.startswith("looker-") for name in names(store, FEATURES))
    assert find(store, "lerobot looker none", "mean") is None
    assert find(store, plain.version, "query") is not None


def test_float32_is_taken_before_float16_where_it_is_there_for_all_episodes(store):
    # mutation: float32 that a run left unfinished hides float16 that is whole
    policy = Looker(scale=0.1)
    encode(store, policy, dtype="float16")
    halves = read(store, policy)
    with pytest.raises(KeyboardInterrupt):
        encode(store, Dies(scale=0.1), batch_size=4)
    assert read(store, policy).hash == halves.hash and len(names(store, FEATURES)) == 2
    encode(store, policy)
    exact = read(store, policy)
    assert (halves.frames.vector.dtype, exact.frames.vector.dtype) == (np.float16, np.float32)
    assert exact.hash != halves.hash


@pytest.mark.parametrize("scale", [1e-3, 0.1, 7.7])
def test_float16_keeps_three_digits_and_says_how_many(store, scale):
    # mutation: error left at 0
    policy = Looker(scale=scale)
    done = encode(store, policy, dtype="float16")
    kept = read(store, policy).at(torch.arange(17))
    encode(store, policy)
    exact = read(store, policy).at(torch.arange(17))
    relative = ((kept.vector - exact.vector).abs().amax(1) / exact.vector.abs().amax(1)).max()
    assert kept.vector.dtype == torch.float32 and done.error == pytest.approx(float(relative), rel=1e-4)
    assert 0 < done.error <= 2**-11 and f"{done.error:.1g}" in done.to_text()


def test_numbers_too_large_for_float16_are_refused_and_nothing_is_written(store):
    with pytest.raises(ValueError, match=r"vector: expected finite numbers.*float16, try float32"):
        encode(store, Looker(scale=1e3), dtype="float16")
    with pytest.raises(StoreError, match="got none for 3"):
        read(store, Looker())


def test_what_cannot_be_is_refused_before_anything_is_written(store, tmp_path):
    # mutation: refuse at the first frame, and leave a name without episodes, which training then finds
    for options, message in (
        ({"pooling": "max"}, "pooling: expected mean or query, got 'max'"),
        ({"dtype": "int8"}, "dtype: expected float32 or float16, got 'int8'"),
        ({"pooling": "query"}, "expected a policy that gives tokens"),
    ):
        with pytest.raises(ValueError, match=message):
            encode(store, Looker(), **options)
    with pytest.raises(ValueError, match=r"the store does not match: state_names"):
        encode(store, Looker(spec=spec(state=3)))
    assert names(store, FEATURES) == []
    with EpisodeStore.create(tmp_path / "empty", store.spec) as empty, pytest.raises(StoreError, match="no episodes"):
        encode(empty, Looker())
    assert cli.main(["data", "features", str(store.path)]) == 2


@pytest.mark.parametrize(
    ("version", "family"),
    [
        ("lerobot smolvla 0123", "smolvla"),
        ("my.own.policy 0123", "my_own_policy"),
        (f"{'a' * 20}.{'b' * 47} 0123", "b" * 47),  # cut at the dot
        ("", "policy"),
    ],
)
def test_every_version_has_a_name_that_a_folder_may_have(store, version, family):
    # mutation: a name that begins with the dot of a third party's module
    assert encode(store, Looker(version=version)).name.rpartition("-")[0] == family


def test_a_shape_that_is_not_the_arrays_is_damage(store):
    # mutation: memory is laid out by what zarr.json says
    policy = Looker()
    encode(store, policy)
    folder = store.path / "features" / find(store, policy.version, "mean") / store.names()[0]
    manifest = read_manifest(folder)
    files = read_files(folder, manifest)
    group = json.loads(files["zarr.json"])
    group["attributes"]["shape"][0] += 5
    files["zarr.json"] = json.dumps(group).encode()
    files[MANIFEST] = Manifest.of(files, manifest.steps, manifest.frames).to_bytes()
    for name in ("zarr.json", MANIFEST):
        (folder / name).write_bytes(files[name])
    (problem,) = verify(store, FEATURES)
    assert "shape: expected [4, 0, 0], as the arrays are, got [9, 0, 0]" in str(problem)


def test_a_flipped_byte_is_found_before_it_is_trained_on(store):
    policy = Looker()
    encode(store, policy)
    chunk = next(path for path in (store.path / "features").rglob("c/*/*") if path.is_file())
    content = bytearray(chunk.read_bytes())
    content[-1] ^= 1
    chunk.write_bytes(content)
    assert len(verify(store, FEATURES)) == 1
    with pytest.raises(LabelsDamaged, match=r"damaged features features/looker-"):
        read(store, policy)
    assert cli.main(["data", "verify", str(store.path)]) == 1


def test_only_a_writer_takes_features_back(store):
    policy = Looker()
    encode(store, policy)
    reading = LabelStore.open(store, find(store, policy.version, "mean"), FEATURES)
    with pytest.raises(StoreError, match=r"features 'looker-.* are open for reading"):
        reading.discard(store.names()[0])
    assert len(reading.episodes()) == 3


# Tokens -------------------------------------------------------------------------------------------------------------


def test_tokens_are_kept_as_far_as_one_is_there_and_padded_to_the_longest_episode(store):
    # mutation: the mask is not stored; tokens of one episode in the rows of another
    policy = Looker(tokens=3)
    encode(store, policy, pooling="query")
    found = read(store, policy, "query")
    assert found.frames.tokens.shape == (17, 4, 3)  # "lift" and "push" have four letters, "go" two
    assert found.frames.mask.sum(1).tolist() == [4] * 14 + [2] * 3
    seen = found.at(torch.tensor([16, 0, 12]))
    assert seen.tokens[:, 0, 0].tolist() == [22, 0, 16] and (seen.tokens[0, 2:] == 0).all()
    assert RecordedEyes(found).widths == (4, 3)


def test_the_mean_of_the_tokens_that_are_there_is_one_vector(store):
    policy = Looker(tokens=3)
    encode(store, policy)
    found = read(store, policy).frames
    assert found.vector.shape == (17, 7)
    np.testing.assert_allclose(found.vector[:, 4:], np.repeat(found.vector[:, :1], 3, 1), rtol=1e-6)


# Windows ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_obs_steps", [1, 2])
def test_a_window_brings_the_features_of_its_newest_frame_now_and_at_every_offset(store, n_obs_steps):
    # mutation: the oldest frame's; rows of the actions; the offset's history from the window's start
    policy = Looker(spec=SPEC.choose(n_obs_steps=n_obs_steps))
    encode(store, policy)
    cache = replace(open_cache(store, progress=False), images={})
    options = {"horizon": 3, "n_obs_steps": n_obs_steps, "offsets": (1, 3, 6), "batch_size": 16}
    sampler = ChunkSampler(cache, **options, features=read(store, policy))
    for _ in range(8):
        batch = sampler.sample()
        for observation in (batch.observation, *batch.next.values()):
            newest = observation.state[:, -1]
            assert torch.equal(observation.seen.vector, torch.cat([newest, observation.state.sum(1)], 1))
    halves = [ChunkSampler(cache, **options, features=read(store, policy), share=(i, 2)) for i in range(2)]
    whole = ChunkSampler(cache, **options, features=read(store, policy)).sample()
    parts = [half.sample().next[6].seen.vector for half in halves]
    assert torch.equal(torch.cat(parts), whole.next[6].seen.vector)


def test_a_run_goes_on_with_the_same_features_only(store):
    policy = Looker()
    encode(store, policy)
    cache, options = open_cache(store, progress=False), {"horizon": 3, "n_obs_steps": 2}
    state = ChunkSampler(cache, **options, features=read(store, policy)).state()
    ChunkSampler(cache, **options, features=read(store, policy)).load_state(state)
    with pytest.raises(ValueError, match=r"sampler state: expected .* features that the run began with"):
        ChunkSampler(cache, **options).load_state(state)


def test_mixed_batches_pad_tokens_and_refuse_sources_without(store, tmp_path):
    # mutation: padding tokens are there
    policy = Looker(tokens=3)
    encode(store, policy, pooling="query")
    with EpisodeStore.create(tmp_path / "other", store.spec) as other:
        other.append(episode(50, 6, "a longer task"))
    other = EpisodeStore.open(tmp_path / "other")
    encode(other, policy, pooling="query")
    make = {"horizon": 3, "n_obs_steps": 2, "batch_size": 8}
    sources = [
        ChunkSampler(open_cache(each, progress=False), **make, features=read(each, policy, "query"))
        for each in (store, other)
    ]
    batch = MixedSampler([(source, 0.5) for source in sources]).sample()
    seen = batch.next[3].seen
    assert seen.tokens.shape == (8, 13, 3) and seen.mask[:4].sum(1).max() <= 4 and seen.mask[4:].all()
    assert torch.equal(seen.tokens[:, 0, 0], seen.vector[:, 0])
    blind = ChunkSampler(open_cache(other, progress=False), **make)
    for pair in ((sources[0], blind), (blind, sources[0])):
        with pytest.raises(ValueError, match="features from all sources or from none"):
            MixedSampler([(source, 0.5) for source in pair]).sample()


# Training -----------------------------------------------------------------------------------------------------------


QUIET = TrainConfig("", 6, 16, seed=1, validate_every=3, validation_fraction=0.34, progress=False, tensorboard=False)
WINDOWS = Windowing(horizon=3, n_obs_steps=2)
EYES = EncoderConfig(source="policy", projection=(8,))
CRITIC = iql.Config(members=2, hidden=(16,), encoder=EYES)
AHEAD = replace(CRITIC, regularizer=RegularizerConfig(co_adaptation=0.1, orthogonal=0.5))  # looks at the next chunk
FLOW = flow.Config(width=16, depth=1, sample_steps=2)


@pytest.fixture
def base(store, tmp_path):
    """A policy of ours that sees the state: what it makes of a frame does not depend on the batch, to the bit."""
    return str(fit(Job(str(store.path), FLOW, replace(QUIET, folder=str(tmp_path / "base")), WINDOWS)))


def trained(store, base, folder, critic=CRITIC, **windows):
    job = Job(str(store.path), critic, replace(QUIET, folder=str(folder)), replace(WINDOWS, **windows), base=base)
    return load_model(fit(job)).state_dict()


@pytest.mark.parametrize(
    ("labels", "critic"), [("", CRITIC), ("minus_one", CRITIC), ("", AHEAD)], ids=["plain", "labels", "penalties"]
)
def test_a_critic_trained_on_what_was_written_is_the_same_to_the_bit(store, base, tmp_path, capsys, labels, critic):
    # mutation: features of the next observation from now's frame; validation without features; penalties ask for chunks
    if labels:
        assert cli.main(["data", "label", str(store.path), f"--labeler.type={labels}", "--progress=false"]) == 0
    looking = trained(store, base, tmp_path / "looking", critic, labels=labels)
    assert f"once: robot-value data features {store.path} --policy={base} --pooling=mean" in capsys.readouterr().err
    command = ["data", "features", str(store.path), f"--policy={base}", "--progress=false", "--device=cpu"]
    assert cli.main(command) == 0 and "--critic.encoder.source=policy" in capsys.readouterr().out
    remembering = trained(store, base, tmp_path / "remembering", critic, labels=labels)
    said = capsys.readouterr().err
    assert "17 frames are read from flow-" in said and "it is not run" in said
    assert looking.keys() == remembering.keys()
    assert all(torch.equal(looking[name], remembering[name]) for name in looking)


def test_training_on_what_was_written_never_runs_the_policy(store, base, tmp_path, monkeypatch):
    # mutation: RecordedEyes asks the policy
    encode(store, load_model(base))
    calls = []
    monkeypatch.setattr("robot_value.networks.observation.ObservationEncoder.forward", lambda *_: calls.append(1))
    trained(store, base, tmp_path / "critic")
    assert not calls


def test_a_pool_is_refused_with_features_and_missing_ones_say_how_to_make_them(store, base, tmp_path):
    encode(store, load_model(base))
    with pytest.raises(ValueError, match="pool_bytes: expected 0 with a policy's features"):
        trained(store, base, tmp_path / "a", pool_bytes=1 << 20)
    with EpisodeStore.open(store.path, "a") as more:
        more.append(episode(30, 4))
    with pytest.raises(StoreError, match=r"got none for 1 .*run `robot-value data features` again"):
        trained(store, base, tmp_path / "b")


def test_eyes_that_only_remember_say_so(store):
    policy = Looker()
    encode(store, policy)
    with pytest.raises(AttributeError, match="expected the policy itself, got what it saw"):
        RecordedEyes(read(store, policy)).sample  # noqa: B018


@pytest.mark.parametrize("page", [one_step, mild])
def test_an_actor_lends_its_eyes_as_recorded_and_its_chunks_itself(store, monkeypatch, page):
    # mutation: attach what stands behind the eyes; no version of the actor in the backup; pack nothing of it
    actor = page.Config(FLOW, width=16, depth=1).build(SPEC, statistics(SPEC))
    actor.version = "actor 0123456789ab"
    encode(store, actor)
    monkeypatch.setattr("robot_value.fit.load_policy", lambda *_: actor)
    critic = qc.Config(members=2, hidden=(16,), candidates=2, encoder=EYES)
    made = Job(str(store.path), critic, QUIET, WINDOWS, base="actor"), SPEC, statistics(SPEC), (), torch.device("cpu")
    live = make_learner(*made).model.policy
    recorded = make_learner(*made, RecordedEyes(read(store, actor))).model.policy
    assert isinstance(recorded, RecordedEyes) and recorded.sample.__self__ == live == actor.target_policy
    assert recorded.version == live.version == actor.version
    assert packable(recorded) == packable(live) == packable(actor) != []


def test_a_policy_trained_in_the_same_run_lends_no_eyes(store, base, tmp_path):
    # mutation: "expected a policy that stands on a cached one"
    encode(store, load_model(base))
    job = Job(str(store.path), CRITIC, replace(QUIET, folder=str(tmp_path / "both")), WINDOWS, base=base)
    with pytest.raises(ValueError, match="expected a critic that is trained alone"):
        fit(replace(job, policy=one_step.Config(FLOW)))


def test_observations_of_an_episode_are_those_of_its_windows(store):
    frames = list(observations(store.read(store.names()[0]), 3, 4))
    states = torch.cat([each.state[..., 0] for each in frames])
    assert states.tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5]]
    assert [each.tasks for each in frames] == [("lift",)] * 2
