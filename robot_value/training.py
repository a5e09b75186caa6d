"""train_offline: recorded episodes in, a folder of checkpoints and curves out. Interruptible and resumable.

The run's folder holds step_<n>/ (a checkpoint that can be deployed, and resumed from), curves.json and events/; of a
critic and a policy trained together it holds critic/step_<n>/ and policy/step_<n>/. Of several ranks (ranks.py) the
first writes them; who is one of how many is no part of a run, so another number may go on with it.
"""

from __future__ import annotations

import contextlib
import signal
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import draccus
import torch
from torch import nn
from tqdm import tqdm

from . import checkpoint, components
from .curves import Curves
from .learner_state import load_rng_state, rng_state
from .learners import Learner
from .mixing import Sampler
from .networks.matmul import MODES, best_mode, matmul
from .ranks import differ, here, most
from .sampling import ChunkBatch


@dataclass(frozen=True)
class TrainConfig:
    folder: str = "outputs/train"  # where checkpoints and curves go; a run found there is continued
    steps: int = 6000  # gradient steps
    batch_size: int = 256  # windows per step
    seed: int = 0  # of the loss's noise and of the windows drawn
    threads: int = 0  # CPU threads of torch, 0 leaves torch's choice
    device: str = "auto"  # auto | cpu | cuda
    log_every: int = 100  # steps between points of the training curve
    validate_every: int = 1000  # steps between points of the validation curve, 0 is never
    validate_batches: int = 4  # batches per validation point, always the same ones
    validation_fraction: float = 0.1  # episodes held out for the validation curve
    save_every: int = 2000  # steps between checkpoints; the last step is always saved
    keep: int = 2  # newest checkpoints kept
    resume: bool = True  # continue the run in `folder`; False refuses a folder that has one
    matmul: str = "auto"  # auto (measured at start) | default | onednn: how the CPU multiplies float32
    progress: bool = True  # progress bar on stderr
    tensorboard: bool = True  # write event files to folder/events
    wandb: str = ""  # Weights & Biases project; empty is off


class Interrupted(SystemExit):
    """Training stopped on a signal after saving; the process ends with the signal's usual exit code."""


def train_offline(learner: Learner, sampler: Sampler, config: TrainConfig, validation: Sampler | None = None) -> Path:
    """Train to config.steps and return the last checkpoint's folder (the run's, where it has several).

    Raises NonFinite where the loss stops being a number (the last good checkpoint stays), Interrupted on SIGINT or
    SIGTERM (after a checkpoint), ValueError where the folder holds a run with another configuration.
    """
    root, first = Path(config.folder), here().index == 0
    run = Run(learner, sampler, config)
    last = run.resume(root)
    before = run.step
    with (
        torch_threads(config.threads),
        matmul(run.matmul),
        signals_noted() as stop,
        Curves(root, config, run.step) as curves,
        tqdm(total=config.steps, initial=run.step, disable=not (config.progress and first), unit="step") as bar,
    ):
        while run.step < config.steps:
            batch = sampler.sample()
            metrics = learner.update(batch, run.generator)
            if run.step == before:
                run.check_ranks(batch)
            run.step += 1
            bar.update()
            curves.add("train", run.step, metrics)
            done, signalled = run.step == config.steps, most(stop[0] if stop else 0)  # of any rank: all stop together
            save = done or signalled or run.step % config.save_every == 0
            validate = validation and config.validate_every and (done or run.step % config.validate_every == 0)
            if save or validate or run.step % config.log_every == 0:
                bar.set_postfix(curves.flush("train", run.step))  # raises on a bad loss before its weights are saved
            if validate:
                run.validate(validation, curves)
            if save:
                last = run.save(root)
            if signalled and not done:
                if first:
                    tqdm.write(f"stopped at step {run.step} of {config.steps}; the same command continues")
                raise Interrupted(128 + signalled)
    return last


