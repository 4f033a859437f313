"""What the picture and the page both show: curves, colours, words."""

import math
from typing import NamedTuple

import numpy as np

from keras_grades.component import ROLES

ROLE_NAMES = {
    "query": "query",
    "key": "key",
    "value": "value",
    "qkv": "query, key and value",
    "attention_output": "attention output",
    "ffn_up": "feed-forward up",
    "ffn_gate": "feed-forward gate",
    "ffn_gate_up": "feed-forward gate and up",
    "ffn_down": "feed-forward down",
}
# The seven roles that meet in one model have Okabe and Ito's colours, which
# colour-blind readers can tell apart, less the yellow, hard to see on white.
# Those of the fused ones are as far from these as can be.
COLORS = {
    "query": "#0072b2",
    "key": "#e69f00",
    "value": "#009e73",
    "qkv": "#4000a0",
    "attention_output": "#d55e00",
    "ffn_up": "#56b4e9",
    "ffn_gate": "#cc79a7",
    "ffn_gate_up": "#602000",
    "ffn_down": "#000000",
}
GREY = "#555555"
LIGHT_GREY = "#eeeeee"
# More points than that only make a line ragged.
MAX_POINTS = 100
MAX_TAU_LINES = 4
# Of more rows lines between them would leave little.
MAX_LINED_ROWS = 200

CURVES_TITLE = "Matrices still trained: median and range of each kind"
STEPS_TITLE = "Step at which each matrix froze"
GRACE = "grace period: nothing freezes"
NOT_MEASURED = "no step was measured"
STILL_TRAINED = "still trained"
DECIDING_MEAN = "mean of all, compared with tau"

# What the norm is of, and which norm.
_MONITORS = {
    "gradient": "size of the gradient",
    "gradient_change": "size of the change of the gradient",
    "weight_change": "size of the change of the weights",
}
_NORMS = {"l1": " (L1 norm)", "mean_l1": " (mean L1 norm)", "l2": " (L2 norm)"}
# What has no norm.
_WITHOUT_SCALE = {
    "relative_change": "size of the updates, relative to their mean so far",
    "transfer": "how much what was learned still helps (cosine)",
}


class Curve(NamedTuple):
    """The statistics of the components of one role, in few points.

    Attributes:
        role: String.
        step, median, low, high: Float arrays of shape `(points,)`.
    """

    role: str
    step: np.ndarray
    median: np.ndarray
    low: np.ndarray
    high: np.ndarray


def by_role(report):
    """A `Curve` for each role that occurs, perhaps without points."""
    step, statistic = report.trace["step"], report.trace["statistic"]
    positive = is_logarithmic(report)
    found = []
    for role in ROLES:
        of = [c.role == role for c in report.components]
        if any(of):
            points = summarize(step, statistic[:, of], positive=positive)
            found.append(Curve(role, *points.T))
    return found


def deciding_mean(report):
    """Step and mean of all components, where that is compared with tau.

    Float arrays of shape `(points,)`, up to where the first component froze:
    by then it has decided. `None` where each is compared by itself.
    """
    settings = report.settings
    together = settings.get("monitor") == "transfer"
    if not together or settings.get("criterion") or len(set(report.tau)) != 1:
        return None
    step, statistic = report.trace["step"], report.trace["statistic"]
    first = min((c.frozen_at for c in report.frozen), default=report.steps)
    counts = np.isfinite(statistic) & (step[:, None] <= first)
    sums = np.where(counts, statistic, 0.0).sum(axis=1, keepdims=True)
    number = counts.sum(axis=1, keepdims=True)
    mean = np.where(number > 0, sums / np.maximum(number, 1), math.nan)
    points = summarize(step, mean, positive=is_logarithmic(report))
    return points[:, 0], points[:, 1]


def is_logarithmic(report):
    """Whether a logarithm can show the statistics and the thresholds."""
    if not report.tau or min(report.tau) <= 0:
        return False
    return not (report.trace["statistic"] < 0).any()


def statistic_name(settings):
    """What is measured; a monitor of your own is called by its name."""
    monitor, norm = settings.get("monitor"), settings.get("norm")
    if monitor in _MONITORS:
        return _MONITORS[monitor] + _NORMS.get(norm, "")
    return _WITHOUT_SCALE.get(monitor) or monitor or "statistic"


def summarize(step, statistic, max_points=MAX_POINTS, *, positive=True):
    """Reduces the statistics of several components to three curves.

    Args:
        step: Integer array of shape `(m,)`.
        statistic: Float array of shape `(m, n)`. NaN and infinity do not
            count.
        max_points: Integer. So many points at most: each stands for some
            neighbouring steps. Defaults to `100`.
        positive: Boolean, whether what a logarithm cannot show does not count
            either. Defaults to `True`.

    Returns:
        Float array of shape `(points, 4)`: the last of the steps; the median
        over the components of the median over the steps; and the smallest and
        the largest of all values, so that what fell below tau is in it.
    """
    valid = np.isfinite(statistic)
    if positive:
        valid &= statistic > 0
    values = np.ma.masked_array(statistic, ~valid)
    size = math.ceil(len(step) / max_points) or 1
    points = []
    for start in range(0, len(step), size):
        some = values[start : start + size]
        if some.count():
            last = step[start : start + size][-1]
            median = np.ma.median(np.ma.median(some, axis=0))
            points.append((last, median, some.min(), some.max()))
    return np.array(points, "float64").reshape(-1, 4)


def thresholds(tau, bands):
    """The thresholds to draw, a few at most, and what to call them.

    Args:
        tau: List of floats.
        bands: List of `Curve`. What is a hundred times larger or smaller than
            all of them would leave no room for them.
    """
    distinct = sorted(set(tau))
    if len(distinct) <= MAX_TAU_LINES:
        values, shown = ", ".join(f"{t:.3g}" for t in distinct), distinct
    else:
        values = f"{distinct[0]:.3g} to {distinct[-1]:.3g}"
        shown = [distinct[0], distinct[-1]]
    heights = [v for band in bands for v in (*band.low, *band.high)]
    if heights and min([*heights, *distinct]) > 0:
        low, high = min(heights) / 100, max(heights) * 100
        shown = [t for t in shown if low <= t <= high]
    return shown, f"threshold (tau) = {values}"
