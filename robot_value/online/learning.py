"""train_online: rounds of episodes while the learner learns from the rounds before. Interruptible and resumable.

    actor    round 1 with v0 | round 2 with v1 | round 3 with v2 ...
    learner  (offline data)  | learns round 1  | learns rounds 1, 2 ...     v_r: saved when both are done

Round r is played with what was learned from the rounds before r - 1: both cores work, and which weights played which
episode never depends on who was faster. With equal seeds a run is the same bit for bit, interrupted or not. Every few
rounds the newest version is on trial: shown to be worse than the last that passed, it is rolled back.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from .. import checkpoint
from ..curves import Curves
from ..networks.matmul import matmul
from ..playing import Site
from ..training import Interrupted, Run, load_model, signals_noted, torch_threads
from .acting import Acting, Played, Round, Version
from .backends import Actors, Local, actors
from .board import Board
from .books import PASSED, PLAIN, WORSE, Booked, Progress, Seconds, Trial
from .follow import Follower
from .guard_rails import Diverged, Railed, Rails, check_finite, evidence_of
from .job import OnlineJob, Schedule, demonstrated, learner_of, sampler_of, train_config
from .page import write_page
from .publication import publish, version_of

__all__ = ["OnlineJob", "Schedule", "train_online"]


def train_online(job: OnlineJob, actor: Executor | None = None) -> Path:
    """Play and learn all rounds; the run's folder, with report.html. `actor` plays; None: what the schedule says.

    Raises Interrupted on a signal, after a whole round, and Diverged where the guard rails give up learning.
    """
    schedule, started = job.schedule, time.monotonic()
    if job.display is not None:
        job.display.check()
    with (
        torch_threads(schedule.threads),
        matmul("default"),
        signals_noted() as stop,
        _crew(job, actor, stop) as crew,
        tqdm(total=schedule.episodes, disable=not schedule.progress, unit="ep") as bar,
    ):
        online = Online(job)
        bar.update(min(schedule.episodes, len(online.progress.rounds) * schedule.per_round))
        with (
            Curves(online.root, online.config, online.run.step) as curves,
            Board(online.root, online.progress.env_steps, schedule.tensorboard) as board,
        ):
            try:
                online.play(crew, curves, board, bar, stop)
            except (Interrupted, Diverged):
                write_page(online.root, schedule.learn, started)
                raise
    write_page(online.root, schedule.learn, started)
    return online.root


def _crew(job: OnlineJob, actor: Executor | None, stop: list[int]) -> AbstractContextManager[Actors]:
    if actor is not None:
        return nullcontext(Local(actor))
    if not job.follow.store:
        return actors(job.schedule.backend, job.schedule.actors)
    spec = load_model(job.policy).spec.choose(horizon=0, n_obs_steps=0)
    rounds = Progress.load(Path(job.schedule.folder)).rounds
    return closing(Follower(job.follow, spec, [name for each in rounds for name in each.names], stop))


class Online:
    """A run: its learner, its data, and the actor's side as plain values."""

    def __init__(self, job: OnlineJob) -> None:
        self.job, self.schedule, self.root = job, job.schedule, Path(job.schedule.folder)
        self.config = train_config(job.schedule)
        self.learner = learner_of(job)
        self.rails = Rails(job.rails, self.learner)
        self.sampler = sampler_of(job, self.learner)
        self.run = Run(self.learner, Railed(self.sampler, self.rails), self.config)
        site = Site(job.robot, job.batch_size, 0)
        who = {"supervisor": job.supervisor, "display": job.display}
        self.steered = Acting(site, job.arm, job.store, job.schedule.seed, **who)
        self.plain = replace(self.steered, arm=replace(job.arm, gate="never", gate_options={}))
        self._one_model = bool(job.critic) and version_of(Path(job.policy)) == version_of(Path(job.critic))
        self._relabelled = 0  # rounds whose episodes the labels of the offline data know
        self._booked = time.monotonic()
        self._resume()

    def play(self, crew: Actors, curves: Curves, board: Board, bar: tqdm, stop: list[int]) -> None:
        """The rounds that are left."""
        self._first_trials(crew, board)
        self._publish()
        self.lap()
        while (done := len(self.progress.rounds)) < self.schedule.rounds:
            if stop:
                tqdm.write(f"stopped after round {done}; the same command continues")
                raise Interrupted(128 + stop[0])
            booked = self.round(crew, curves, board)
            bar.update(len(booked.success))
            bar.set_postfix(success=sum(booked.success) / max(1, len(booked.success)), version=booked.version)

    # -- who acts ----------------------------------------------------------------------------------------------------

    @property
    def trusted(self) -> bool:
        """Until a version has passed its trial, the plain policy acts: what is learned is scored, and not used."""
        return not self.progress.evaluations or self.progress.passed is not None

    @property
    def version(self) -> Version:
        """What the next round is played with. A roll-back is a new version with old weights: numbers only go up."""
        number = len(self.progress.rounds) + self.progress.rollbacks
        return self._newest(number) if self.trusted else self._start(number)

    def _start(self, number: int) -> Version:
        return Version(number, Path(self.job.policy), Path(self.job.critic) if self.job.critic else None)

    def _newest(self, number: int) -> Version:
        start, step = self._start(number), f"step_{self.run.step:08d}"
        if self.run.step == 0:
            return start
        if self.schedule.learn == "both":
            return Version(number, self.root / "policy" / step, self.root / "critic" / step)
        newest = {self.schedule.learn: self.root / step}
        if self._one_model:  # a critic that acts by itself (policies/greedy.py): it acts as it has learned
            newest |= {"policy": self.root / step}
        return replace(start, **newest)

    def _publish(self) -> None:
        """For the node that steers the arm; it takes the version between two episodes."""
        if self.job.follow.store:
            version = self.version
            acting = {"policy": version.policy} | ({"critic": version.critic} if version.critic else {})
            publish(self.root, version.number, acting)

    # -- a round -----------------------------------------------------------------------------------------------------

    def round(self, crew: Actors, curves: Curves, board: Board) -> Booked:
        """The actor plays with the version at hand while the learner learns from the rounds before."""
        number, version, began = len(self.progress.rounds) + 1, self.version, time.monotonic()
        acting = self.steered if self.trusted else self.plain
        playing, acted = crew.submit_round(acting, Round(number, version, self.schedule.seeds(number))), []
        playing.add_done_callback(lambda _: acted.append(time.monotonic()))
        self._relabel()
        updates = self._updates()
        self._learn(updates, curves)
        learned = time.monotonic()
        played = playing.result()
        acted = acted[0] if acted else time.monotonic()
        self._take(played.names, shown := demonstrated(self.job, self.learner))
        if updates:
            check_finite(self.run.parts.values())
            self.run.save(self.root)  # before the words about it: what is told is there
        seconds = Seconds(acted - began, learned - began, self.lap() - (max(acted, learned) - began))
        booked = self._book(number, version, played, shown, seconds)
        every = self.job.evaluate_every
        board.round(booked, self.progress.env_steps)
        if every and (number % every == 0 or number == self.schedule.rounds):
            self._trial(crew, board, self.steered, self._newest(number + self.progress.rollbacks))
        self.progress.save(self.root)
        self._settle()
        self._publish()
        return booked

    def _relabel(self) -> None:
        """A function of the rounds that are over: a resumed run has the labels that it had."""
        every, done = self.schedule.relabel_every, len(self.progress.rounds)
        known = done - done % every if every else 0
        if known != self._relabelled:
            self.sampler.relabel([name for each in self.progress.rounds[:known] for name in each.names])
            self._relabelled = known

    def _updates(self) -> int:
        if self.schedule.streaming:
            return self.sampler.due([name for each in self.progress.rounds for name in each.names])
        if not self.progress.rounds:
            return self.schedule.first_updates - self.run.step
        if not self.sampler.ready:
            return 0  # they stay due, and are made once there is a window
        due = self.schedule.first_updates + self.schedule.ratio * self.progress.env_steps
        return max(0, round(due) - self.run.step)

    def _learn(self, updates: int, curves: Curves) -> None:
        try:
            for _ in range(updates):
                metrics = self.rails.update(self.sampler.sample(), self.run.generator)
                self.run.step += 1  # a refused one counts: its windows are gone
                if metrics is not None:
                    curves.add("train", self.run.step, metrics)
            curves.flush("train", self.run.step)
        except Diverged as error:
            self.progress.stopped = f"update {self.run.step + 1}: {error}"
            self.progress.save(self.root)
            raise

    def _take(self, names: Sequence[str], demonstrations: Sequence[str]) -> None:
        self.sampler.take(names)
        if demonstrations:
            self.sampler.give(demonstrations)

    def _book(self, number: int, version: Version, played: Played, shown: list[str], seconds: Seconds) -> Booked:
        episodes = {name: list(getattr(played, name)) for name in ("names", "success", "steps", "human_steps")}
        told = {"demonstrations": shown, "refused": self.rails.refused, "seconds": seconds}
        booked = Booked(number, version.number, self.run.step, **episodes, **told)
        self.progress.rounds.append(booked)
        return booked

    def lap(self) -> float:
        """Seconds since it was asked last."""
        before, self._booked = self._booked, time.monotonic()
        return self._booked - before

    # -- trials ------------------------------------------------------------------------------------------------------

    def _first_trials(self, crew: Actors, board: Board) -> None:
        """The plain policy and the weights to start from: what later versions are held against."""
        if self.progress.rounds or not self.job.evaluate_every:
            return
        if not self.progress.evaluations and self.job.arm.critic is not None:
            self._trial(crew, board, self.plain, self._start(0), PLAIN)
            self.progress.save(self.root)
        if self.progress.passed is None and not self.progress.rollbacks:
            self._trial(crew, board, self.steered, self._start(0))
            self.progress.save(self.root)
            self._settle()

    def _trial(self, crew: Actors, board: Board, acting: Acting, version: Version, verdict: str = "") -> None:
        """Play the evaluation seeds until all are played or the version is shown to be worse than the last."""
        began, progress, success = time.monotonic(), self.progress, []
        last, worst = progress.reference, math.inf if verdict or not self.job.rails.alpha else 1 / self.job.rails.alpha
        evidence = 0.0
        for seeds in self.schedule.evaluation(self.job.batch_size * self.schedule.actors):
            success += crew.submit_round(replace(acting, store=None), Round(0, version, seeds)).result().success
            evidence = evidence_of(success, last.success) if last else 0.0
            if evidence >= worst:
                break
        trial = Trial(
            version=None if verdict == PLAIN else version.number,
            round=len(progress.rounds),
            update=self.run.step,
            env_steps=progress.env_steps,
            success=success,
            verdict=verdict or (WORSE if evidence >= worst else PASSED),
            against=last.version if last else None,
            evidence=evidence,
            seconds=time.monotonic() - began,
        )
        progress.evaluations.append(trial)
        board.trial(trial)
        self.lap()

    def _settle(self) -> None:
        """Do what the last trial says, unless that is done: keep the weights, or go back to those that passed last."""
        last = self.progress.evaluations[-1] if self.progress.evaluations else None
        if last is None or last.update != self.run.step:
            return
        if last.verdict == PASSED and not self._kept(last.update):
            self.run.save(self.root / PASSED)
        if last.verdict == WORSE and self.progress.passed is not None:
            self._roll_back(f"step_{self.progress.passed.update:08d}")

    def _kept(self, step: int) -> bool:
        """Whether the weights of a step that passed are where they stay; the last part is saved last."""
        return (self.root / PASSED / list(self.run.parts)[-1] / f"step_{step:08d}").exists()

    def _roll_back(self, step: str) -> None:
        """Weights, optimizers and averages of that step, as a new one; windows and noise go on."""
        for name, part in self.run.parts.items():
            saved = checkpoint.load(self.root / PASSED / name / step, learner=True)
            part.deployed.load_state_dict(saved.tensors)
            part.load_state(saved.learner["learner"])
        self.run.step += 1
        self.run.save(self.root)

    def _resume(self) -> None:
        self.run.resume(self.root)
        self.progress = Progress.load(self.root)
        self.progress.stopped = ""
        for each in self.progress.rounds:
            self._take(each.names, each.demonstrations)
        self._settle()
