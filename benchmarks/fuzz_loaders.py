"""Everything that reads a file from a stranger, by name, and which errors are an answer."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from robot_value import checkpoint, components, convert, topics
from robot_value.cli import main
from robot_value.episodes import EpisodeStore, StoreError
from robot_value.episodes.cache import open_cache
from robot_value.steering.abstention import Calibration
from robot_value.steering.alarm import Alarm
from robot_value.untrusted import Refused

Loader = Callable[[Path], object]
OURS = (convert.ConversionError, StoreError, Refused, checkpoint.CheckpointError, topics.TopicsError)


def loaders() -> dict[str, Loader]:
    """Name -> reads the path to the end."""
    converters = {f"convert {name}": _converter(name) for name in components.names("converters")}
    return converters | {
        "store": _read_store,
        "cache": lambda path: open_cache(EpisodeStore.open(path), progress=False),
        "data inspect": lambda path: _command("inspect", path),
        "data verify": lambda path: _command("verify", path),
        "recognise": convert.recognise,
        "checkpoint": lambda path: checkpoint.load(path, learner=True),
        "calibration": Calibration.load,
        "alarm": Alarm.load,
        "spec": lambda path: convert.spec_from(str(path)),
        "topics": topics.load,
    }


def answers(error: BaseException, path: Path) -> bool:
    """Whether the error is one that a person was meant to read: ours, or one that names the file."""
    named = isinstance(error, ValueError) and not isinstance(error, UnicodeError) and path.name in str(error)
    return isinstance(error, OURS) or named or (isinstance(error, OSError) and bool(error.filename))


def _converter(name: str) -> Loader:
    def read(path: Path) -> None:
        module = components.load("converters", name)
        module.recognises(path)
        mapping = path.parent / "topics.yaml"  # of the sound file; bags need one
        options = {"topics": str(mapping)} if hasattr(module.Config, "topics") else {}
        source = module.Config(**options).build(path)
        refused: Exception | None = None
        try:
            for index in range(len(source.survey.keys)):
                try:
                    source.read(index)
                except OURS as error:  # one bad episode does not hide the next
                    refused = error
        finally:
            source.close()
        if refused:
            raise refused

    return read


def _read_store(path: Path) -> None:
    store = EpisodeStore.open(path)
    problems = store.verify()
    for name in store.names():
        store.about(name)
        store.read(name)
    if problems:
        raise StoreError(str(problems[0]))


def _command(verb: str, path: Path) -> None:
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        code = main(["data", verb, str(path)])
    if code not in (0, 1, 2):
        raise RuntimeError(f"data {verb} ended with code {code}")
