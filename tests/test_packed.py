"""Packed networks give the plain numbers, are taken only where that is accurate and faster, and leave no trace."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from robot_value.networks import packed as packed_module
from robot_value.networks.chunk_head import ChunkMLP, ChunkTransformer
from robot_value.networks.ensemble import EnsembleMLP
from robot_value.networks.images import ImageEncoder
from robot_value.networks.packed import PRECISIONS, Packed, error, packable, packed, race
from robot_value.networks.seeding import seeded_weights


@pytest.fixture(autouse=True)
def fresh_choices(monkeypatch):
    monkeypatch.setattr(packed_module, "_choices", {})


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ensemble(layer_norm: bool = True, hidden: tuple[int, ...] = (32, 32, 32), members: int = 3) -> EnsembleMLP:
    """With gains and shifts that are not the identity."""
    with seeded_weights(0):
        net = EnsembleMLP(members, 5, hidden, 2, layer_norm)
        for parameter in (*net.gains, *net.shifts):
            nn.init.normal_(parameter)
    return net


def chunk_mlp(depth: int = 3) -> ChunkMLP:
    with seeded_weights(0):
        return ChunkMLP(6, 4, 2, 32, depth)


def transformer(depth: int = 2) -> ChunkTransformer:
    """With gates that are open, unlike a fresh one's."""
    with seeded_weights(0):
        net = ChunkTransformer(6, 4, 2, 32, depth, 4)
        for block in net.blocks:
            nn.init.normal_(block.modulation.bias)
            nn.init.normal_(block.modulation.weight, std=0.1)
    return net


def image_encoder(pooling: str = "average") -> ImageEncoder:
    with seeded_weights(0):
        return ImageEncoder(4, (8, 16), pooling)


