"""train_online: rounds of episodes while the learner learns from the rounds before. Interruptible and resumable.

    actor    round 1 with v0 | round 2 with v1 | round 3 with v2 ...
    learner  (offline data)  | learns round 1  | learns rounds 1, 2 ...     v_r: saved when both are done

Round r is played with what was learned from the rounds before r - 1: both cores work, and which weights played which
episode never depends on who was faster. With equal seeds a run is the same bit for bit, interrupted or not.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..arms import MAIN
from ..curves import Curves
from ..episodes.cache import Cache, open_cache
from ..episodes.store import EpisodeStore
from ..evaluate import Arm
from ..labels.cached import read_labels
from ..learners import CriticLearner, Joint, JointLearner, Learner, Optimization, PolicyLearner
from ..networks.matmul import matmul
from ..playing import Site
from ..results import write_atomic
from ..sampling import ChunkSampler
from ..training import Interrupted, Run, TrainConfig, choose_device, load_model, signals_noted, torch_threads
from ..types import Episode
from ..workers import process_pool
from .acting import Acting, Played, Round, Version, play
from .growing_sampler import GrowingSampler
from .grown import Grown

LEARN = ("critic", "policy", "both")
ENDLESS = 1 << 40  # gradient steps: a cosine over them is flat


@dataclass(frozen=True)
class Schedule:
    folder: str = "outputs/online"  # checkpoints, curves and episodes/; a run found there is continued
    learn: str = "critic"  # critic | policy | both: what is trained while the robot works
    episodes: int = 200  # episodes that the robot plays in all
    per_round: int = 10  # episodes between two versions of the weights
    ratio: float = 1.0  # update-to-data: gradient steps per executed control step
    first_updates: int = 0  # gradient steps on offline data before the first new version
    share: float = 0.5  # of every batch that is offline data, where there is any (RLPD)
    batch_size: int = 256  # windows per gradient step
    first_seed: int = 100_000  # environment seed of the first episode
    seed: int = 0  # of the windows, the losses' noise and the candidates' noise
    evaluate_every: int = 5  # rounds between evaluations on fixed seeds; 0: never
    evaluate_episodes: int = 20  # of each
    evaluate_seed: int = 1000  # the first of the evaluation's seeds
    device: str = "auto"  # of the learner: auto | cpu | cuda
    threads: int = 1  # CPU threads of the learner; the actor has one of its own
    keep: int = 3  # newest versions kept
    progress: bool = True  # progress bar on stderr
    tensorboard: bool = True  # write event files to folder/events

    def __post_init__(self) -> None:
        if self.learn not in LEARN:
            raise ValueError(f"learn: expected one of {', '.join(LEARN)}, got {self.learn!r}")
        if min(self.episodes, self.per_round, self.batch_size) < 1 or self.ratio < 0:
            raise ValueError("episodes, per_round and batch_size: expected at least 1, and a ratio of at least 0")

    @property
    def rounds(self) -> int:
        return -(-self.episodes // self.per_round)

    def seeds(self, number: int) -> tuple[int, ...]:
        """Environment seeds of round `number`, counted from 1."""
        first = (number - 1) * self.per_round
        return tuple(self.first_seed + i for i in range(first, min(first + self.per_round, self.episodes)))


@dataclass(frozen=True)
class OnlineJob:
    robot: Any  # Config of a robots component
    policy: str  # checkpoint to start from
    critic: str = ""  # checkpoint to start from; "": the plain policy acts, and learns
    data: str = ""  # store of offline episodes; "": none
    arm: Arm = field(default_factory=lambda: Arm("online", "softmax_average", {"temperature": 0.5}, 16, critic=MAIN))
    schedule: Schedule = Schedule()
    optimization: Optimization = Optimization()  # of a policy that learns
    joint: Joint = Joint()  # of a critic and a policy that learn together
    labels: str = ""  # of the offline data
    batch_size: int = 10  # robots simulated at once


@dataclass
class Progress:
    """What a run has done, as progress.json tells it."""

    rounds: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)

    @property
    def env_steps(self) -> int:
        return sum(sum(each["steps"]) for each in self.rounds)


def train_online(job: OnlineJob, actor: Executor | None = None) -> Path:
    """Play and learn all rounds; the run's folder. Raises Interrupted on a signal, after a whole round.

    `actor` plays; None: a process of its own.
    """
    schedule = job.schedule
    with (
        torch_threads(schedule.threads),
        matmul("default"),
        signals_noted() as stop,
        nullcontext(actor) if actor else process_pool(1) as actor,
        tqdm(total=schedule.episodes, disable=not schedule.progress, unit="ep") as bar,
    ):
        online = Online(job)
        bar.update(min(schedule.episodes, len(online.progress.rounds) * schedule.per_round))
        with Curves(online.root, online.config, online.run.step) as curves:
            while len(online.progress.rounds) < schedule.rounds:
                played = online.round(actor, curves)
                bar.update(len(played.success))
                bar.set_postfix(
                    success=sum(played.success) / max(1, len(played.success)), version=online.version.number
                )
                if stop and len(online.progress.rounds) < schedule.rounds:
                    tqdm.write(f"stopped after round {len(online.progress.rounds)}; the same command continues")
                    raise Interrupted(128 + stop[0])
    return online.root


class Online:
    """A run: its learner, its data, and the actor's side as plain values."""

    def __init__(self, job: OnlineJob) -> None:
        self.job, self.schedule, self.root = job, job.schedule, Path(job.schedule.folder)
        self.config = train_config(job.schedule)
        self.store = self.root / "episodes"
        self.learner = learner_of(job)
        self.sampler = sampler_of(job, self.learner, self.store)
        self.run = Run(self.learner, self.sampler, self.config)
        self.progress = Progress()
        site = Site(job.robot, job.batch_size, 0)
        self.acting = Acting(site, job.arm, self.store, job.schedule.seed)
        self._resume()

    @property
    def version(self) -> Version:
        """What the next round is played with."""
        number, folder = len(self.progress.rounds), self.root
        if self.run.step == 0:
            return Version(number, Path(self.job.policy), Path(self.job.critic) if self.job.critic else None)
        step = f"step_{self.run.step:08d}"
        policy, critic = (folder / name / step for name in ("policy", "critic"))
        if self.schedule.learn == "critic":
            policy, critic = Path(self.job.policy), folder / step
        elif self.schedule.learn == "policy":
            policy, critic = folder / step, Path(self.job.critic) if self.job.critic else None
        return Version(number, policy, critic)

    def round(self, actor: Executor, curves: Curves) -> Played:
        """One round: the actor plays with the version at hand while the learner learns from the rounds before."""
        number, began = len(self.progress.rounds) + 1, time.monotonic()
        playing = actor.submit(play, self.acting, Round(number, self.version, self.schedule.seeds(number)))
        updates = self._updates()
        self._learn(updates, curves)
        learned = time.monotonic()
        played = playing.result()
        self.sampler.take(played.names)
        times = {"learning": learned - began, "waiting": time.monotonic() - learned}
        self._book(actor, number, played, updates, times)
        return played

    def _updates(self) -> int:
        if not self.progress.rounds:
            return self.schedule.first_updates
        due = self.schedule.first_updates + self.schedule.ratio * self.progress.env_steps
        return max(0, round(due) - self.run.step)

    def _learn(self, updates: int, curves: Curves) -> None:
        for _ in range(updates):
            metrics = self.learner.update(self.sampler.sample(), self.run.generator)
            self.run.step += 1
            curves.add("train", self.run.step, metrics)
        curves.flush("train", self.run.step)

    def _book(self, actor: Executor, number: int, played: Played, updates: int, times: dict[str, float]) -> None:
        """The version first, then the words about it: what is told is there."""
        version = self.version.number
        if updates:
            self.run.save(self.root)
        self.progress.rounds.append(
            {
                "round": number,
                "version": version,
                "update": self.run.step,
                "names": list(played.names),
                "success": list(played.success),
                "steps": list(played.steps),
                "seconds": times,
            }
        )
        every = self.schedule.evaluate_every
        if every and (number % every == 0 or number == self.schedule.rounds):
            self._evaluate(actor)
        self._save()

    def _evaluate(self, actor: Executor) -> None:
        first, version = self.schedule.evaluate_seed, self.version
        seeds = tuple(range(first, first + self.schedule.evaluate_episodes))
        found = actor.submit(play, replace(self.acting, store=None), Round(0, version, seeds)).result()
        self.progress.evaluations.append(
            {"version": version.number, "env_steps": self.progress.env_steps, "success": list(found.success)}
        )

    def _save(self) -> None:
        text = json.dumps(asdict(self.progress), indent=1) + "\n"
        write_atomic(self.root / "progress.json", text)

    def _resume(self) -> None:
        path = self.root / "progress.json"
        self.run.resume(self.root)
        if path.exists():
            self.progress = Progress(**json.loads(path.read_text()))
        for each in self.progress.rounds:
            self.sampler.take(each["names"])


