"""Critics that see through a LeRobot checkpoint's eyes: averaged or asked, live or beside the data."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from unittest import mock

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import pytest
import torch
from fakes import observation
from learning_fakes import statistics

pytest.importorskip("lerobot", reason='needs lerobot (extra "lerobot")')

import tiny_lerobot as tiny
from lerobot_cases import CASES, TASKS, checkpoint, loaded

from robot_value import cli
from robot_value.critics import hume, iql, mc
from robot_value.episodes.cache import open_cache
from robot_value.episodes.store import EpisodeStore
from robot_value.features.cached import RecordedEyes, find, read_features
from robot_value.features.encoding import FEATURES
from robot_value.features.run import encode_store, observations
from robot_value.labels.root import names
from robot_value.networks.observation import EncoderConfig
from robot_value.networks.policy_features import averaged, seen_through
from robot_value.networks.value_query import over_tokens
from robot_value.normalize import fit_statistics
from robot_value.policies import lerobot_repeat, lerobot_vla
from robot_value.sampling import ChunkSampler, to_tensors
from robot_value.steering.selectors import argmax
from robot_value.steering.steerer import Steerer
from robot_value.training import load_model
from robot_value.types import Episode

CRITIC = iql.Config(members=2, hidden=(32,), encoder=EncoderConfig(source="policy", projection=(16,)))
POOLINGS = [("smolvla", "mean"), ("smolvla", "query"), ("pi0", "query"), ("diffusion images", "mean")]

eyes = pytest.mark.parametrize(("family", "pooling"), POOLINGS)


def critic_of(policy, pooling="mean", config=CRITIC):
    torch.manual_seed(0)
    encoder = replace(config.encoder, pooling=pooling, query_width=16, query_heads=2)
    config = replace(config, encoder=seen_through(encoder, policy))
    critic = config.build(policy.spec, statistics(policy.spec), TASKS).eval()
    critic.attach(policy)
    return critic


def recorded(folder, s, steps=4, better=None, repeats=1):
    """Episodes of random frames, of two tasks in turn; `better(task, action) -> reward`."""
    rng = np.random.default_rng(0)
    with EpisodeStore.create(folder, s) as store:
        for task in TASKS[:2] * repeats:
            actions = rng.uniform(-1, 1, (steps, 2)).astype(np.float32)
            rewards = np.array([better(task, a) if better else 0 for a in actions], np.float32)
            size = (steps + 1, tiny.PIXELS, tiny.PIXELS, 3)
            pictures = {camera.name: rng.integers(0, 256, size, np.uint8) for camera in s.cameras}
            states = rng.standard_normal((steps + 1, 3)).astype(np.float32)
            store.append(Episode(store.spec, states, pictures, actions, rewards, True, False, True, task))
    return EpisodeStore.open(folder)


# What a critic sees -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["smolvla", "pi0"])
def test_the_tokens_are_what_the_last_layer_made_of_the_prefix(family):
    # mutation: the embedded prefix in their place; the mask of another row
    policy, caught = loaded(family), []
    model = policy.model.model
    if family == "smolvla":
        norm = model.vlm_with_expert.get_vlm_model().text_model.norm
    else:
        norm = model.paligemma_with_expert.paligemma.model.language_model.norm
    hook = norm.register_forward_hook(lambda _, __, out: caught.append(out[0] if isinstance(out, tuple) else out))
    context = policy.encode(observation(policy.spec, 3, task=TASKS))
    hook.remove()
    (tokens,) = caught
    seen = context.value
    assert torch.equal(seen.tokens, tokens) and seen.mask.shape == tokens.shape[:2] == context.mask.shape
    assert policy.widths == (seen.vector.shape[1], tokens.shape[2])
    assert len(set(seen.mask.sum(1).tolist())) == 3  # prompts of three lengths
    one = context.select(torch.tensor([False, True, False])).repeat(2)
    assert torch.equal(one.value.tokens, tokens[[1, 1]]) and torch.equal(one.value.mask, seen.mask[[1, 1]])
    assert context.memory(2).tokens.numel() == 0  # denoising carries none of them


def test_what_pi0_reads_in_its_action_expert_lies_beside_its_tokens():
    # mutation: Prefix.value without the state: pi0's tokens know nothing of it
    policy = loaded("pi0")
    seen = observation(policy.spec, 1, task=TASKS[:1])
    moved = policy.encode(replace(seen, state=seen.state + 0.5)).value
    still = policy.encode(seen).value
    assert torch.equal(moved.tokens, still.tokens) and not torch.equal(moved.vector, still.vector)
    assert averaged(still).shape == (1, sum(policy.widths)) and not torch.equal(averaged(moved), averaged(still))


@eyes
def test_prompts_of_other_rows_change_nothing(family, pooling):
    # mutation: the mean over padding too; attention without the mask
    policy = loaded(family)
    critic, seen = critic_of(policy, pooling), observation(policy.spec, 3, task=TASKS)
    together = critic.encode(seen, policy.encode(seen)).value
    for row in range(3):
        alone = seen.rows([row])
        assert torch.allclose(critic.encode(alone, policy.encode(alone)).value, together[[row]], atol=1e-5)


def test_the_mean_and_the_query_over_tokens_are_those_by_hand():
    # mutation: a token that is not there is averaged, or attended to
    torch.manual_seed(0)
    query, tokens = over_tokens(5, 4, 2), torch.randn(2, 3, 5)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert torch.allclose(query(tokens, mask)[0], query(tokens[:1, :2])[0], atol=1e-6)
    assert torch.allclose(query(tokens, mask)[1], query(tokens[1:])[0], atol=1e-6)
    assert not torch.allclose(query(tokens, mask)[0], query(tokens)[0], atol=1e-3)


@eyes
def test_at_decision_time_nothing_is_encoded_twice_and_the_numbers_are_those_of_training(family, pooling):
    # mutation: ChunkCritic.encode asks the policy again
    policy = loaded(family)
    critic, seen = critic_of(policy, pooling), observation(policy.spec, 2, task=TASKS[:2])
    steerer = Steerer(policy, critic, argmax.Config().build(), n=4, execute=policy.spec.horizon)
    with mock.patch.object(policy._family, "encode", wraps=policy._family.encode) as encode:
        decision = steerer(seen)
        assert encode.call_count == 1
    live = critic.features(to_tensors(seen))
    assert torch.equal(live, critic.encode(seen, policy.encode(seen)).value)
    scores = critic.score(type(critic.encode(seen, policy.encode(seen)))(live), torch.from_numpy(decision.candidates))
    np.testing.assert_allclose(decision.value, scores.value.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_a_family_that_reads_nothing_once_has_no_eyes_to_lend(tmp_path):
    # mutation: say so at the first frame, when a name without episodes is there already
    policy = loaded("diffusion images")
    store = recorded(tmp_path / "data", policy.spec, steps=1)
    policy.__dict__.pop("widths", None)
    message = "expected a policy that reads an observation once, got LeRobot's diffusion"
    with mock.patch.object(policy, "_family", lerobot_repeat):
        with pytest.raises(ValueError, match=message):
            policy.encoder(to_tensors(observation(policy.spec, 1)))
        with pytest.raises(ValueError, match=message):
            encode_store(store, policy, progress=False)
    assert names(store, FEATURES) == []


def test_a_vector_cannot_be_asked_and_another_policys_tokens_are_refused():
    with pytest.raises(ValueError, match="expected a policy that gives tokens"):
        critic_of(loaded("diffusion images"), "query")
    critic, other = critic_of(loaded("smolvla"), "query"), loaded("diffusion images")
    seen = observation(other.spec, 2)
    with pytest.raises(ValueError, match=r"policy features: expected float32\[B, P, 32\], got \[2, "):
        critic.encode(seen, other.encode(seen))


# Written beside the data ---------------------------------------------------------------------------------------------


@eyes
def test_what_is_written_is_what_the_policy_sees(family, pooling, tmp_path):
    # mutation: history of the next frame; tokens that are there cut off
    policy = loaded(family)
    store = recorded(tmp_path / "data", policy.spec)
    assert policy.spec.n_obs_steps == (2 if family == "diffusion images" else 1)
    assert sum(policy.widths)  # asked for once, of a blank
    with mock.patch.object(policy._family, "encode", wraps=policy._family.encode) as encode:
        encode_store(store, policy, pooling, batch_size=3, progress=False)
        assert [len(call.args[1]["observation.state"]) for call in encode.call_args_list] == [3, 2, 3, 2]
    cache = open_cache(store, progress=False)
    features = read_features(store, find(store, policy.version, pooling), cache)
    live = policy.encoder(next(observations(store.read(store.names()[0]), policy.spec.n_obs_steps, 3)))
    written = features.at(torch.arange(3))  # the same batch: the same bits
    if pooling == "mean":
        assert torch.equal(written.vector, averaged(live))
    else:
        assert torch.equal(written.tokens[written.mask], live.tokens[live.mask])
        assert torch.equal(written.vector, live.vector) and torch.equal(written.mask.sum(1), live.mask.sum(1))
    sampler = ChunkSampler(cache, policy.spec.horizon, policy.spec.n_obs_steps, (1, 5), batch_size=6, features=features)
    critic, batch = critic_of(policy, pooling), sampler.sample()
    for each in (batch.observation, *batch.next.values()):
        written, live = critic.encoder(each.seen), critic.encoder(policy.encoder(each))
        assert torch.allclose(written, live, atol=1e-5) and each.seen.vector.dtype == torch.float32


def test_a_critic_is_trained_from_the_command_line_without_running_the_vla(tmp_path, monkeypatch, capsys):
    # mutation: the policy is loaded all the same
    folder, store = checkpoint("smolvla"), recorded(tmp_path / "data", CASES["smolvla"][1])
    command = ["train", f"--data={store.path}", "--critic.type=iql", f"--base={folder}", "--critic.hidden=[16]"]
    command += ["--critic.encoder.source=policy", "--windowing.horizon=5", "--training.steps=3"]
    command += ["--training.batch_size=4", "--training.validate_every=0", "--training.device=cpu"]
    command += ["--training.tensorboard=false", "--training.progress=false"]
    assert cli.main([*command, f"--training.folder={tmp_path / 'live'}"]) == 0
    make = ["data", "features", str(store.path), f"--policy={folder}", "--device=cpu", "--progress=false"]
    assert cli.main(make) == 0 and "10 frames of 2 episodes encoded" in capsys.readouterr().out
    monkeypatch.setattr(lerobot_vla, "load", mock.Mock(side_effect=AssertionError("the VLA was loaded")))
    assert cli.main([*command, f"--training.folder={tmp_path / 'written'}"]) == 0
    assert "lerobot smolvla" in (said := capsys.readouterr().err) and "it is not run" in said
    live, written = (load_model(tmp_path / name).state_dict() for name in ("live", "written"))
    assert all(torch.allclose(live[name], written[name], atol=1e-4) for name in live)


def test_other_weights_have_other_features(tmp_path):
    # mutation: find by family
    policy = loaded("smolvla")
    store = recorded(tmp_path / "data", policy.spec, steps=1)
    encode_store(store, policy, progress=False)
    assert find(store, lerobot_vla.version(checkpoint("smolvla")), "mean") and policy.version.startswith("lerobot smol")
    assert find(store, policy.version[:-1] + "x", "mean") is None


# Tasks that differ in their text alone -------------------------------------------------------------------------------

BANDIT = mc.Config(scope=1, gamma=0.0, members=1, hidden=(64,), lr=3e-3)
OWN = EncoderConfig(image_features=4, image_channels=(4,), text_features=16, shift=0)
UPDATES = 80


def up_for_the_first(task, action):
    return float(action[0] if task == TASKS[0] else -action[0])


def preference(critic, policy, s) -> list[float]:
    """For each task: how much more an action up is worth than one down, over frames that nobody was trained on."""
    found, up = [], torch.zeros(8, 2, s.horizon, 2)
    up[:, 0, :, 0], up[:, 1, :, 0] = 0.8, -0.8
    for task in TASKS[:2]:
        seen = observation(s, 8, seed=9, task=(task,) * 8)
        context = critic.encode(seen, None if policy is None else policy.encode(seen))
        value = critic.score(context, up).value.detach()
        found.append(float((value[:, 0] - value[:, 1]).mean()))
    return found


@pytest.mark.parametrize("through", ["smolvla mean", "smolvla query", "own"])
def test_a_critic_tells_two_tasks_apart_that_differ_in_their_text_alone(through, tmp_path):
    # mutation: one text for the whole batch; the text's tokens are not there
    family, _, pooling = through.partition(" ")
    policy = loaded(family) if pooling else None
    s = policy.spec if policy else replace(CASES["pi0"][1], language=True, horizon=5, n_obs_steps=1)
    store = recorded(tmp_path / "data", s, steps=6, better=up_for_the_first, repeats=6)
    cache = open_cache(store, progress=False)
    config, features = replace(BANDIT, encoder=OWN), None
    if policy:
        encode_store(store, policy, pooling, progress=False)
        features = read_features(store, find(store, policy.version, pooling), cache)
        eyes = EncoderConfig(source="policy", pooling=pooling, projection=(32,), query_width=32)
        config = replace(BANDIT, encoder=seen_through(eyes, RecordedEyes(features)))
    critic = config.build(s, fit_statistics({"state": cache.state, "action": cache.action}), TASKS)
    if features:
        critic.attach(RecordedEyes(features))
    sampler = ChunkSampler(cache, 5, 1, (1,), gamma=0.0, batch_size=32, features=features)
    for _ in range(UPDATES):
        critic.update(sampler.sample())
    first, second = preference(critic.eval(), policy, s)
    assert first > 0.8 and second < -0.8  # 1.6 and -1.6, had it learned all there is


# The benchmark ------------------------------------------------------------------------------------------------------


def test_the_benchmark_trains_both_ways_and_says_what_a_frame_costs(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "benchmarks"))
    import bench_features as bench

    monkeypatch.setattr("blocks.CLEAN", 1)
    found = bench.measure(tmp_path, quick=True, batch=4)
    assert found["bytes_per_frame"] == 4 * 32 and found["ms_per_frame"] > 0
    assert min(found["updates_per_s"].values()) > 0 and len(found["speedup"]) == 3


# Chunks of the policy itself ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("written", [False, True])
def test_hume_asks_the_tokens_and_values_the_chunks_of_the_vla_itself(written, tmp_path):
    # mutation: context_of makes Features of what a critic sees; eyes that only remember are asked for chunks
    policy = loaded("smolvla")
    store = recorded(tmp_path / "data", policy.spec)
    encode_store(store, policy, "query", progress=False)
    cache = open_cache(store, progress=False)
    features = read_features(store, find(store, policy.version, "query"), cache) if written else None
    eyes = RecordedEyes(features, policy) if written else policy
    encoder = EncoderConfig(source="policy", pooling="query", query_width=16, query_heads=2)
    config = hume.Config(candidates=2, hidden=(16,), encoder=seen_through(encoder, eyes))
    critic = config.build(policy.spec, statistics(policy.spec))
    critic.attach(eyes)
    batch = ChunkSampler(cache, 5, 1, (5,), batch_size=4, features=features).sample()
    with mock.patch.object(policy._family, "encode", wraps=policy._family.encode) as encode:
        assert critic.update(batch, torch.Generator().manual_seed(0))["loss"].isfinite()
        assert encode.call_count == (2 if written else 4)  # for the chunks here and ahead, and for the eyes there
    proposed = critic.propose(batch.observation, 2, torch.Generator().manual_seed(0))
    noise = torch.randn(4, 2, 5, 2, generator=torch.Generator().manual_seed(0))
    chunks, _ = policy.sample(policy.see(batch.observation), 2, noise)
    assert torch.allclose(proposed, critic.actions.normalize(chunks), atol=1e-5)
