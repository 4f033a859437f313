"""The rule: which number is measured, and when a component has converged.

GradES, arXiv 2509.01842, algorithm 1. Everything here is pure: arguments in,
answer out. `GradESOptimizer` keeps the state and calls `decide` once a step.
"""

import dataclasses
import math
import numbers
import re
from collections.abc import Sequence

import numpy as np
from keras import ops

MONITORS = ("gradient", "gradient_change", "weight_change", "relative_change")
NORMS = ("l1", "mean_l1", "l2")
# With a tau of one's own: as in the paper.
PAPER = {"alpha": 0.5, "monitor": "gradient", "patience": 0}
# What `tau="auto"` stands for; found by examples/benchmarks/auto_tau.md.
AUTO = {
    "tau": 0.5,
    "alpha": 0,
    "monitor": "relative_change",
    "patience": 9,
}
# With `thaw`: a component is released where its statistic is so many times tau
# again, so many times at most, while it is on probation: for this share of the
# steps that it took to freeze, and as long as the patience lasts.
THAW_RATIO = 2.0
MAX_THAWS = 3
PROBATION = 0.1
# More steps than any run has, and few enough for an int32.
NEVER = 2**30


def decide(
    statistic,
    below,
    converged_at,
    frozen_at,
    step,
    tau,
    *,
    grace_steps,
    patience,
    interval,
    cooldown=0,
):
    """Takes one step of the rule, for all n components at once.

    A component converges at a measured step, after the grace period, when its
    statistic was below tau on `patience + 1` measured steps in a row. NaN and
    infinity are not below anything. It freezes when it has cooled down: at
    once, unless there is a `cooldown`.

    Args:
        statistic: Float tensor of shape `(n,)`, what was measured.
        below: Integer tensor of shape `(n,)`, the measured steps in a row on
            which the statistic was below tau.
        converged_at: Integer tensor of shape `(n,)`, 0 where it has not.
        frozen_at: Integer tensor of shape `(n,)`, 0 where still active.
        step: Integer scalar, this step, counted from 1.
        tau: Float tensor of shape `(n,)`.
        grace_steps: Integer, the first step that may freeze.
        patience: Integer.
        interval: Integer, a step is measured if it is a multiple of it.
        cooldown: Integer, a number of steps, or float, a multiple of
            `converged_at`. Defaults to `0`.

    Returns:
        The new `below`, `converged_at` and `frozen_at`.
    """
    measured = ops.equal(step % interval, 0)
    counted = ops.where(statistic < tau, below + 1, ops.zeros_like(below))
    below = ops.where(measured, counted, below)
    converges = ops.logical_and(below > patience, step >= grace_steps)
    converges = ops.logical_and(
        ops.logical_and(measured, converges), ops.equal(converged_at, 0)
    )
    converged_at = ops.where(converges, step, converged_at)
    freezes = ops.logical_and(
        ops.logical_and(converged_at > 0, ops.equal(frozen_at, 0)),
        step - converged_at >= cooldown_steps(converged_at, cooldown),
    )
    return below, converged_at, ops.where(freezes, step, frozen_at)


def release(
    statistic,
    above,
    thaws,
    converged_at,
    frozen_at,
    step,
    tau,
    *,
    patience,
    interval,
):
    """Takes back freezes that were premature, for all n components at once.

    A component on probation is released at a measured step when its statistic
    was at least `THAW_RATIO` times tau on `patience + 1` measured steps in a
    row. There are at most `MAX_THAWS` of them for each component.

    Args:
        statistic: Float tensor of shape `(n,)`, what was measured. Of what is
            frozen, it is of the update that it would have taken.
        above: Integer tensor of shape `(n,)`, the measured steps in a row on
            which the statistic was as large.
        thaws: Integer tensor of shape `(n,)`, how often it was released.
        converged_at: Integer tensor of shape `(n,)`, after `decide`.
        frozen_at: Integer tensor of shape `(n,)`, after `decide`.
        step, tau, patience, interval: As in `decide`.

    Returns:
        The new `above`, `thaws`, `converged_at` and `frozen_at`.
    """
    on_probation = ops.logical_and(
        ops.logical_and(frozen_at > 0, thaws < MAX_THAWS),
        step <= end_of_probation(frozen_at, patience, interval),
    )
    is_high = ops.logical_and(
        ops.isfinite(statistic), statistic >= THAW_RATIO * tau
    )
    is_high = ops.logical_and(on_probation, is_high)
    counted = ops.where(is_high, above + 1, ops.zeros_like(above))
    measured = ops.equal(step % interval, 0)
    above = ops.where(measured, counted, above)
    is_released = ops.logical_and(measured, above > patience)
    above, converged_at, frozen_at = (
        ops.where(is_released, ops.zeros_like(state), state)
        for state in (above, converged_at, frozen_at)
    )
    return (
        above,
        thaws + ops.cast(is_released, "int32"),
        converged_at,
        frozen_at,
    )