def train_config(schedule: Schedule) -> TrainConfig:
    """As offline training wants it; how many gradient steps there will be, nobody knows yet."""
    return TrainConfig(
        folder=schedule.folder,
        steps=ENDLESS,
        batch_size=schedule.batch_size,
        seed=schedule.seed,
        threads=schedule.threads,
        device=schedule.device,
        keep=max(2, schedule.keep),  # the actor still plays the one before
        matmul="default",
        tensorboard=schedule.tensorboard,
    )


def learner_of(job: OnlineJob) -> Learner:
    """What learns, with fresh optimizers, and everything it asks attached."""
    device, learn = choose_device(job.schedule.device), job.schedule.learn
    policy = load_model(job.policy, device)
    critic = load_model(job.critic, device) if job.critic else None
    if learn != "policy" and critic is None:
        raise ValueError(f"learn={learn}: expected a critic to start from, got none; give one, or learn=policy")
    trained = PolicyLearner(policy, ENDLESS, job.optimization)
    if learn == "both":
        return JointLearner(CriticLearner(critic), trained, job.joint)
    if learn == "critic":
        if getattr(critic, "needs_policy", False):
            critic.attach(getattr(policy, "target_policy", policy))
        return CriticLearner(critic)
    if hasattr(policy, "attach"):
        policy.attach(critic)
    return trained


