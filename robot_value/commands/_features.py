"""`robot-value data features`: a frozen policy looks at every recorded frame once, so that training need not run it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .. import flags
from ..episodes import EpisodeStore
from ..flags import Parsed


@dataclass(frozen=True)
class Features:
    """Encode every frame by a frozen policy, beside the episodes as features/NAME. Run it again to go on."""

    policy: str = ""  # checkpoint of the policy that will be steered, ours or LeRobot's
    pooling: str = "mean"  # mean: a vector per frame | query: a VLA's tokens, for --critic.encoder.pooling=query
    dtype: str = "float32"  # float32 | float16: half the space, each number off by at most 2^-11 of it, or 3e-8
    batch_size: int = 32  # frames encoded at once
    device: str = "auto"  # auto | cpu | cuda
    progress: bool = True  # show a progress bar


def features(paths: Sequence[str], parsed: Parsed) -> int:
    from ..features.run import encode_store
    from ..training import load_policy

    config = parsed.values
    if not config.policy:
        raise flags.FlagError("--policy: expected the checkpoint of the policy that will be steered, got nothing")
    policy = load_policy(config.policy, config.device)
    store = EpisodeStore.open(paths[0])
    done = encode_store(store, policy, config.pooling, config.dtype, config.batch_size, config.progress)
    spec, pooled = policy.spec, f" --critic.encoder.pooling={config.pooling}" if config.pooling != "mean" else ""
    print(done.to_text())
    print(
        f"train with --base={config.policy} --critic.encoder.source=policy{pooled} "
        f"--windowing.horizon={spec.horizon} --windowing.n_obs_steps={spec.n_obs_steps}"
    )
    return 0