def end_of_probation(frozen_at, patience, interval):
    """The last step at which what has frozen then can be released."""
    steps = frozen_at // round(1 / PROBATION)
    return frozen_at + steps + (patience + 1) * interval


def share_of_update(converged_at, frozen_at, step, cooldown):
    """The share of its update that each component takes at a step.

    All of it until it has converged; then it falls linearly, and is 0 from
    the step after it has cooled down. As FreezeOut (Brock et al., 2017)
    anneals the learning rate of each layer, but from where it has converged.

    Args:
        converged_at: Integer tensor of shape `(n,)`, before this step.
        frozen_at: Integer tensor of shape `(n,)`, before this step. It may be
            of a checkpoint that knows no cooldown, or another one.
        step: Integer scalar, this step.
        cooldown: As in `decide`.

    Returns:
        Float tensor of shape `(n,)`.
    """
    since = ops.cast(step - converged_at, "float32")
    steps = cooldown_steps(converged_at, cooldown)
    left = ops.maximum(1 - since / ops.cast(steps + 1, "float32"), 0.0)
    left = ops.where(frozen_at > 0, 0.0, left)
    has_begun = ops.logical_or(converged_at > 0, frozen_at > 0)
    return ops.where(has_begun, left, 1.0)


def cooldown_steps(converged_at, cooldown):
    """How long each component cools down, in steps."""
    if isinstance(cooldown, numbers.Integral):
        return min(int(cooldown), NEVER)
    steps = cooldown * ops.cast(converged_at, "float32")
    return ops.cast(ops.floor(ops.minimum(steps, float(NEVER))), "int32")


@dataclasses.dataclass(frozen=True)
class Rule:
    """The arguments of the rule, checked once, at construction.

    Those that are None are what `AUTO` says if tau is `"auto"`, and else what
    `PAPER` says.
    """

    tau: float | dict[str, float] | Sequence[float] | str = "auto"
    alpha: float | int | None = None
    monitor: str | None = None
    norm: str = "l1"
    patience: int | None = None
    interval: int = 1
    cooldown: float | int = 0
    thaw: bool = False

    def __post_init__(self):
        defaults = PAPER
        if isinstance(self.tau, str) and self.tau == "auto":
            _check_monitor_of_auto(self.monitor)
            defaults = AUTO
            object.__setattr__(self, "tau", AUTO["tau"])
        for name in PAPER:
            if getattr(self, name) is None:
                object.__setattr__(self, name, defaults[name])
        _check_tau(self.tau)
        _check_alpha(self.alpha)
        _check_choice("monitor", self.monitor, MONITORS)
        _check_choice("norm", self.norm, NORMS)
        _check_integer("patience", self.patience, at_least=0)
        _check_integer("interval", self.interval, at_least=1)
        _check_cooldown(self.cooldown)
        if not isinstance(self.thaw, bool):
            raise TypeError(
                "`thaw` must be True or False. Received: "
                f"thaw={self.thaw!r} of type {type(self.thaw).__name__}"
            )

    def grace_steps(self, total_steps):
        """The length of the grace period, given the planned steps or None."""
        if isinstance(self.alpha, numbers.Integral):
            return int(self.alpha)
        if total_steps is None:
            raise ValueError(
                "`alpha` is a share of the planned steps, but their number is "
                "unknown. Pass an integer, a number of steps, or tell how "
                "many steps there are (`steps_per_epoch` in `fit()`, "
                "`total_steps` in `GradESOptimizer`). Received: "
                f"alpha={self.alpha} (with a tau of your own 0.5 by default)"
            )
        return int(self.alpha * total_steps)

    def thresholds(self, components):
        """Pairs each component with its tau.

        Returns:
            The components that have one, in their order, and a float32 array
            of as many thresholds.
        """
        if isinstance(self.tau, dict):
            return _match_patterns(self.tau, components)
        tau = np.broadcast_to(np.float32(self.tau), (len(components),))
        return list(components), tau


