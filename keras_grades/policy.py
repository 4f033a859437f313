"""The arguments of the rule, in one list, and what they stand for."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_grades import monitors
from keras_grades import validation
from keras_grades.actions import Anneal
from keras_grades.actions import Freeze
from keras_grades.actions import Settle
from keras_grades.actions import cooldown_steps
from keras_grades.component import Component
from keras_grades.criterion import Criterion
from keras_grades.criterion import Threshold
from keras_grades.criterion import Together
from keras_grades.monitors import Monitor
from keras_grades.monitors.norms import NORMS
from keras_grades.outlook import Outlook
from keras_grades.rule import Rule

# The monitor when there is no tau of one's own: at a learning rate that decays
# by itself, and at any other; and when there is.
DECAYING, CONSTANT, PAPER = "relative_change", "transfer", "gradient"
# The defaults of the other arguments depend on the monitor. Those that have no
# scale have a tau, see examples/benchmarks/auto_tau.md. A patience of
# `None` is a sixth of the horizon.
DEFAULTS = {
    "transfer": {"tau": 0.0, "alpha": 0, "patience": None, "cooldown": 0.25},
    "relative_change": {"tau": 0.5, "alpha": 0, "patience": 9, "cooldown": 0},
}
OF_PAPER = {"alpha": 0.5, "patience": 0, "cooldown": 0}
# Without `horizon` the monitor reaches over two epochs, but over no more than
# this share of the plan; where neither is known, over so many steps.
EPOCHS, SHARE_OF_PLAN, STEPS = 2, 0.5, 500


@dataclasses.dataclass(frozen=True, kw_only=True)
class FreezePolicy:
    """Chooses a statistic, when a component converges, and how it freezes.

    `GradES` documents the arguments. Those that are `None` are filled in from
    `DEFAULTS`, and all are checked, at construction; where the choice of the
    monitor is left to the learning rate, in `chosen`.

    Args:
        criterion: A `Criterion` in place of a threshold with patience. The
            statistic is still measured, and traced. Defaults to `None`.
    """

    tau: float | dict[str, float] | Sequence[float] | str = "auto"
    alpha: float | int | None = None
    monitor: str | Monitor | None = None
    norm: str = "l1"
    patience: int | None = None
    horizon: float | int | None = None
    cooldown: float | int | None = None
    criterion: Criterion | None = None

    def __post_init__(self):
        is_auto = isinstance(self.tau, str) and self.tau == "auto"
        if self.monitor is None and is_auto and self.horizon is None:
            self._with_monitor(CONSTANT)  # Checks what is given.
            return
        if self.monitor is None:
            monitor = CONSTANT if is_auto else PAPER
            object.__setattr__(self, "monitor", monitor)
        _check_monitor(self.monitor)
        by_name = isinstance(self.monitor, str)
        defaults = DEFAULTS.get(self.monitor if by_name else "", OF_PAPER)
        if is_auto:
            _check_has_tau(self.monitor, defaults)
            object.__setattr__(self, "tau", defaults["tau"])
        for name in OF_PAPER:
            if getattr(self, name) is None:
                object.__setattr__(self, name, defaults[name])
        lowest = -1 if self._is_by_transfer else 0  # A cosine; a norm.
        validation.check_tau(self.tau, above=lowest)
        validation.check_alpha(self.alpha)
        validation.check_choice("norm", self.norm, NORMS)
        if self.patience is not None:
            validation.check_integer("patience", self.patience, at_least=0)
        if self.horizon is not None and not self._is_by_transfer:
            raise ValueError(
                '`horizon` belongs to `monitor="transfer"`. Leave it out, or '
                f"use that monitor. Received: horizon={self.horizon!r}, "
                f"monitor={self.monitor!r}"
            )
        validation.check_horizon(self.horizon)
        validation.check_cooldown(self.cooldown)

    @property
    def goes_by_rate(self):
        """Boolean, whether the learning rate must be known ahead."""
        return self.monitor is None or self.monitor in monitors.GO_BY_RATE

    @property
    def _is_by_transfer(self):
        return self.monitor == "transfer"

    def resolve(
        self,
        components: Sequence[Component],
        outlook: Outlook,
        monitor: Monitor | None = None,
    ) -> Rule:
        """Applies the policy, with a monitor, to a model and a plan.

        Args:
            components: Sequence of `Component`.
            outlook: `Outlook`. A monitor that goes by the learning rate waits
                for its last rise.
            monitor: The `Monitor` of a rule that this one goes on from.

        Returns:
            `Rule`.

        Raises:
            ValueError: If a pattern of `tau` matches no component, `alpha` or
                `horizon` is a share of an unknown number of steps, or
                `cooldown` is longer than the plan.
        """
        tracked, tau = self.thresholds(components)
        monitor = monitor or self._monitor(outlook)
        grace_steps = self._grace_steps(outlook.total_steps)
        if self.goes_by_rate:
            grace_steps = max(grace_steps, outlook.last_rise)
        if self._is_by_transfer and self.criterion is None:
            criterion, action = self._together(
                tracked, outlook, grace_steps, monitor
            )
        else:
            criterion, action = self._one_by_one(grace_steps)
        return Rule(
            tuple(tracked), tau, monitor, criterion, action, grace_steps
        )

    def chosen(self, outlook):
        """The same with a monitor, where that goes by the learning rate."""
        if self.monitor is not None:
            return self
        return self._with_monitor(DECAYING if outlook.decays else CONSTANT)

    def _with_monitor(self, monitor):
        return dataclasses.replace(self, monitor=monitor)

    def _one_by_one(self, grace_steps):
        """Each component converges, and comes to rest, by itself."""
        criterion = self.criterion or Threshold(self.patience, grace_steps)
        return criterion, Anneal(self.cooldown) if self.cooldown else Freeze()

    def _together(self, components, outlook, grace_steps, monitor):
        """All converge at one step, and the learning rate falls for all."""
        patience = self.patience
        if patience is None:
            patience = 2 * monitor.part  # A sixth of the horizon.
        deadline = self._deadline(outlook, grace_steps)
        criterion = Together(patience, grace_steps, deadline)
        if not self.cooldown:
            return criterion, Freeze()
        end = None if deadline is None else outlook.end
        blocks = [c.block for c in components]
        return criterion, Settle(self.cooldown, blocks, end)

    def _monitor(self, outlook):
        horizon, adapts = self._horizon_steps(outlook), self.horizon is None
        return monitors.get(self.monitor, self.norm, horizon, adapts)

    def _horizon_steps(self, outlook):
        end, epoch = outlook.end, outlook.steps_per_epoch
        if validation.is_integer(self.horizon):
            return int(self.horizon)
        if self.horizon is not None:
            if epoch is None:
                raise ValueError(
                    "`horizon` is a number of epochs, but the length of an "
                    "epoch is unknown. Pass an integer, a number of steps, or "
                    "tell how long an epoch is (`steps_per_epoch` in `fit()` "
                    "or `GradESOptimizer`). Received: "
                    f"horizon={self.horizon}"
                )
            return max(1, int(self.horizon * epoch))
        known = [EPOCHS * epoch] if epoch else []
        known += [int(SHARE_OF_PLAN * end)] if end else []
        return min(known, default=STEPS)

    def guesses_horizon(self, steps_per_epoch, total_steps):
        """Whether the horizon is `STEPS`, for want of anything to go by."""
        is_open = not steps_per_epoch and not total_steps
        return self._is_by_transfer and self.horizon is None and is_open

    def _deadline(self, outlook, grace_steps):
        """The last step from which a whole cooldown fits into the plan."""
        end = outlook.end
        if end is None or outlook.decays:
            return None
        if validation.is_integer(self.cooldown):
            deadline = end - self.cooldown
            if deadline < 1:
                raise ValueError(
                    "`cooldown` must be shorter than the plan, at the end of "
                    "which training has settled. Pass fewer steps, or a "
                    f"float, a share. Received: cooldown={self.cooldown}, "
                    f"with {end} steps planned"
                )
        else:
            deadline = int(end / (1 + self.cooldown)) + 1
            # As it is rounded in the step.
            while deadline + self._cooldown_from(deadline) > end:
                deadline -= 1
        return max(1, deadline, grace_steps)

    def _cooldown_from(self, step):
        return int(cooldown_steps(np.array([step]), self.cooldown, np)[0])

    def thresholds(self, components):
        """The components that have a threshold, and these.

        Args:
            components: Sequence of `Component`.

        Returns:
            List of n `Component`, and a float32 array of shape `(n,)`, or
            `None` while the monitor is not chosen.
        """
        components = list(components)
        if self.monitor is None:
            return components, None
        if isinstance(self.tau, dict):
            return _match_patterns(self.tau, components)
        tau = np.float32(self.tau)
        if tau.ndim and len(tau) != len(components):
            raise ValueError(
                "`tau` must have one entry a component. Received: "
                f"{len(tau)} entries for {len(components)} components."
            )
        return components, np.broadcast_to(tau, (len(components),))

    def _grace_steps(self, total_steps):
        if validation.is_integer(self.alpha):
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

    def get_config(self) -> dict[str, Any]:
        """The arguments, as `keras.saving` writes them."""
        config = vars(self).copy()
        for name in ("monitor", "criterion"):
            if not isinstance(config[name], (str, type(None))):
                config[name] = keras.saving.serialize_keras_object(config[name])
        return config

    @staticmethod
    def deserialize(config: dict[str, Any]) -> dict[str, Any]:
        """Undoes `get_config` in a config that has these arguments in it."""
        return {
            name: keras.saving.deserialize_keras_object(value)
            if name in ("monitor", "criterion") and isinstance(value, dict)
            else value
            for name, value in config.items()
        }

    def settings(self) -> dict[str, Any]:
        """The arguments, as a report shows them."""
        settings = vars(self).copy()
        del settings["tau"]  # A report has that of each component.
        for name in ("monitor", "criterion"):
            if not isinstance(settings[name], (str, type(None))):
                settings[name] = type(settings[name]).__name__
        return settings


def _match_patterns(tau, components):
    found = {
        pattern: [c for c in components if re.search(pattern, c.name)]
        for pattern in tau
    }
    for pattern, matches in found.items():
        if not matches:
            raise ValueError(
                "Each pattern in `tau` must match a component. Received "
                f"{pattern!r}, which matches none of: "
                + validation.excerpt([c.name for c in components])
            )
    chosen = {}
    for pattern, matches in found.items():
        for component in matches:
            chosen.setdefault(id(component), tau[pattern])
    tracked = [c for c in components if id(c) in chosen]
    return tracked, np.array([chosen[id(c)] for c in tracked], "float32")


def _check_monitor(monitor):
    if isinstance(monitor, Monitor):
        return
    if isinstance(monitor, str):
        validation.check_choice("monitor", monitor, monitors.MONITORS)
        return
    raise TypeError(
        f"`monitor` must be one of {tuple(monitors.MONITORS)}, or an instance "
        "of a subclass of `keras_grades.monitors.Monitor`. Received: "
        f"monitor={monitor!r} of type {type(monitor).__name__}"
    )


def _check_has_tau(monitor, defaults):
    if "tau" not in defaults:
        name = monitor if isinstance(monitor, str) else type(monitor).__name__
        raise ValueError(
            f"`monitor={name!r}` needs a `tau` of your own: only "
            f"{tuple(DEFAULTS)} have no scale, and so a threshold that fits "
            "all models. Give a number, or leave `monitor` out. Received: "
            f"tau='auto', monitor={monitor!r}"
        )