def load_model(folder: str | Path, device: str | torch.device = "cpu") -> nn.Module:
    """The policy or critic saved at `folder`, or at the newest valid checkpoint below it; every byte is verified."""
    folder = Path(folder)
    if not (folder / checkpoint.MANIFEST).exists():
        folder = checkpoint.newest(folder) or _only_part(folder)
    saved = checkpoint.load(folder)
    config = draccus.decode(components.load(saved.kind, saved.name).Config, saved.config)
    model = config.build(saved.spec, saved.statistics, tuple(saved.extra.get("tasks", ())))
    model.load_state_dict(saved.tensors)
    model.version = f"{saved.name} {saved.hash[:12]}"
    return model.to(choose_device(device)).eval()


def load_policy(folder: str | Path, device: str | torch.device = "cpu") -> nn.Module:
    """As `load_model`; LeRobot's checkpoints too, and a coarse-to-fine critic as the policy that decodes it."""
    from .policies import lerobot_vla

    if lerobot_vla.is_checkpoint(folder):
        return lerobot_vla.load(folder, choose_device(device))
    model, greedy = load_model(folder, device), components.load("policies", "greedy")
    if not greedy.decodes(model):
        return model
    policy = greedy.acting(model).eval()
    policy.version = model.version
    return policy


def choose_device(device: str | torch.device) -> torch.device:
    """ "auto" is the GPU where there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: expected one this machine has, got {str(device)!r} without a GPU; use auto or cpu")
    return torch.device(device)


def component_name(model: nn.Module) -> str:
    """What components.load finds the model's module under: "flow" for ours, a dotted path for third parties."""
    module = type(model.config).__module__
    ours = module.startswith("robot_value.")
    return module.rsplit(".", 1)[-1] if ours else module


class Run:
    """Everything beside the learner that a resumed run needs to go on as if nothing had happened."""

    def __init__(self, learner: Learner, sampler: Sampler, config: TrainConfig) -> None:
        self.learner, self.parts, self.sampler, self.config = learner, learner.parts, sampler, config
        self.step = 0
        device = next(next(iter(self.parts.values())).model.parameters()).device
        self.generator = torch.Generator(device).manual_seed(config.seed)
        self.matmul = "default"

    def resume(self, root: Path) -> Path | None:
        folders = _newest(root, self.parts)
        where = next(iter(folders.values())).name if folders else ""
        if differ(torch.tensor(zlib.crc32(where.encode()))):
            raise ValueError(
                f"{root}: expected a folder that all processes share, got a run that only some of them see"
            )
        if not folders:
            threads = self.config.threads or torch.get_num_threads()
            self.matmul = _agreed(best_mode(threads)) if self.config.matmul == "auto" else self.config.matmul
            return None
        if not self.config.resume:
            step = next(iter(folders.values())).name
            raise ValueError(f"{root}: expected an empty folder, got a run at {step}; use another or resume")
        saved = {name: checkpoint.load(folder, learner=True) for name, folder in folders.items()}
        for name, part in self.parts.items():
            _same_run(root, self._asked(name), saved[name].learner["asked"])
            part.deployed.load_state_dict(saved[name].tensors)
            part.load_state(saved[name].learner["learner"])
        self._load(next(iter(saved.values())))
        return folders.get("", root)

    def save(self, root: Path) -> Path:
        if here().index == 0:
            self._write(root)
        most(0)  # nobody goes on, or home, before it is written
        return root / f"step_{self.step:08d}" if "" in self.parts else root

    def _write(self, root: Path) -> None:
        for name, part in self.parts.items():
            model = part.deployed
            checkpoint.save(
                root / name / f"step_{self.step:08d}",
                kind=part.kind,
                name=component_name(model),
                config=draccus.encode(model.config),
                spec=model.spec,
                tensors=model.state_dict(),
                statistics=model.statistics,
                extra={"tasks": list(model.tasks), "train": draccus.encode(self.config)},
                step=self.step,
                learner={"asked": self._asked(name), "learner": part.state()} | self._state(),
            )
        for name in self.parts:  # only now: until every part is saved, the previous step is where a run goes on
            checkpoint.keep(root / name, self.config.keep)

    def check_ranks(self, batch: ChunkBatch) -> None:
        """After the first update: raise where the ranks would train models of their own."""
        if (number := here().number) == 1:
            return
        if len(batch.chunks) * number != self.sampler.batch_size:
            raise ValueError(
                f"sampler: expected a share of {self.sampler.batch_size // number} rows of every batch for each of "
                f"{number} processes, got {len(batch.chunks)}; make it with share=(index, number)"
            )
        weights = [weight for part in self.parts.values() for weight in part.model.parameters()]
        if differ(torch.stack([weight.detach().double().sum() for weight in weights]).cpu()):
            raise ValueError(
                "update: expected the same weights in all processes, got different ones; a critic's own update has to "
                "call ranks.average_gradients between backward and clipping"
            )

    def _asked(self, name: str) -> dict[str, Any]:
        part = self.parts[name]
        return {"train": _fixed(self.config), "model": draccus.encode(part.model.config), "learner": part.settings}

    def _state(self) -> dict[str, Any]:
        """What all parts share; saved with each, so that any of them can be read alone."""
        return {
            "matmul": self.matmul,
            "sampler": self.sampler.state(),
            "generator": self.generator.get_state(),
            "rng": rng_state(),
        }

    def _load(self, saved: checkpoint.Checkpoint) -> None:
        state = saved.learner
        self.step, self.matmul = saved.step, state["matmul"]
        self.sampler.load_state(state["sampler"])
        self.generator.set_state(state["generator"])
        load_rng_state(state["rng"])

    def validate(self, sampler: Sampler, curves: Curves) -> None:
        """The same windows and the same noise every time, so that the curve moves only with the model."""
        state, generator = sampler.state(), torch.Generator(self.generator.device).manual_seed(self.config.seed)
        for _ in range(self.config.validate_batches):
            curves.add("validation", self.step, self.learner.validate(sampler.sample(), generator))
        sampler.load_state(state)
        curves.flush("validation", self.step)


