"""The rule, one step at a time: from gradients and weights to what freezes."""

import dataclasses
import functools

import numpy as np
from keras import ops

from keras_grades import trace
from keras_grades.actions import Action
from keras_grades.component import Component
from keras_grades.criterion import Criterion
from keras_grades.monitors import UNDEFINED
from keras_grades.monitors import Monitor
from keras_grades.monitors import StateSpec
from keras_grades.state import updated_where


@dataclasses.dataclass(frozen=True)
class Rule:
    """A policy, applied to certain components and a certain plan.

    A monitor measures a statistic of each component, a criterion says which
    have converged, an action how these come to rest. All state is handed in
    and out, so that a step can be compiled.

    Attributes:
        components: Tuple of n `Component`, those that have a threshold.
        tau: Float array of shape `(n,)`, the thresholds.
        monitor: `Monitor`.
        criterion: `Criterion`.
        action: `Action`.
        grace_steps: Integer, the length of the grace period.
    """

    components: tuple[Component, ...]
    tau: np.ndarray
    monitor: Monitor
    criterion: Criterion
    action: Action
    grace_steps: int

    @property
    def first_convergence(self):
        """Integer, the first step at which anything can converge."""
        return self.criterion.first_step(self.monitor.first_step)

    @functools.cached_property
    def monitor_specs(self):
        """Dict of the monitor's `StateSpec` by name."""
        return self.monitor.init(self.components)

    @property
    def rule_specs(self):
        """Dict of the `StateSpec`s of all else."""
        n = len(self.components)
        return {
            "statistic": StateSpec((n,)),
            **self.criterion.init(n),
            "frozen_at": StateSpec((n,), "int32"),
            "trace": StateSpec((trace.ROWS, n)),
        }

    def before(self, state, gradients, tracked):
        """Looks at a step before the update; for `after`."""
        if any(tracked):
            return self.monitor.before(self._seen(state), gradients, tracked)
        return None

    def after(self, state, carry, tracked):
        """The statistic after the update, and the monitor's new state."""
        if not any(tracked):
            return np.full(len(tracked), UNDEFINED, "float32"), {}
        statistic, new = self.monitor.after(self._seen(state), carry, tracked)
        # Of weights in half precision it may be one, too.
        statistic = ops.cast(statistic, "float32")
        return statistic, {name: new[name] for name in self.monitor_specs}

    def _seen(self, state):
        return {name: state[name] for name in ("step", *self.monitor_specs)}

    def decide(self, state, statistic, monitor_state, has_gradient):
        """What has converged, and what freezes.

        Args:
            state: Dict of tensors, before this step, and `"step"`, its number.
            statistic: Float tensor of shape `(n,)`.
            monitor_state: Dict, its new state.
            has_gradient: Boolean tensor of shape `(n,)`. Without a gradient
                nothing is measured.

        Returns:
            Dict, the new state.
        """
        step, frozen_at = state["step"], state["frozen_at"]
        is_measured = ops.logical_and(
            has_gradient, ops.not_equal(statistic, UNDEFINED)
        )
        tau = ops.convert_to_tensor(self.tau)
        new = self.criterion.update(state, statistic, is_measured, step, tau)
        is_active = ops.equal(frozen_at, 0)
        freezes = ops.logical_and(
            is_active, self.action.is_at_rest(new["converged_at"], step)
        )
        is_recorded = ops.logical_and(is_active, is_measured)
        recorded = ops.where(is_recorded, statistic, UNDEFINED)
        return {
            **updated_where(has_gradient, monitor_state, state),
            **new,
            "frozen_at": ops.where(freezes, step, frozen_at),
            "statistic": ops.where(is_recorded, statistic, state["statistic"]),
            "trace": trace.with_row(state["trace"], step, recorded),
        }
