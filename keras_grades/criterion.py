"""When a component has converged.

A criterion keeps the state `converged_at`, the step at which each component
has converged or 0, and what else it needs to find it.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_grades.monitors.base import StateSpec
from keras_grades.state import updated_where

# More steps than any run has.
NEVER = np.iinfo("int32").max


class Criterion:
    """Says at which step each of n components has converged.

    Attributes:
        deadline: Integer, the step at which all converge at the latest, or
            `None`.
    """

    deadline: int | None = None

    def first_step(self, first_measured: int) -> int:
        """The first step at which a component can converge.

        Args:
            first_measured: Integer, the first step with a statistic.
        """
        return first_measured

    def is_by_plan(self, converged_at: int) -> bool:
        """Whether a step is that of the deadline, or a later one.

        Args:
            converged_at: Integer, the last step at which one has converged.
        """
        return self.deadline is not None and converged_at >= self.deadline

    def reason(self, converged_at: int) -> str:
        """Why all have converged at a step, or none has, or nothing.

        Args:
            converged_at: Integer, the last step at which one has, or 0.
        """
        if converged_at:
            return ""
        return (
            "None has converged: no statistic stayed below tau. Train longer, "
            "or use a larger tau, with the monitor named beside it."
        )

    def init(self, n: int) -> dict[str, StateSpec]:
        """Declares the state; `"converged_at"` must be in it."""
        raise NotImplementedError

    def update(
        self, state, statistic, is_measured, step, tau
    ) -> dict[str, Any]:
        """Takes one step, for all n components at once.

        Args:
            state: Dict of tensors, as declared by `init`.
            statistic: Float tensor of shape `(n,)`.
            is_measured: Boolean tensor of shape `(n,)`. Where it is false the
                statistic has no meaning.
            step: Integer scalar, this step, counted from 1.
            tau: Float tensor of shape `(n,)`, the thresholds.

        Returns:
            The new state.
        """
        raise NotImplementedError


class Threshold(Criterion):
    """The rule of the paper, with patience.

    Args:
        patience: Integer.
        grace_steps: Integer, the first step at which a component may
            converge.

    Reference: algorithm 1 of GradES, arXiv 2509.01842
    """

    def __init__(self, patience, grace_steps):
        self.patience = patience
        self.grace_steps = grace_steps

    def first_step(self, first_measured):
        return max(self.grace_steps, first_measured + self.patience)

    def init(self, n):
        return {
            "below": StateSpec((n,), "int32"),
            "converged_at": StateSpec((n,), "int32"),
        }

    def update(self, state, statistic, is_measured, step, tau):
        new = self._counted(state, statistic, step, tau)
        return updated_where(is_measured, new, state)

    def _counted(self, state, statistic, step, tau):
        """The new state where something is measured.

        A component converges at a step, after the grace period, when its
        statistic was below tau on `patience + 1` steps in a row. NaN and
        infinity are not below anything.
        """
        is_below = ops.logical_and(ops.isfinite(statistic), statistic < tau)
        below = _in_a_row(is_below, state["below"])
        converged_at = state["converged_at"]
        is_due = ops.logical_and(
            below > self.patience, step >= self.grace_steps
        )
        converges = ops.logical_and(is_due, ops.equal(converged_at, 0))
        return {
            "below": below,
            "converged_at": ops.where(converges, step, converged_at),
        }


class Together(Threshold):
    """All components converge at one step, by the mean of their statistics.

    They do when that mean was first above tau, on `patience // 2 + 1` steps in
    a row, and later below, on `patience + 1`; at a deadline, whatever it is.
    What has not been above yet has not learned anything: a flat start, or one
    that is too slow to see, is not the end.

    Args:
        patience: Integer.
        grace_steps: Integer, the first step at which they may converge.
        deadline: Integer, the step at which they converge at the latest, or
            `None` for never. Defaults to `None`.
    """

    def __init__(self, patience, grace_steps, deadline=None):
        super().__init__(patience, grace_steps)
        self.deadline = deadline

    def first_step(self, first_measured):
        was_above_at = first_measured + self.patience // 2
        first = super().first_step(was_above_at + 1)
        return first if self.deadline is None else min(first, self.deadline)

    def reason(self, converged_at):
        if not converged_at:
            return (
                "What was learned still helped, or nothing was learned yet. "
                "Train longer."
            )
        if self.is_by_plan(converged_at):
            return f"They settled from step {converged_at} on, by the plan."
        return f"What was learned no longer helped from step {converged_at} on."

    def init(self, n):
        return {"above": StateSpec((n,), "int32"), **super().init(n)}

    def update(self, state, statistic, is_measured, step, tau):
        margin = ops.where(is_measured, statistic - tau, 0.0)
        count = ops.sum(ops.cast(is_measured, "float32"))
        mean = ops.sum(margin) / ops.maximum(count, 1.0)
        above = _in_a_row(mean > 0.0, state["above"])
        was_above = state["above"] > self.patience // 2
        # A step on which nothing is measured does not count.
        stays = ops.equal(count, 0)
        above = ops.where(
            ops.logical_or(was_above, stays), state["above"], above
        )
        new = self._counted(state, ops.where(was_above, mean, 0.0), step, 0.0)
        below = ops.where(stays, state["below"], new["below"])
        converged_at = new["converged_at"]
        if self.deadline is not None:
            is_late = ops.logical_and(
                step >= self.deadline, ops.equal(converged_at, 0)
            )
            converged_at = ops.where(is_late, step, converged_at)
        return {"above": above, "below": below, "converged_at": converged_at}


def _in_a_row(is_so, count):
    """Counts the steps in a row, up to this one, at which something is so."""
    return ops.where(is_so, count + 1, ops.zeros_like(count))


@keras.saving.register_keras_serializable(package="keras_grades")
class Prescribed(Criterion):
    """Components converge at given steps, whatever is measured.

    For benchmarks and tests: `FreezePolicy(criterion=Prescribed(steps))`.

    Args:
        steps: Sequence of n integers, a step for each component, 0 for never.
    """

    def __init__(self, steps):
        self.steps = [int(step) for step in steps]

    def first_step(self, first_measured):
        return min((s for s in self.steps if s), default=NEVER)

    def init(self, n):
        if len(self.steps) != n:
            raise ValueError(
                "`Prescribed` needs one step for each component. Received: "
                f"{len(self.steps)} steps for {n} components."
            )
        return {"converged_at": StateSpec((n,), "int32")}

    def update(self, state, statistic, is_measured, step, tau):
        # 0 is never.
        due = np.array([s or NEVER for s in self.steps], "int32")
        converged_at = state["converged_at"]
        converges = ops.logical_and(
            ops.less_equal(due, step), ops.equal(converged_at, 0)
        )
        new = {"converged_at": ops.where(converges, step, converged_at)}
        return updated_where(is_measured, new, state)

    def get_config(self):
        return {"steps": self.steps}
