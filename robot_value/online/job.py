"""What an online run is asked to do, and the learner and the sampler that it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..arms import MAIN
from ..episodes.cache import Cache, open_cache
from ..episodes.store import EpisodeStore
from ..evaluate import Arm
from ..learners import CriticLearner, Joint, JointLearner, Learner, Optimization, PolicyLearner
from ..sampling import ChunkSampler
from ..training import TrainConfig, choose_device, load_model
from ..types import Episode, Spec
from . import corrections
from .follow import Follow
from .growing_sampler import GrowingSampler
from .grown import Grown
from .guard_rails import GuardRails
from .relabelled import Relabelled
from .stream import Stream, transitions
from .streaming import Streaming, StreamingLearner
from .supervised import Config as Supervisor

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
    # learn from every executed chunk once, in order, without replay (stream-x); ratio, share and batch_size then say
    # nothing
    streaming: bool = False
    share: float = 0.5  # of every batch that is offline data, where there is any (RLPD)
    batch_size: int = 256  # windows per gradient step
    first_seed: int = 100_000  # environment seed of the first episode
    seed: int = 0  # of the windows, the losses' noise and the candidates' noise
    # rounds between trials of the newest version on fixed seeds; 0: none, all are trusted. An arm that is followed has
    # no seeds to play again, and no trials
    evaluate_every: int = 5
    evaluate_episodes: int = 20  # of each
    evaluate_seed: int = 1000  # the first of the evaluation's seeds
    device: str = "auto"  # of the learner: auto | cpu | cuda
    threads: int = 1  # CPU threads of the learner; the actor has one of its own
    keep: int = 3  # newest versions kept
    progress: bool = True  # progress bar on stderr
    tensorboard: bool = True  # write event files to folder/events
    backend: str = "local"  # local | ray: where the actors run
    actors: int = 1  # processes that play a round's episodes side by side
    interventions: str = ""  # what human steps mean to the learner: "" recorded rewards | rlif | pvp | dagger
    # rounds after which the labels' labeler is fitted again, to the own episodes too (ExPLORe); 0: never
    relabel_every: int = 0

    def __post_init__(self) -> None:
        if self.learn not in LEARN:
            raise ValueError(f"learn: expected one of {', '.join(LEARN)}, got {self.learn!r}")
        if min(self.episodes, self.per_round, self.batch_size) < 1 or self.ratio < 0:
            raise ValueError("episodes, per_round and batch_size: expected at least 1, and a ratio of at least 0")
        if self.streaming and self.learn != "critic":
            raise ValueError(f"streaming: expected learn=critic, got {self.learn}; the policy is not trained")
        corrections.check(self.interventions)

    @property
    def rounds(self) -> int:
        return -(-self.episodes // self.per_round)

    def seeds(self, number: int) -> tuple[int, ...]:
        """Environment seeds of round `number`, counted from 1."""
        first = (number - 1) * self.per_round
        return tuple(self.first_seed + i for i in range(first, min(first + self.per_round, self.episodes)))

    def evaluation(self, block: int) -> list[tuple[int, ...]]:
        """The evaluation's environment seeds, in blocks between which one may stop."""
        seeds = range(self.evaluate_seed, self.evaluate_seed + self.evaluate_episodes)
        return [tuple(seeds[i : i + block]) for i in range(0, len(seeds), block)]


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
    streaming: Streaming = Streaming()  # how, where schedule.streaming
    # store that people append to while the robot works; what is there when a round ends joins the offline half, and
    # progress.json says when: it is what decides the bits. "": none
    demonstrations: str = ""
    labels: str = ""  # of the offline data; with `interventions`, those of the labeler `intervention`
    batch_size: int = 10  # robots simulated at once
    rails: GuardRails = GuardRails()  # when learning is held up
    supervisor: Supervisor | None = None  # a scripted expert that takes over while episodes are recorded; None: nobody
    display: Any = None  # Config of a displays component that shows what the first actor decides; changes no bit
    follow: Follow = Follow()  # an arm that works by itself, in the place of `robot`

    def __post_init__(self) -> None:
        if self.follow.store and self.supervisor is not None:
            raise ValueError(
                "supervisor: expected none where an arm is followed, got a scripted expert; a human is there"
            )
        if self.follow.store and self.display is not None:
            raise ValueError("display: expected none where an arm is followed; it is a parameter of the steering node")
        if self.schedule.relabel_every and (not self.data or not self.labels or self.schedule.streaming):
            raise ValueError(
                "relabel_every: expected data, labels of it and learning with replay; name both, or leave it at 0"
            )

    @property
    def store(self) -> Path:
        """Where own episodes are."""
        return Path(self.follow.store) if self.follow.store else Path(self.schedule.folder) / "episodes"

    @property
    def evaluate_every(self) -> int:
        return 0 if self.follow.store else self.schedule.evaluate_every


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
        return StreamingLearner(critic, job.streaming) if job.schedule.streaming else CriticLearner(critic)
    if hasattr(policy, "attach"):
        policy.attach(critic)
    return trained


