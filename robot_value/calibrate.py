"""From a policy, a critic and validation seeds to a gate that does no harm: listen in shadow, play thresholds, choose.

In shadow the plain policy drives while the critic's confidence is noted, so that one run gives both the plain policy's
successes and the thresholds worth trying; then every threshold is played on the same seeds with the same noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

from . import components
from .evaluate import Arm, executed_steps
from .loop import run_episodes
from .playing import Models, Play, Site, load, play_all, robot_of, waves
from .protocols import ChunkFollower, Robot
from .report_plots import BLUE, GREY, STYLE
from .steering.abstention import ALWAYS, Calibration, Setup, choose, thresholds
from .steering.alarm import Alarm
from .steering.confidence import confidence
from .steering.gates.conformal import failure_score
from .steering.steerer import Steerer
from .steering.two_speeds import ThinkAhead
from .types import Decision, Episode, Observation, Outcome, Scores, Selection, Situation
from .workers import run_all

Measure = Callable[[torch.Tensor, Scores, Selection, Situation], np.ndarray]  # like a gate's call -> float64[B]


@dataclass(frozen=True)
class Shadow:
    """What the plain policy did, and what the critic thought of it. S seeds, T decisions of the longest episode."""

    success: np.ndarray  # bool[S]
    unstable: np.ndarray  # bool[S], the simulator warned: neither a success nor a failure
    heard: np.ndarray  # float64[S, T], what was measured at every decision; NaN after an episode's end
    setup: Setup

    @property
    def confidences(self) -> np.ndarray:
        """float64[decisions of live robots], where confidence is what was measured."""
        return self.heard[np.isfinite(self.heard)]


def calibrate(
    processes: ProcessPoolExecutor,
    site: Site,
    models: Models,
    arm: Arm,
    seeds: Sequence[int],
    seed: int = 0,
    quantiles: Sequence[float] = (0.5,),
    alpha: float = 0.05,
    margin: float = 0.05,
) -> Calibration:
    """How confident the critic of `arm` must be; `seeds` are validation seeds, `seed` keys the candidates' noise."""
    shadow = listen_all(processes, site, models, arm, seeds, seed, confidence)
    tried = {
        threshold: replace(arm, name=f"threshold {i}", gate="calibrated", gate_options={"threshold": threshold})
        for i, threshold in enumerate(thresholds(shadow.confidences, quantiles))
    }
    played, _ = play_all(processes, site, [models], list(tried.values()), seeds, seed, what="thresholds")
    kept = played.kept & ~shadow.unstable
    steered = {threshold: played.result(each.name).success[0, kept] for threshold, each in tried.items()}
    choice = choose(shadow.success[kept], steered, alpha, margin)
    return Calibration(
        choice=choice,
        base_success=float(shadow.success[kept].mean()),
        abstained=tuple(played.result(tried[trial.threshold].name).abstained for trial in choice.trials),
        setup=shadow.setup,
        seeds=tuple(int(s) for s in seeds),
        quantiles=tuple(quantiles),
    )


def failure_alarm(
    processes: ProcessPoolExecutor,
    site: Site,
    models: Models,
    arm: Arm,
    seeds: Sequence[int],
    seed: int = 0,
    score: str = "value",
    alpha: float = 0.1,
) -> Alarm:
    """An alarm that at most a share `alpha` of the plain policy's successes would ever hear, for gate `conformal`."""
    shadow = listen_all(processes, site, models, arm, seeds, seed, partial(failure_score, score))
    return Alarm.fit(shadow.heard[shadow.success & ~shadow.unstable], alpha, score, shadow.setup)


def listen_all(
    processes: ProcessPoolExecutor,
    site: Site,
    models: Models,
    arm: Arm,
    seeds: Sequence[int],
    seed: int,
    measure: Measure,
) -> Shadow:
    """The shadow run in the waves that thresholds are played in: an episode's last bits depend on its row."""
    parts = waves(seeds, site.batch_size)
    calls = {i: (_listen, (Play(site, models, arm, part, seed), measure)) for i, part in enumerate(parts)}
    found = list(run_all(processes, calls, "shadow").values())
    return Shadow(
        success=np.concatenate([part.success for part in found]),
        unstable=np.concatenate([part.unstable for part in found]),
        heard=_padded([row for part in found for row in part.heard]),
        setup=found[0].setup,
    )


