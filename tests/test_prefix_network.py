"""The value of every prefix at once: blind to what comes later, the same as asking for the whole chunk, trainable."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_value.critics.distribution import Distribution
from robot_value.critics.prefix_network import KINDS, PrefixNetwork, causal_attention

F, K, A, E = 3, 4, 2, 2


def build(kind: str) -> PrefixNetwork:
    torch.manual_seed(0)
    return PrefixNetwork(kind, F, K, A, E, (16, 16))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), j=st.integers(1, K))
def test_a_prefix_does_not_depend_on_later_actions_and_does_on_its_last(kind, seed, j):
    # mutation: attention without a mask; triu(2); masks from the wrong end
    generator = torch.Generator().manual_seed(seed)
    q, features, chunk = build(kind), torch.randn(5, F, generator=generator), torch.randn(5, K, A, generator=generator)
    other = torch.cat([chunk[:, :j], 10 * torch.randn(5, K - j, A, generator=generator)], 1)
    assert torch.allclose(q.prefixes(features, chunk)[..., :j], q.prefixes(features, other)[..., :j], atol=1e-6)
    other = chunk.clone()
    other[:, j - 1] += 1
    changed = (q.prefixes(features, chunk) - q.prefixes(features, other)).abs().amin((0, 1)) > 1e-7
    assert changed.tolist() == [i >= j for i in range(1, K + 1)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_prefix_depends_on_the_state_and_on_its_own_row_only(kind):
    q, features, chunk = build(kind), torch.randn(5, F), torch.randn(5, K, A)
    values = q.prefixes(features, chunk)
    assert values.shape == (E, 5, K)
    moved = q.prefixes(features + torch.eye(5)[:, :1], chunk)
    assert (moved - values)[:, 0].abs().min() > 1e-7 and torch.allclose(moved[:, 1:], values[:, 1:], atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_chunk_is_the_longest_prefix(kind):
    # mutation: read the first prefix instead of the last
    q, features, chunk = build(kind), torch.randn(5, F), torch.randn(5, K, A)
    whole = q(features, chunk)
    assert whole.shape == (E, 5)
    assert torch.allclose(whole, q.prefixes(features, chunk)[..., -1], atol=1e-6)
    assert torch.allclose(whole, q.distribution(features, chunk).mean, atol=1e-6)


def test_members_are_independent():
    for kind in KINDS:
        values = build(kind).prefixes(torch.randn(5, F), torch.randn(5, K, A))
        assert (values[0] - values[1]).abs().min() > 1e-5


def test_each_prefix_is_regressed_on_its_own_target():
    # mutation: targets in the wrong order (rows and prefixes exchanged)
    q, features, chunk = build("mlp"), torch.randn(5, F), torch.randn(5, K, A)
    targets = torch.arange(5.0)[:, None] * 10 + torch.arange(K)
    mean, loss = q.regress_prefixes(features, chunk, Distribution.point(targets))
    assert torch.allclose(mean, q.prefixes(features, chunk), atol=1e-6)
    assert torch.allclose(loss, (mean - targets).square(), rtol=1e-5)
    mean, loss = q.regress(features, chunk, Distribution.point(targets[:, -1]))
    assert torch.allclose(loss, (mean - targets[:, -1]).square(), rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_sums_of_the_actions_so_far(kind):
    q = build(kind)
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(q.parameters(), 1e-2)
    for _ in range(60):
        features, chunk = torch.randn(32, F, generator=generator), torch.randn(32, K, A, generator=generator)
        target = features[:, :1] + chunk[..., 0].cumsum(1) / 2
        loss = q.regress_prefixes(features, chunk, Distribution.point(target))[1].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.4 * target.var()


def test_written_out_attention_is_torchs():
    # mutation: scale by d instead of its root
    q, k, v = torch.randn(3, 2, 4, 5, 8).unbind(0)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert torch.allclose(causal_attention(q, k, v), expected, atol=1e-5)


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="network: expected one of mlp, transformer, got 'gru'"):
        build("gru")