def sampler_of(job: OnlineJob, learner: Learner) -> GrowingSampler | Stream:
    """Windows as the model that learns wants them."""
    schedule, model = job.schedule, getattr(learner, "critic", learner).model
    device = choose_device(schedule.device)
    spec, meaning = model.spec.choose(horizon=0, n_obs_steps=0), partial(_meaning, job)
    read = partial(_read, job.store, spec, meaning)
    if schedule.streaming:
        n_obs_steps, gamma = model.spec.n_obs_steps, model.gamma
        return Stream(read, partial(transitions, k=model.scope, gamma=gamma, n_obs_steps=n_obs_steps, device=device))
    offline, labelled = None, None
    if job.data:
        data = EpisodeStore.open(job.data)
        offline = open_cache(data, progress=schedule.progress)
        labelled = Relabelled(data, offline, job.labels, read) if job.labels else None

    def make(cache: Cache, batch_size: int, seed: int) -> ChunkSampler | None:
        if cache is offline:
            drawn = labelled.labels if labelled else None
        else:
            drawn = corrections.starts(cache, model.spec.horizon, schedule.interventions)
        if drawn is not None and drawn.weight is not None and not drawn.weight.any():
            return None  # no correction yet
        return ChunkSampler(
            cache,
            horizon=model.spec.horizon,
            n_obs_steps=model.spec.n_obs_steps,
            offsets=getattr(model, "offsets", (model.spec.horizon,)),
            gamma=getattr(model, "gamma", 0.99),
            batch_size=batch_size,
            seed=seed,
            device=device,
            next_chunks=getattr(model, "next_chunks", False),
            labels=drawn,
        )

    tasks, refit = tuple(model.tasks), labelled.refit if labelled else None
    shown = (partial(_read, Path(job.demonstrations), spec, meaning), Grown(spec, tasks))
    size = schedule.batch_size * (job.joint.critic_updates if schedule.learn == "both" else 1)
    given = shown if job.demonstrations else None
    return GrowingSampler(make, read, Grown(spec, tasks), offline, size, schedule.share, schedule.seed, given, refit)


def _read(store: Path, spec: Spec, meaning: Callable[[Episode], Episode], name: str, images: bool = True) -> Episode:
    """Raises SpecMismatch where the store is another robot's, ValueError where it is another run's."""
    episodes = EpisodeStore.open(store)
    spec.check(episodes.spec, f"the store {store}")
    try:
        return meaning(episodes.read(name, images=images, decisions=False))
    except KeyError as error:
        raise ValueError(
            f"{store}: expected episode {name}, which this run has learned from, got none; name the store that the run "
            "began with, or another --schedule.folder for a new run"
        ) from error


def _meaning(job: OnlineJob, episode: Episode) -> Episode:
    """What an own episode, or a demonstration, says to the learner."""
    paid = job.follow.rewarded(episode) if job.follow.store else episode
    return corrections.relabel(paid, job.schedule.interventions)


def demonstrated(job: OnlineJob, learner: Learner) -> list[str]:
    """Names of the demonstrations that were given so far. Raises SpecMismatch where they are of another robot."""
    path = Path(job.demonstrations)
    if not job.demonstrations or not (path / "zarr.json").exists():
        return []
    store = EpisodeStore.open(path)
    getattr(learner, "critic", learner).model.spec.check(store.spec, "the demonstrations' store")
    return sorted(store.names())