def _agreed(mode: str) -> str:
    """What all ranks multiply by: a faster mode only where it is every rank's."""
    return MODES[-most(-MODES.index(mode))]


def _newest(root: Path, parts: Iterable[str]) -> dict[str, Path]:
    """The newest step that every part has: a run killed while it saved has one part ahead. Empty without one."""
    newest = [checkpoint.newest(root / name) for name in parts]
    if None in newest:
        return {}
    step = min(folder.name for folder in newest)
    return {name: root / name / step for name in parts}


def _only_part(folder: Path) -> Path:
    """The folder itself, unless it is a run of several models: then the user has to say which."""
    if found := [name for name in ("policy", "critic") if (folder / name).is_dir()]:
        raise ValueError(f"{folder}: expected one model, got a run of {' and '.join(found)}; say {folder / found[0]}")
    return folder


def _fixed(config: TrainConfig) -> dict[str, Any]:
    """What a continued run must share with its beginning."""
    return {name: getattr(config, name) for name in ("steps", "batch_size", "seed")}


def _same_run(root: Path, asked: dict[str, Any], saved: dict[str, Any]) -> None:
    for part, values in asked.items():
        for name in values.keys() | saved[part].keys():
            expected, got = saved[part].get(name), values.get(name)
            if expected != got:
                raise ValueError(
                    f"{root}: the run there was made with {name}={expected}, got {name}={got}; use another folder"
                )


@contextlib.contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """CPU threads of torch for a while; 0 leaves them as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def signals_noted() -> Iterator[list[int]]:
    """A list that receives the number of a SIGINT or SIGTERM; outside the main thread nothing can be caught."""
    caught: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        caught.append(number)

    before = {}
    with contextlib.suppress(ValueError):
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, note)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