def sampler_of(job: OnlineJob, learner: Learner, store: Path) -> GrowingSampler:
    """Windows as the model that learns wants them."""
    schedule, model = job.schedule, getattr(learner, "critic", learner).model
    offline, labels = None, None
    if job.data:
        data = EpisodeStore.open(job.data)
        offline = open_cache(data, progress=schedule.progress)
        labels = read_labels(data, job.labels, offline) if job.labels else None
    updates = job.joint.critic_updates if schedule.learn == "both" else 1

    def make(cache: Cache, batch_size: int, seed: int) -> ChunkSampler:
        return ChunkSampler(
            cache,
            horizon=model.spec.horizon,
            n_obs_steps=model.spec.n_obs_steps,
            offsets=getattr(model, "offsets", (model.spec.horizon,)),
            gamma=getattr(model, "gamma", 0.99),
            batch_size=batch_size,
            seed=seed,
            device=choose_device(schedule.device),
            next_chunks=getattr(model, "next_chunks", False),
            labels=labels if cache is offline else None,
        )

    def read(name: str) -> Episode:
        return EpisodeStore.open(store).read(name, decisions=False)

    grown = Grown(model.spec.choose(horizon=0, n_obs_steps=0), tuple(model.tasks))
    size = schedule.batch_size * updates
    return GrowingSampler(make, read, grown, offline, size, schedule.share, schedule.seed)
