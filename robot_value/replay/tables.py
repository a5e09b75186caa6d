"""A Replayed on disk: exactly, as what an interruption leaves of a pass, and as Parquet for other people's tools.

Shape letters: D decisions, N candidates.
"""

from __future__ import annotations

import io
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..episodes.durable import replace_file
from ..types import Spec
from .replayed import TABLE, LoggedEpisode, Opinion, Replayed

ARRAYS = ("episode", *TABLE)
NUMBERS = ("horizon", "execute", "gamma", "compared")


def save(replayed: Replayed, path: Path) -> None:
    """Whole or not at all."""
    arrays = {name: getattr(replayed, name) for name in ARRAYS}
    arrays |= {f"column {name}": column for name, column in replayed.columns.items()}
    for critic, opinion in replayed.opinions.items():
        arrays |= {f"opinion {critic} {item.name}": getattr(opinion, item.name) for item in fields(Opinion)}
    arrays["rewards"] = np.concatenate([episode.rewards for episode in replayed.episodes])
    about = {name: getattr(replayed, name) for name in NUMBERS} | {
        "spec": replayed.spec.to_json(),
        "episodes": [{**vars(episode), "rewards": None} for episode in replayed.episodes],
        "critics": list(replayed.opinions),
        "seconds": dict(replayed.seconds),
        "unequal": list(replayed.unequal),
    }
    content = io.BytesIO()
    np.savez(content, about=np.array(json.dumps(about)), **arrays)
    replace_file(path, content.getvalue())


def load(path: Path) -> Replayed:
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    about = json.loads(str(arrays.pop("about")))
    ends = np.cumsum([episode["steps"] for episode in about["episodes"]])[:-1]
    rewards = np.split(arrays["rewards"], ends)
    facts = [
        LoggedEpisode(**(episode | {"rewards": seen})) for episode, seen in zip(about["episodes"], rewards, strict=True)
    ]
    names = [item.name for item in fields(Opinion)]
    return Replayed(
        spec=Spec.from_json(about["spec"]),
        episodes=tuple(facts),
        opinions={c: Opinion(**{name: arrays[f"opinion {c} {name}"] for name in names}) for c in about["critics"]},
        columns={n.removeprefix("column "): array for n, array in arrays.items() if n.startswith("column ")},
        seconds=about["seconds"],
        unequal=tuple(about["unequal"]),
        **{name: arrays[name] for name in ARRAYS},
        **{name: about[name] for name in NUMBERS},
    )


def decisions(replayed: Replayed) -> dict[str, Any]:
    """Column -> values [D] or [D, N]: what fits a table. Chunks stay in the episodes."""
    names = np.array([episode.name for episode in replayed.episodes])
    columns: dict[str, Any] = {
        "episode": names[replayed.episode],
        "step": replayed.step,
        "time_s": replayed.step * replayed.spec.dt,
        "return": replayed.returns,
        "length": replayed.length,
        "reason": replayed.reason,
        "index": replayed.index,
    }
    for critic, opinion in replayed.opinions.items():
        columns |= {f"{critic}.{name}": values for name, values in vars(opinion).items()}
    return columns | {name: column for name, column in replayed.columns.items() if column.ndim <= 2}


def episodes(replayed: Replayed) -> dict[str, Any]:
    """Column -> a value per episode."""
    rows = [{**asdict(episode), "rewards": float(episode.rewards.sum())} for episode in replayed.episodes]
    found = {("reward" if name == "rewards" else name): [row[name] for row in rows] for name in rows[0]}
    found["decisions"] = np.bincount(replayed.episode, minlength=len(rows))
    for critic, opinion in replayed.opinions.items():
        sums = np.bincount(replayed.episode, opinion.logged_value.astype(np.float64), len(rows))
        found[f"{critic}.logged_value"] = sums / np.maximum(found["decisions"], 1)
    return found


def write(columns: dict[str, Any], path: Path) -> Path:
    """A Parquet file; values of two dimensions become lists of fixed size."""
    import pyarrow
    import pyarrow.parquet

    def typed(values: Any) -> Any:
        if getattr(values, "ndim", 1) < 2:
            return pyarrow.array(values)
        return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values.reshape(-1)), values.shape[1])

    content = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({name: typed(values) for name, values in columns.items()}), content)
    replace_file(path, content.getvalue())
    return path
