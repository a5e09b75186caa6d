"""Hume's critic: values of half-finished chunks on a policy with a known path, and the query over an observation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from learning_fakes import TASKS, random_batch, spec, statistics
from test_noise_critics import HUME, SPEC, agreement, bandit, build, trained

from robot_value.critics import hume
from robot_value.critics.seeds import draw
from robot_value.networks.observation import EncoderConfig
from robot_value.networks.value_query import ValueQuery, observed_parts, over_parts
from robot_value.types import Features, Seen


def noisy_agreement(critic, time):
    """How well half-finished chunks x_t of the policy are ranked by what they will be worth."""
    seeds = draw(critic, 64, 8, torch.Generator().manual_seed(1))
    finished = 1.5 * torch.tanh(-seeds)
    x_t = (1 - time) * seeds + time * finished
    with torch.no_grad():
        context = Features(critic.encoder(bandit(999).observation))
        judged = critic.score_noise(context, x_t, torch.full((64, 8), time)).value
    return agreement(finished.mean((2, 3)), judged)


def test_a_noisy_chunk_has_the_value_of_what_the_policy_makes_of_it():
    # mutation: target of a finished chunk of another row; time features of 1 - t; x_t with t and 1 - t exchanged
    critic = trained(HUME)
    assert noisy_agreement(critic, 0.0) > 0.9 and noisy_agreement(critic, 0.25) > 0.9
    assert noisy_agreement(critic, 1.0) > 0.9


def test_without_noisy_chunks_the_critic_prefers_those_that_will_become_the_worst():
    # mutation (the defining term): beta = 0
    assert noisy_agreement(trained(replace(HUME, beta=0.0), 60), 0.25) < -0.5


def test_a_finished_chunk_has_its_ordinary_value_at_time_1():
    critic, batch = build(HUME), random_batch(SPEC)
    context = Features(critic.encoder(batch.observation))
    x = critic.actions.normalize(batch.chunks)[:, None]
    ordinary = critic.score(context, batch.chunks[:, None]).value
    assert torch.allclose(critic.score_noise(context, x, torch.ones(8, 1)).value, ordinary, atol=1e-5)
    assert not torch.allclose(critic.score_noise(context, x, torch.full((8, 1), 0.5)).value, ordinary, atol=1e-3)
    assert torch.equal(critic.score_noise(context, x).value, critic.score_noise(context, x, torch.zeros(8, 1)).value)


def test_the_td_target_is_the_policy_s_mean_value_at_the_next_observation():
    # mutation: the online critics evaluate; the best proposal counts
    critic, batch = build(replace(HUME, candidates=4)), random_batch(SPEC)
    for p in critic.target.parameters():
        p.mul_(1.5)
    loss, metrics = critic.loss(batch, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    draw(critic, 8, 4, generator)  # seeds at this observation
    proposed = 1.5 * torch.tanh(-draw(critic, 8, 4, generator))
    with torch.no_grad():
        features = critic.encoder(batch.next[2])
        following = torch.stack([critic.target["q"](features, proposed[:, i]).amin(0) for i in range(4)]).mean(0)
        y = batch.rewards[:, 0] + critic.gamma * batch.rewards[:, 1] + critic.gamma**2 * following
        td_loss = (critic.q(*critic.see(batch)) - y).square().mean()
    assert float(metrics["td_loss"]) == pytest.approx(float(td_loss), rel=1e-4)
    parts = metrics["td_loss"] + HUME.alpha * metrics["cql_loss"] + HUME.beta * metrics["noisy_loss"]
    assert loss.item() == pytest.approx(float(parts), rel=1e-5)


def test_the_policy_s_chunks_are_not_pushed_below_what_was_achieved():
    # mutation: no Cal-QL floor
    losses = []
    for achieved in (-100.0, 100.0):
        critic, batch = build(HUME), random_batch(SPEC)
        batch = replace(batch, mc_return=torch.full((8,), achieved))
        losses.append(critic.loss(batch, torch.Generator().manual_seed(0))[1]["cql_loss"])
    assert losses[1] > losses[0] + 50


# The value query ----------------------------------------------------------------------------------------------------


def test_the_query_reads_frames_cameras_and_text_as_parts():
    # mutation: one camera token for all frames; the text first
    s, encoder = spec(n_obs_steps=2, state=3, images=True, language=True), EncoderConfig(8, (16,), text_features=5)
    assert observed_parts(s, encoder, 2 * 3 + 2 * 8 + 5) == [3, 3, 8, 8, 5]
    assert observed_parts(s, replace(encoder, goal=True), 3 * 3 + 3 * 8 + 5) == [3, 3, 8, 8, 5, 3, 8]
    assert observed_parts(s, encoder, 77) == [77]  # features of another make
    critic = replace(HUME, encoder=encoder).build(s, statistics(s), TASKS)
    assert critic.q.query.read.sizes == [3, 3, 8, 8, 5] and critic.encoder.features == 27


def test_attention_is_brute_force_attention_and_every_part_matters():
    # mutation: softmax over heads; values from keys
    torch.manual_seed(0)
    query = over_parts([2, 3], width=4, heads=2)
    features = torch.randn(1, 5, requires_grad=True)
    tokens = [query.norm1(read(piece)) for read, piece in zip(query.read, features.split([2, 3], -1), strict=True)]
    code = []
    for head in range(2):
        part = slice(2 * head, 2 * head + 2)
        k, v = zip(*(query.kv(token).chunk(2, -1) for token in tokens), strict=True)
        logits = torch.stack([(each[0, part] * query.query[part]).sum() / 2**0.5 for each in k])
        code.append(sum(w * each[0, part] for w, each in zip(logits.softmax(0), v, strict=True)))
    attended = query.query + query.out(torch.cat(code))
    expected = attended + query.down(torch.nn.functional.gelu(query.up(query.norm2(attended))))
    assert torch.allclose(query(features)[0], expected, atol=1e-6)
    query(features).sum().backward()
    assert (features.grad.abs() > 0).all()


def test_a_policys_tokens_are_read_by_the_query_itself_and_their_mean_as_one_part():
    # mutation: Hume's own query over the code of the encoder's
    eyes = EncoderConfig(source="policy", pooling="query", query_width=8, query_heads=2, policy_tokens=5)
    asking = replace(HUME, encoder=eyes).build(SPEC, statistics(SPEC))
    assert isinstance(asking.q.query, torch.nn.Identity) and isinstance(asking.encoder.query, ValueQuery)
    assert asking.encoder.features == 8 and asking.needs_policy
    seen = Seen(torch.zeros(3, 0), torch.randn(3, 4, 5), torch.arange(4) < torch.tensor([[4], [4], [1]]))
    judged = asking.q(asking.encoder(seen), torch.zeros(3, asking.scope, 2))
    judged.sum().backward()
    assert asking.encoder.query.query.grad.abs().sum() > 0
    mean = replace(eyes, pooling="mean", policy_features=5, policy_tokens=0)
    assert replace(HUME, encoder=mean).build(SPEC, statistics(SPEC)).q.query.read.sizes == [5]


def test_the_query_is_an_option_and_its_width_must_fit_its_heads():
    plain = build(replace(HUME, query=False))
    assert isinstance(plain.q.query, torch.nn.Identity)
    with pytest.raises(ValueError, match="expected a multiple of heads"):
        build(replace(HUME, width=15))
    assert hume.Config().query
