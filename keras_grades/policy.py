"""The arguments of the rule, in one list, and what they stand for."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
import numpy as np

from keras_grades import monitors
from keras_grades import validation
from keras_grades.actions import Anneal
from keras_grades.actions import Freeze
from keras_grades.component import Component
from keras_grades.criterion import Criterion
from keras_grades.criterion import Threshold
from keras_grades.monitors import Monitor

# The defaults with a tau of one's own are those of the paper.
PAPER = {"alpha": 0.5, "monitor": "gradient", "patience": 0}
# What `tau="auto"` stands for; chosen by examples/benchmarks/auto_tau.md.
AUTO = {
    "tau": 0.5,
    "alpha": 0,
    "monitor": "relative_change",
    "patience": 9,
}


class ResolvedPolicy(NamedTuple):
    """A policy for certain components and a certain number of steps.

    Attributes:
        components: List of n `Component`, those that have a threshold.
        tau: Float array of shape `(n,)`.
        monitor: `Monitor`.
        criterion: `Criterion`.
        action: `Freeze` or `Anneal`.
        grace_steps: Integer, the first step that may freeze.
    """

    components: list[Component]
    tau: np.ndarray
    monitor: Monitor
    criterion: Criterion
    action: Freeze | Anneal
    grace_steps: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class FreezePolicy:
    """Chooses a statistic, when a component converges, and how it freezes.

    `GradES` documents the arguments. Those that are `None` are what `AUTO`
    says if tau is `"auto"`, and else what `PAPER` says; they are filled in,
    and checked, at construction.

    Args:
        criterion: A `Criterion` in place of a threshold with patience. The
            statistic is still measured, and traced. Defaults to `None`.
    """

    tau: float | dict[str, float] | Sequence[float] | str = "auto"
    alpha: float | int | None = None
    monitor: str | Monitor | None = None
    norm: str = "l1"
    patience: int | None = None
    cooldown: float | int = 0
    criterion: Criterion | None = None

    def __post_init__(self):
        defaults = PAPER
        if isinstance(self.tau, str) and self.tau == "auto":
            _check_monitor_of_auto(self.monitor)
            defaults = AUTO
            object.__setattr__(self, "tau", AUTO["tau"])
        for name in PAPER:
            if getattr(self, name) is None:
                object.__setattr__(self, name, defaults[name])
        validation.check_tau(self.tau)
        validation.check_alpha(self.alpha)
        _check_monitor(self.monitor)
        validation.check_choice("norm", self.norm, monitors.NORMS)
        validation.check_integer("patience", self.patience, at_least=0)
        validation.check_cooldown(self.cooldown)

    def resolve(
        self,
        components: Sequence[Component],
        total_steps: int | None,
        last_rise: int = 0,
    ) -> ResolvedPolicy:
        """Applies the policy to a model and a plan.

        Args:
            components: Sequence of `Component`.
            total_steps: Integer, the planned steps, or `None` if unknown.
            last_rise: Integer, the last step at which the learning rate
                rises. A monitor that goes by the rate waits for it. Defaults
                to `0`.

        Returns:
            `ResolvedPolicy`.

        Raises:
            ValueError: If a pattern of `tau` matches no component, or `alpha`
                is a share of an unknown number of steps.
        """
        tracked, tau = self._thresholds(list(components))
        grace_steps = self._grace_steps(total_steps)
        if self.monitor in monitors.GO_BY_RATE:
            grace_steps = max(grace_steps, last_rise)
        return ResolvedPolicy(
            components=tracked,
            tau=tau,
            monitor=monitors.get(self.monitor, self.norm),
            criterion=self.criterion or Threshold(self.patience, grace_steps),
            action=Anneal(self.cooldown) if self.cooldown else Freeze(),
            grace_steps=grace_steps,
        )

    def _thresholds(self, components):
        """The components that have a tau, and a float32 array of these."""
        if isinstance(self.tau, dict):
            return _match_patterns(self.tau, components)
        tau = np.broadcast_to(np.float32(self.tau), (len(components),))
        return components, tau

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


def _check_monitor_of_auto(monitor):
    if monitor not in (None, AUTO["monitor"]):
        name = monitor if isinstance(monitor, str) else type(monitor).__name__
        raise ValueError(
            f"`monitor={name!r}` needs a `tau` of your own: the default, "
            "'auto', is a threshold for `monitor='relative_change'`, which "
            "has no scale. Give a number, or leave `monitor` out. Received: "
            f"tau='auto', monitor={monitor!r}"
        )