def listen(
    robot: Robot,
    steerer: Steerer,
    seeds: Sequence[int],
    measure: Measure = confidence,
    follower: ChunkFollower | None = None,  # None: plain
    lag: int | None = None,  # as an Arm's
) -> Shadow:
    """The plain policy drives, and `measure` is noted at every decision. Takes the place of the steerer's gate."""
    steerer.gate = ear = Ear(measure)
    with nullcontext(steerer) if lag is None else closing(ThinkAhead(steerer, lag=lag, lockstep=True)) as thinker:
        summaries = run_episodes(robot, thinker, follower, watchers=(ear,), seeds=tuple(seeds))
    return Shadow(
        success=np.array([summary.success for summary in summaries], bool),
        unstable=np.array([summary.unstable for summary in summaries], bool),
        heard=_padded([ear.heard.get(summary.seed, []) for summary in summaries]),  # none: broken at reset
        setup=Setup.of(steerer, steerer.critic),
    )


@dataclass
class Ear:
    """A Gate that never acts, and a Watcher that knows which robots were still in an episode."""

    measure: Measure
    wants_episodes = False  # the loop need not put episodes together for us
    heard: dict[int, list[float]] = field(default_factory=dict)  # episode -> one number per decision
    last: np.ndarray | None = None  # float64[B]

    def __call__(
        self, chunks: torch.Tensor, scores: Scores, selection: Selection, situation: Situation
    ) -> tuple[np.ndarray, str]:
        self.last = self.measure(chunks, scores, selection, situation)
        return np.zeros(len(chunks), bool), "shadow"

    def on_decision(self, observation: Observation, decision: Decision, outcome: Outcome) -> None:
        for row in np.flatnonzero(outcome.executed_valid.any(1)):
            self.heard.setdefault(int(observation.episode[row]), []).append(float(self.last[row]))

    def on_episode(self, episode: Episode) -> None:
        """Nothing: what is heard belongs to decisions."""


def table(calibration: Calibration) -> str:
    """One line per threshold; the chosen one is marked."""
    choice = calibration.choice
    level = 1 - choice.alpha / len(choice.trials)
    lines = [
        f"plain policy: {calibration.base_success:.1%} of {choice.trials[0].n} validation episodes",
        f"{'critic acts':<22}{'abstained':>10}{'wins':>6}{'losses':>8}{'gain':>9}{f'lower bound ({level:.4g})':>24}",
    ]
    for trial, abstained in zip(choice.trials, calibration.abstained, strict=True):
        mark = "  <- chosen" if trial is choice.trial else ""
        lines.append(
            f"{_words(trial.threshold):<22}{abstained:>10.1%}{trial.wins:>6}{trial.losses:>8}"
            f"{100 * trial.gain:>+9.1f}{100 * trial.bound:>+24.1f}{mark}"
        )
    worst = f"a gain, and less than {100 * choice.margin:g} points to lose, are not shown"
    never = f"the critic never acts: {worst if choice.margin else 'no gain is proven'}"
    return "\n".join([*lines, "gain and bound in points" if choice.trial else never])


def plot(calibration: Calibration, path: Path) -> Path:
    """Gain of every threshold with its lower bound; 0 is the plain policy, the dashed line what may be lost."""
    trials = calibration.choice.trials
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(6.4, 3.8))
        axes.axhline(0, color=GREY, linewidth=1)
        axes.axhline(-100 * calibration.choice.margin, color=GREY, linewidth=1, linestyle="--")
        for x, trial in enumerate(trials):
            colour = BLUE if trial is calibration.choice.trial else GREY
            axes.plot([x, x], [100 * trial.bound, 100 * trial.gain], color=colour, linewidth=3)
            axes.plot(x, 100 * trial.gain, "o", color=colour)
        axes.set_xticks(range(len(trials)), [_words(trial.threshold) for trial in trials])
        axes.set_xlim(-0.5, len(trials) - 0.5)
        axes.set_ylabel("gain in success, points")
        axes.set_xlabel("the critic acts (confidence)")
        used = "blue is used" if calibration.choice.trial else "the critic never acts"
        axes.set_title(f"Gain and lower bound on {trials[0].n} validation episodes; {used}")
        figure.savefig(path, dpi=120)
        plt.close(figure)
    return path


def _listen(job: Play, measure: Measure) -> Shadow:
    trained = load(job.models)
    execute = executed_steps(None, trained.policy, trained.critics)
    steerer = job.arm.steerer(trained.policy, trained.critics, execute, job.seed)
    follower = components.load("followers", job.arm.follower).Config(**job.arm.follower_options).build()
    robot = robot_of(job.site, trained.policy.spec.n_obs_steps)
    return listen(robot, steerer, job.seeds, measure, follower, job.arm.lag)


def _padded(rows: Sequence[Sequence[float]]) -> np.ndarray:
    """float64[len(rows), longest], NaN behind each row's end."""
    padded = np.full((len(rows), max(map(len, rows))), np.nan)
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = values
    return padded


def _words(threshold: float) -> str:
    return "always" if threshold == ALWAYS else f"above {threshold:.3g}"