def _match_patterns(tau, components):
    found = {
        pattern: [c for c in components if re.search(pattern, c.name)]
        for pattern in tau
    }
    for pattern, matches in found.items():
        if not matches:
            names = [c.name for c in components]
            raise ValueError(
                "Each pattern in `tau` must match a component. Received "
                f"{pattern!r}, which matches none of: {_some(names)}"
            )
    chosen = {}
    for pattern, matches in found.items():
        for component in matches:
            chosen.setdefault(id(component), tau[pattern])
    tracked = [c for c in components if id(c) in chosen]
    return tracked, np.array([chosen[id(c)] for c in tracked], "float32")


def _some(names, limit=8):
    """The first names of a list, for an error message."""
    more = f", ... ({len(names)} in all)" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _is_real(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _check_tau(tau):
    if isinstance(tau, dict):
        if not tau:
            raise ValueError(
                "`tau` as a dict must have at least one pattern. Received: "
                "tau={}"
            )
        for pattern in tau:
            _check_pattern(pattern)
        values = list(tau.values())
    else:
        values = list(tau) if isinstance(tau, (list, tuple)) else [tau]
    for value in values:
        if not _is_real(value):
            raise TypeError(
                "`tau` must be a positive float, a dict from a regular "
                "expression on component names to a positive float, or "
                f"'auto'. Received: tau={tau!r} of type {type(tau).__name__}"
            )
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(
                "`tau` must be positive and finite: a component freezes when "
                f"its statistic falls below it. Received: tau={tau!r}"
            )


def _check_monitor_of_auto(monitor):
    if monitor not in (None, AUTO["monitor"]):
        raise ValueError(
            f"`monitor={monitor!r}` needs a `tau` of your own: the default, "
            "'auto', is a threshold for `monitor='relative_change'`, which "
            "has no scale. Give a number, or leave `monitor` out. Received: "
            f"tau='auto', monitor={monitor!r}"
        )


def _check_pattern(pattern):
    if not isinstance(pattern, str):
        raise TypeError(
            "The keys of `tau` must be regular expressions. Received: "
            f"{pattern!r} of type {type(pattern).__name__}"
        )
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(
            "The keys of `tau` must be valid regular expressions. Received: "
            f"{pattern!r} ({error})"
        ) from error


def _check_alpha(alpha):
    if not _is_real(alpha):
        raise TypeError(
            "`alpha` must be a float, a share of the planned steps, or an "
            f"integer, a number of steps. Received: alpha={alpha!r} of type "
            f"{type(alpha).__name__}"
        )
    if isinstance(alpha, numbers.Integral):
        in_range = alpha >= 0
    else:
        in_range = 0 <= alpha < 1
    if not in_range:
        raise ValueError(
            "`alpha` must be a float in [0, 1), a share of the planned steps, "
            "or an integer >= 0, a number of steps. Received: "
            f"alpha={alpha!r}"
        )


def _check_cooldown(cooldown):
    what = (
        "`cooldown` must be an integer >= 0, a number of steps, or a float "
        ">= 0, a multiple of the step at which a component has converged. "
        f"Received: cooldown={cooldown!r}"
    )
    if not _is_real(cooldown):
        raise TypeError(f"{what} of type {type(cooldown).__name__}")
    if not (cooldown >= 0 and math.isfinite(cooldown)):
        raise ValueError(what)


def _check_choice(name, value, choices):
    if value not in choices:
        raise ValueError(
            f"`{name}` must be one of {choices}. Received: {name}={value!r}"
        )


def _check_integer(name, value, at_least):
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise TypeError(
            f"`{name}` must be an integer. Received: {name}={value!r} of type "
            f"{type(value).__name__}"
        )
    if value < at_least:
        raise ValueError(
            f"`{name}` must be >= {at_least}. Received: {name}={value!r}"
        )
