"""Learning without replay: transitions in order, each once; TD(lambda) in plain loops; steps that never overshoot."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import make_episode, make_spec

from robot_value.critics import sarsa
from robot_value.learner_state import flatten, unflatten
from robot_value.networks.seeding import seeded_weights
from robot_value.normalize import Statistics
from robot_value.online.grown import Grown
from robot_value.online.stream import Stream, transitions
from robot_value.online.streaming import Moments, Streaming, StreamingLearner, sparse_, step_size
from robot_value.sampling import ChunkSampler, bootstrap, returns

K, GAMMA = 3, 0.9
SPEC = make_spec().choose(horizon=K, n_obs_steps=1)


def statistics(count=50):
    wide = {"state": SPEC.state_dim, "action": SPEC.action_dim, "return": 1}
    one = {key: np.ones(n, np.float32) for key, n in wide.items()}
    return {key: Statistics(0.1 * x, 2 * x, -3 * x, 3 * x, count) for key, x in one.items()}


def critic(hidden=(), **changes):
    """Without hidden layers Q is linear: its gradient is what it sees, and can be written down."""
    config = sarsa.Config(**{"members": 1, "hidden": hidden, "layer_norm": False, "gamma": GAMMA, "lr": 0.0} | changes)
    return config.build(SPEC, statistics())


def episode(steps=8, seed=0, terminated=True):
    rewards = np.random.default_rng(seed).standard_normal(steps).astype(np.float32)
    return make_episode(SPEC.choose(horizon=0, n_obs_steps=0), steps, seed=seed, terminated=terminated, rewards=rewards)


def cut(each):
    return transitions(each, K, GAMMA, 1)


# -- the stream --------------------------------------------------------------------------------------------------------


@given(steps=st.integers(1, 10), terminated=st.booleans(), history=st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_a_transition_is_what_the_sampler_makes_of_the_same_window(steps, terminated, history):
    # mutation: chunks not repeated at the end; rewards not discounted; a frame before the start invented
    each, spec = episode(steps, terminated=terminated), SPEC
    grown = Grown(spec.choose(horizon=0, n_obs_steps=0))
    grown.add("a", each)
    sampler = ChunkSampler(grown.cache(), K, history, gamma=GAMMA, batch_size=64, next_chunks=True)
    batch = sampler.sample()
    got = list(transitions(each, K, GAMMA, history))
    for i, transition in enumerate(got):
        row = (batch.index == K * i).nonzero()[:1, 0]
        assert len(row)
        torch.testing.assert_close(transition.observation.state, batch.observation.state[row], rtol=0, atol=0)
        torch.testing.assert_close(transition.chunk, batch.chunks[row], rtol=0, atol=0)
        assert transition.reward == pytest.approx(float(returns(batch, GAMMA, K)[row]), rel=1e-5, abs=1e-6)
        assert transition.discount == pytest.approx(float(bootstrap(batch, GAMMA, K)[row]))
        assert (transition.following is None) == (transition.discount == 0) and transition.first == (i == 0)
        if transition.following is not None:
            torch.testing.assert_close(transition.following[0].state, batch.next[K].state[row], rtol=0, atol=0)
            torch.testing.assert_close(transition.following[1], batch.next_chunks[K][row], rtol=0, atol=0)
    assert len(got) == (-(-steps // K) if terminated else (steps - 1) // K)  # what followed a time-out, nobody knows


def stream(count=4):
    known = {f"e{i}": episode(5 + i, seed=i, terminated=bool(i % 2)) for i in range(count)}
    return Stream(known.__getitem__, cut), known


def test_every_transition_comes_once_and_in_order():
    # mutation: pop from the newest end; take known names again
    one, known = stream()
    one.take(["e0", "e1"])
    first = one.sample()
    one.take(["e1", "e2", "e2"])
    expected = [t for name in ("e0", "e1", "e2") for t in cut(known[name])]
    got = [first, *(one.sample() for _ in range(one.due(["e0", "e1", "e2"])))]
    assert [(t.reward, t.first) for t in got] == [(t.reward, t.first) for t in expected]
    assert one.due(["e0", "e1", "e2"]) == 0
    with pytest.raises(ValueError, match="expected an episode nobody has learned from"):
        one.sample()


def test_a_round_that_is_begun_again_is_due_no_transition_twice():
    # mutation: due counts what waits, so that a round's redo learns the next round's transitions early
    one, known = stream()
    one.take(["e0"])
    due = one.due(["e0"])
    [one.sample() for _ in range(due)]
    one.take(["e1"])
    again, _ = stream()
    again.load_state(json.loads(json.dumps(one.state())))
    assert again.due(["e0"]) == 0 and again.due(["e0", "e1"]) == len(list(cut(known["e1"])))
    assert again.sample().reward == next(cut(known["e1"])).reward


# -- the update --------------------------------------------------------------------------------------------------------


def features(model, observation, chunk):
    """What a linear Q sees, and 1 for its bias: float64[F + 1]."""
    x = torch.cat([model.features(observation), model.actions.normalize(chunk).flatten(1)], -1)[0]
    return np.append(x.detach().numpy().astype(np.float64), 1.0)


def by_hand(model, episodes, config):
    """SARSA(lambda) with ObGD on a linear Q, in loops: float64[F + 1] weights after all episodes."""
    w = learned(model).astype(float)
    for each in episodes:
        z = np.zeros_like(w)
        for t in range(0, len(each), K):
            rest = each.rewards[t : t + K].astype(float)
            over = t + K >= len(each)
            if over and not each.terminated:
                break
            rows = list(transitions(each, K, GAMMA, 1))
            x = features(model, rows[t // K].observation, rows[t // K].chunk)
            target = sum(GAMMA**i * r for i, r in enumerate(rest))
            if not over:
                target += GAMMA**K * w @ features(model, *rows[t // K].following)
            delta = target - w @ x
            z = GAMMA**K * config.trace * z + x
            alpha = min(config.lr, 1 / (config.kappa * max(abs(delta), 1) * np.abs(z).sum()))
            w = w + alpha * delta * z
    return w


def learned(model):
    net = model.q.net
    return np.append(net.weights[0].detach().numpy().ravel(), net.biases[0].detach().numpy().ravel())


def still(learner):
    """Observations stay scaled as they are, so that a loop over fixed features can follow."""
    learner.seen = None
    return learner


@pytest.mark.parametrize("config", [Streaming(), Streaming(trace=0.0, kappa=3.0), Streaming(trace=1.0, lr=1e-3)])
def test_updates_are_td_lambda_with_bounded_steps_computed_in_plain_loops(config):
    # mutation: trace decays by lambda alone; trace kept over episodes; |delta| not clamped; Q(s', c') with s's chunk
    model = critic()
    episodes = [episode(8, 1), episode(7, 2, terminated=False), episode(9, 3)]
    expected, learner = by_hand(model, episodes, config), still(StreamingLearner(model, config))
    for each in episodes:
        for transition in cut(each):
            learner.update(transition, torch.Generator())
    np.testing.assert_allclose(learned(model), expected, rtol=2e-4, atol=2e-6)


def test_with_small_steps_an_episode_moves_q_towards_its_lambda_returns():
    # mutation: accumulate delta into the trace before decaying it; forget gamma^k in the decay
    model, lam, tiny = critic(), 0.7, 1e-5
    each = episode(12, 5)
    rows, before = list(cut(each)), learned(model)
    x = [features(model, row.observation, row.chunk) for row in rows]
    q = [before @ each for each in x]
    lambda_return, expected = 0.0, np.zeros_like(before)
    for t in reversed(range(len(rows))):  # G_t = R + gamma^k ((1 - lambda) Q' + lambda G')
        after = (1 - lam) * q[t + 1] + lam * lambda_return if t + 1 < len(rows) else 0.0
        lambda_return = rows[t].reward + rows[t].discount * after
        expected += tiny * (lambda_return - q[t]) * x[t]
    learner = still(StreamingLearner(model, Streaming(trace=lam, lr=tiny)))
    for row in rows:
        learner.update(row, torch.Generator())
    np.testing.assert_allclose(learned(model) - before, expected, rtol=0.02, atol=1e-7)


@given(seed=st.integers(0, 200), size=st.floats(1e-3, 1e4))
@settings(max_examples=30, deadline=None)
def test_no_update_overshoots_its_own_error_whatever_the_reward(seed, size):
    # mutation: step_size without the traces' length, or kappa divided instead of multiplied
    # alpha |delta| |x|^2 <= |delta| / kappa max|x|, because |x|^2 <= max|x| |x|_1
    model = critic(hidden=())
    learner, each = still(StreamingLearner(model, Streaming())), episode(4, seed)
    transition = next(transitions(_scaled(each, size), K, GAMMA, 1))
    x = features(model, transition.observation, transition.chunk)
    before = float(learner.error(transition, learner.value(transition.observation, transition.chunk).detach(), None))
    weights = learned(model)
    learner.update(transition, torch.Generator())
    moved = float((learned(model) - weights) @ x)
    assert moved * before >= 0 and abs(moved) <= abs(before) / 2 * max(1.0, np.abs(x).max()) * 1.01


def _scaled(each, size):
    return replace(each, rewards=(each.rewards * size).astype(np.float32))


def test_the_step_size_is_the_papers():
    traces = [torch.tensor([1.0, -2.0]), torch.tensor([[3.0]])]
    assert float(step_size(torch.tensor(0.5), traces, Streaming())) == pytest.approx(1 / 12)
    assert float(step_size(torch.tensor(-4.0), traces, Streaming())) == pytest.approx(1 / 48)
    assert float(step_size(torch.tensor(0.1), [torch.tensor([0.1])], Streaming())) == 1.0  # lr


# -- scaling and a fresh start -----------------------------------------------------------------------------------------


def test_observation_statistics_go_on_from_the_offline_datas_as_if_they_had_been_measured_together():
    # mutation: forget the offline rows' count
    rng = np.random.default_rng(0)
    old, new = rng.normal(3, 2, (40, 3)), rng.normal(-1, 5, (25, 3))
    moments = Moments.of(Statistics.fit(old))
    for row in new:
        moments.add(row)
    got, expected = moments.statistics(), Statistics.fit(np.concatenate([old, new]))
    for name in ("mean", "std", "low", "high"):
        np.testing.assert_allclose(getattr(got, name), getattr(expected, name), rtol=1e-5, atol=1e-6)
    assert got.count == expected.count


def test_what_the_checkpoint_says_about_states_is_what_the_critic_sees_by():
    # mutation: update the normaliser, but not critic.statistics
    model = critic()
    before, learner = model.statistics["state"], StreamingLearner(model, Streaming())
    for transition in cut(episode(9)):
        learner.update(transition, torch.Generator())
    after = model.statistics["state"]
    assert after.count == before.count + 3 and not np.array_equal(after.mean, before.mean)
    np.testing.assert_array_equal(model.encoder.state.offset, after.mean)


def test_a_fresh_start_is_sparse_and_depends_on_nothing_but_its_seed():
    # mutation: sparsity of all weights together instead of every unit's; biases kept
    a, b, other = (critic(hidden=(16, 16), seed=i) for i in range(3))
    for model, seed in ((a, 1), (b, 1), (other, 2)):
        sparse_(model, 0.9, torch.Generator().manual_seed(seed))
    for weight, bias in zip(a.q.net.weights, a.q.net.biases, strict=True):
        zeros = (weight == 0).sum(-1)
        assert (zeros == int(np.ceil(0.9 * weight.shape[-1]))).all() and not bias.any()
    same = [torch.equal(x, y) for x, y in zip(a.q.parameters(), b.q.parameters(), strict=True)]
    assert all(same) and not all(torch.equal(x, y) for x, y in zip(a.q.parameters(), other.q.parameters(), strict=True))


def test_rewards_are_scaled_after_a_fresh_start_only():
    # mutation: sigma for everybody: offline values would be in another unit than the rewards
    for fresh in (False, True):
        learner = StreamingLearner(critic(hidden=(8,)), Streaming(fresh=fresh))
        running = []
        for each in (episode(9, 1), episode(9, 2)):
            u = 0.0
            for transition in cut(each):
                u = (0.0 if transition.first else GAMMA**K) * u + transition.reward
                running.append(u)
                learner.update(transition, torch.Generator())
        assert learner.sigma == (pytest.approx(np.std(running)) if fresh else 1.0)


# -- a run's books -----------------------------------------------------------------------------------------------------


def resumed(learner):
    """As another process would go on with it."""
    again = StreamingLearner(critic(hidden=(8,)), Streaming(fresh=True))
    again.deployed.load_state_dict(learner.model.state_dict())
    again.load_state(unflatten(*flatten(learner.state())))
    return again


def test_a_saved_learner_goes_on_to_the_same_bits():
    # mutation: traces, or the returns' deviation, not saved
    rows = [t for seed in range(3) for t in cut(episode(9, seed))]
    whole, half = (StreamingLearner(critic(hidden=(8,)), Streaming(fresh=True)) for _ in range(2))
    for row in rows:
        whole.update(row, torch.Generator())
    for row in rows[:4]:
        half.update(row, torch.Generator())
    again = resumed(half)
    for row in rows[4:]:
        again.update(row, torch.Generator())
    for a, b in zip(whole.weights, again.weights, strict=True):
        assert torch.equal(a, b)


class Refused(Exception):
    pass


def test_a_refused_update_leaves_no_trace():
    # mutation: count the observation, or add to the traces, before asking
    def refuse(loss, norm):
        raise Refused

    rows = list(cut(episode(9)))
    learner, twin = (StreamingLearner(critic(hidden=(8,)), Streaming(fresh=True)) for _ in range(2))
    learner.before_step = refuse
    with pytest.raises(Refused):
        learner.update(rows[0], torch.Generator())
    learner.before_step = None
    for each in (learner, twin):
        each.update(rows[0], torch.Generator())
    assert all(torch.equal(a, b) for a, b in zip(learner.weights, twin.weights, strict=True))
    assert learner.seen.count == twin.seen.count


@pytest.mark.parametrize("saved", [False, True])
def test_an_episode_whose_first_transition_is_refused_begins_with_its_next_one(saved):
    # mutation: keep the trace or the running return of the episode before; forget `begun` in the state
    def refuse(loss, norm):
        raise Refused

    (before, after), made = (list(cut(episode(9, seed))) for seed in (1, 2)), torch.Generator
    learner, twin = (StreamingLearner(critic(hidden=(8,)), Streaming(fresh=True)) for _ in range(2))
    for each in (learner, twin):
        [each.update(row, made()) for row in before]
    learner.before_step = refuse
    with pytest.raises(Refused):
        learner.update(after[0], made())
    learner.before_step = None
    learner = resumed(learner) if saved else learner
    learner.update(after[1], made())
    twin.update(replace(after[1], first=True), made())
    for row in after[2:]:  # which are no beginning
        [each.update(row, made()) for each in (learner, twin)]
    assert learner.running == twin.running
    assert all(torch.equal(a, b) for a, b in zip(learner.traces, twin.traces, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(learner.weights, twin.weights, strict=True))


def test_it_learns_the_value_of_a_chain_better_than_the_mean():
    # mutation: w - alpha delta z
    spec, rng = SPEC.choose(horizon=0, n_obs_steps=0), np.random.default_rng(0)
    with seeded_weights(0):
        model = critic(hidden=(32,), layer_norm=True)
    learner, errors = StreamingLearner(model, Streaming()), []
    for seed in range(150):
        side = float(rng.integers(2) * 2 - 1)
        states = np.full((7, SPEC.state_dim), side, np.float32)
        rewards = np.zeros(6, np.float32)
        rewards[-1] = side
        each = make_episode(spec, 6, seed=seed, terminated=True, rewards=rewards, states=states)
        for transition in cut(each):
            metrics = learner.update(transition, torch.Generator())
        errors.append(float(metrics["td_error"]))
    assert np.mean(errors[-30:]) < 0.3 < np.mean(errors[:10])