def inputs_of(
    net: ChunkMLP | ChunkTransformer, rows: int, times: int, conditions: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = generator()
    condition = net.condition(torch.randn(conditions, 6, generator=draw)).detach()
    return torch.randn(rows, 4, 2, generator=draw), torch.rand(times, generator=draw), condition


# The same numbers ---------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(0, 40), members=st.integers(1, 3), depth=st.integers(0, 3), layer_norm=st.booleans())
def test_a_packed_ensemble_gives_the_plain_numbers(rows, members, depth, layer_norm):
    # mutation: drop the bias / fuse GELU before LayerNorm / GELU after the last layer / the norm of another member
    net, x = ensemble(layer_norm, (16,) * depth, members), torch.randn(rows, 5, generator=generator())
    with packed(net, "float32"):
        got = net(x)
    assert got.shape == (members, rows, 2)
    assert torch.allclose(got, net(x), atol=1e-5)


@pytest.mark.parametrize("make", [chunk_mlp, transformer])
@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize(("times", "conditions"), [(1, 6), (6, 6), (1, 1), (1, 2), (2, 2)])
def test_a_packed_chunk_head_gives_the_plain_numbers(make, depth, times, conditions):
    # mutation: forget the condition, or the time where every row has its own / repeat instead of repeat_interleave
    net = make(depth)
    inputs = inputs_of(net, 6, times, conditions)
    with packed(net, "float32"):
        got = net(*inputs)
    assert torch.allclose(got, net(*inputs), atol=1e-5)


@pytest.mark.parametrize("pooling", ["average", "spatial_softmax"])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_packed_image_encoder_gives_the_plain_numbers_from_the_weights_of_this_moment(pooling, rows):
    # mutation: pack the blocks in place / skip the stem
    net = image_encoder(pooling)
    images = torch.randint(0, 256, (rows, 20, 24, 3), dtype=torch.uint8, generator=generator())
    layout = [p.stride() for p in net.parameters()]
    with packed(net, "float32"):
        got = net(images)
    with packed(net, "bfloat16"):
        rounded = net(images)
    assert torch.allclose(got, net(images), atol=1e-5)
    assert 1e-5 < (rounded - got).abs().max() / got.abs().max() < 0.03 and rounded.dtype == torch.float32
    assert [p.stride() for p in net.parameters()] == layout and {p.dtype for p in net.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    "net", [ensemble(), ensemble(False), chunk_mlp(), transformer()], ids=["norm", "no norm", "chunk", "transformer"]
)
def test_bfloat16_rounds_hidden_layers_only(net):
    # mutation: _linear ignores dtype / the last layer in bfloat16 too (its outputs would sit on bfloat16's grid)
    inputs = packed_module.probe(net, 64)
    with packed(net, "bfloat16"):
        got = net(*inputs)
    distance = (got - net(*inputs)).abs().max() / got.abs().max()
    assert 1e-4 < distance < 0.03
    assert got.dtype == torch.float32 and not torch.equal(got, got.bfloat16().float())


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("where", [0, 2])
def test_what_is_not_finite_stays_so_and_keeps_to_its_row(value, precision, where):
    # mutation: nan_to_num on the way in
    for net in (ensemble(), ensemble(False), chunk_mlp(), transformer()):
        inputs = packed_module.probe(net, 8 * 4 if isinstance(net, ChunkTransformer) else 8)
        inputs[min(where, len(inputs) - 1)][3].view(-1)[1] = value
        with packed(net, precision):
            out = net(*inputs)
        rows = out.transpose(0, 1) if isinstance(net, EnsembleMLP) else out
        assert rows.flatten(1).isfinite().all(1).tolist() == [True] * 3 + [False] + [True] * 4


# No trace -----------------------------------------------------------------------------------------------------------


def test_after_the_block_the_network_is_as_before_also_where_it_failed():
    # mutation: no `finally`
    net, x = ensemble(), torch.randn(4, 5, generator=generator())
    with pytest.raises(RuntimeError), packed(net, "float32"):
        assert not net(x).requires_grad and not torch.is_grad_enabled()
        raise RuntimeError
    assert net(x).requires_grad and "forward" not in vars(net)


def test_every_block_packs_the_weights_of_its_own_time():
    # mutation: keep packed weights between blocks
    net, x = ensemble(), torch.randn(4, 5, generator=generator())
    for _ in range(2):
        with torch.no_grad():
            net.biases[-1] += 1
        with packed(net, "float32"):
            assert torch.allclose(net(x), net.looped(x), atol=1e-5)


def test_a_network_is_packed_once_per_block_and_not_at_all_where_nobody_calls_it(monkeypatch):
    # mutation: pack on entry / pack at every call
    calls, pack = [], packed_module.pack
    monkeypatch.setattr(packed_module, "pack", lambda part, dtype: calls.append(part) or pack(part, dtype))
    both, x = nn.ModuleList([ensemble(), chunk_mlp()]), torch.randn(4, 5, generator=generator())
    both[0](x)
    with packed(both, "float32"):
        both[0](x)
    calls.clear()  # the first block has probed as well
    with packed(both, "float32"), packed(both, "float32"):
        both[0](x), both[0](x)
    assert calls == [both[0]]


def test_weights_that_stay_are_packed_once_for_all_blocks_and_give_way_to_whoever_packed_before(monkeypatch):
    # mutation: pack in __enter__ / take parts that are taken / forget to give one back
    net, x, calls = ensemble(), torch.randn(4, 5, generator=generator()), []
    kept, pack = Packed(net, "float32"), packed_module.pack
    with packed(net, "float32"):
        theirs = net.forward
        with kept:
            assert net.forward is theirs
            net(x)  # the choice is made
        assert net.forward is theirs
    monkeypatch.setattr(packed_module, "pack", lambda part, dtype: calls.append(part) or pack(part, dtype))
    for _ in range(3):
        with kept, torch.no_grad():
            assert torch.allclose(net(x), net.looped(x), atol=1e-5)
    assert calls == [net] and "forward" not in vars(net)


def test_where_a_gradient_is_asked_for_the_plain_network_answers():
    # mutation: always the packed one, which has no gradient
    net, x = ensemble(), torch.randn(4, 5, generator=generator(), requires_grad=True)
    with packed(net, "bfloat16"), torch.enable_grad():
        value = net(x)
        assert torch.equal(value, net.looped(x))
        assert torch.autograd.grad(value.sum(), x)[0].abs().min() > 0


def test_what_cannot_be_packed_runs_as_always():
    # mutation: isinstance(part, nn.Module)
    net = nn.ModuleDict({"linear": nn.Linear(2, 2), "q": ensemble(), "meta": ensemble().to("meta")})
    assert packable(net) == [net["q"]]
    assert packable(lambda x: x) == []
    with packed(net, "off"):
        assert packable(net) == [net["q"]] and not torch.is_grad_enabled()


# Never blindly ------------------------------------------------------------------------------------------------------


def test_the_probes_run_on_this_machine_and_keep_their_precision():
    # mutation: pack weights in the wrong dtype
    for net in (ensemble(), chunk_mlp(), transformer(), image_encoder()):
        assert error(net, "float32") < 1e-5 < error(net, "bfloat16") < 0.03
        assert set(race(net, net.forward, ["float32"])) == {"off", "float32"}


def test_a_probe_sees_a_nan_that_turns_into_a_number(monkeypatch):
    # mutation: drop the comparison of isfinite
    monkeypatch.setattr(packed_module, "pack", lambda part, dtype: lambda *x: part(*x).nan_to_num())
    assert error(chunk_mlp(), "float32") == float("inf")


def test_an_inaccurate_precision_is_refused_with_a_warning_and_the_plain_numbers_come_out(monkeypatch):
    # mutation: drop the comparison with TOLERANCE
    monkeypatch.setattr(packed_module, "error", lambda part, precision: 0.5)
    net, x = ensemble(), torch.randn(4, 5, generator=generator())
    with (
        packed(net, "bfloat16"),
        pytest.warns(UserWarning, match=r"expected an error up to 0.03, got 0.5; EnsembleMLP"),
    ):
        assert torch.equal(net(x), net.looped(x))
    with warnings.catch_warnings(), packed(net, "auto"):
        warnings.simplefilter("error")
        assert torch.equal(net(x), net.looped(x))


@pytest.mark.parametrize(
    ("seconds", "errors", "expected"),
    [
        ((2.0, 1.0, 0.5), (0.0, 0.0), "bfloat16"),
        ((2.0, 1.0, 0.5), (0.0, 1.0), "float32"),
        ((2.0, 1.95, 1.95), (0.0, 0.0), "off"),
        ((2.0, 1.0, 3.0), (0.0, 0.0), "float32"),
    ],
)
def test_auto_takes_the_fastest_that_is_accurate_and_worth_it(monkeypatch, seconds, errors, expected):
    # mutation: max instead of min / drop WORTHWHILE / ask only for speed
    times = dict(zip(("off", "float32", "bfloat16"), seconds, strict=True))
    wrong = dict(zip(("float32", "bfloat16"), errors, strict=True))
    monkeypatch.setattr(
        packed_module, "race", lambda part, plain, names: {name: times[name] for name in ("off", *names)}
    )
    monkeypatch.setattr(packed_module, "error", lambda part, precision: wrong[precision])
    net = ensemble()
    assert packed_module.choose(net, net.forward, "auto") == expected


def test_a_choice_is_measured_once_per_sizes_and_question(monkeypatch):
    # mutation: leave the sizes, or what was asked, out of the key
    seen = []
    monkeypatch.setattr(packed_module, "error", lambda part, precision: seen.append((part, precision)) or 0.0)
    small, large = ensemble(), ensemble(hidden=(48,))
    for net in (small, small, large, ensemble()):
        for asked in ("float32", "bfloat16"):
            assert packed_module.choose(net, net.forward, asked) == asked
    assert seen == [(net, asked) for net in (small, large) for asked in ("float32", "bfloat16")]


def test_an_unknown_precision_is_refused_with_the_list():
    with (
        pytest.raises(ValueError, match=f"expected one of {', '.join(PRECISIONS)}, got 'fp8'"),
        packed(ensemble(), "fp8"),
    ):
        pass
