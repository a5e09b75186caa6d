"""What a value network puts out, and how that is read and trained: `--critic.head.kind=hl_gauss`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...normalize import MissingStatistics, Statistics
from .c51 import C51
from .flow import Flow
from .gaussian import Gaussian
from .generalized_gaussian import GeneralizedGaussian
from .hl_gauss import HLGauss
from .iqn import IQN
from .logit import Logit
from .protocol import Head
from .quantile import Quantile
from .scalar import Scalar

KINDS = ("scalar", "logit", "hl_gauss", "c51", "quantile", "iqn", "gaussian", "generalized_gaussian", "flow")


@dataclass(frozen=True)
class HeadConfig:
    kind: str = "scalar"  # scalar | logit | hl_gauss | c51 | quantile | iqn | gaussian | generalized_gaussian | flow
    low: float = 0.0  # least return (logit, hl_gauss, c51, flow); low = high = 0 takes both from the data's returns
    high: float = 0.0  # largest return
    bins: int = 101  # of [low, high] (hl_gauss, c51; flow: of z); C51 and V-GPS use 51, PA-RL 128, RECAP 201
    sigma: float = 0.75  # width of a smeared target in bins (hl_gauss); Farebrother et al.
    levels: int = 32  # numbers put out (quantile), atoms read out (gaussian, generalized_gaussian); QR-DQN uses 200
    huber: float = 0.01  # kappa in the unit of returns, 0 is |u| (quantile, iqn); QR-DQN uses 1 with |rewards| <= 1
    draws: int = 8  # passes of the network per value (iqn: levels, flow: starts); IQN and floq use 8
    cosines: int = 16  # inputs that say the level (iqn) or the time (flow); IQN and floq use 64
    flow_steps: int = 8  # Euler steps of the readout (flow); floq
    spread: float = 0.32  # width of z's embedding, share of [low, high] (flow); floq uses 16 of 50 bins
    coverage: float = 1.0  # width of the starts, share of [low, high] (flow); floq uses 0.1, quantiles want 1


def make_head(config: HeadConfig, statistics: Mapping[str, Statistics]) -> Head:
    """Raises ValueError on an unknown kind, MissingStatistics where a head needs bounds that nobody gave."""
    c = config
    match c.kind:
        case "scalar":
            return Scalar()
        case "logit":
            return Logit(*bounds(c, statistics))
        case "hl_gauss":
            return HLGauss(*bounds(c, statistics), c.bins, c.sigma)
        case "c51":
            return C51(*bounds(c, statistics), c.bins)
        case "quantile":
            return Quantile(c.levels, c.huber)
        case "iqn":
            return IQN(c.draws, c.cosines, c.huber)
        case "gaussian":
            return Gaussian(c.levels)
        case "generalized_gaussian":
            return GeneralizedGaussian(c.levels)
        case "flow":
            return Flow(*bounds(c, statistics), c.flow_steps, c.draws, c.bins, c.spread, c.coverage, c.cosines)
    raise ValueError(f"head.kind: expected one of {', '.join(KINDS)}, got {c.kind!r}")


def bounds(config: HeadConfig, statistics: Mapping[str, Statistics]) -> tuple[float, float]:
    """(low, high) of the returns a head can say; where all recorded returns are one number, half a unit around it."""
    low, high = config.low, config.high
    if low == high == 0:
        if "return" not in statistics:
            raise MissingStatistics(
                f"head {config.kind}: expected bounds of the returns, got none; set head.low and head.high, or give "
                'statistics["return"] (windows.return_statistics)'
            )
        low, high = float(statistics["return"].low[0]), float(statistics["return"].high[0])
        low, high = (low, high) if low < high else (low - 0.5, high + 0.5)
    if not low < high:
        raise ValueError(f"head.low and head.high: expected low < high, got {low} and {high}")
    return low, high
