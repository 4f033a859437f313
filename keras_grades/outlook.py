"""What is known of a run before its first step."""

from typing import NamedTuple

import numpy as np
from keras import ops

from keras_grades.backend import backend

# In a longer run, this many steps stand for all.
MAX_POINTS = 512
# A rise by less than this share of the highest rate is rounding.
TOLERANCE = 1e-3
# A rate that ends below this share of its highest decays by itself.
DECAYED = 0.5


class Outlook(NamedTuple):
    """A plan, and the learning rate in it.

    Attributes:
        total_steps: Integer, the steps that were planned at first, or `None`
            if unknown.
        steps_per_epoch: Integer, or `None` if unknown.
        last_rise: Integer, the last step at which the learning rate rises.
        decays: Boolean, whether the learning rate decays by itself.
        is_open: Boolean, whether training goes on when the plan has ended, as
            in a loop of calls of `fit()`.
        extended_to: Integer, the steps that are planned now, if others than
            at first.
    """

    total_steps: int | None
    steps_per_epoch: int | None = None
    last_rise: int = 0
    decays: bool = False
    is_open: bool = False
    extended_to: int | None = None

    @property
    def end(self):
        """Integer, the step with which training ends, or `None`."""
        return None if self.is_open else self._planned

    @property
    def _planned(self):
        return self.extended_to or self.total_steps

    def with_rates(self, schedules):
        """Reads learning rates ahead.

        Args:
            schedules: List of `ScheduleCalls`.

        Returns:
            `Outlook`.
        """
        until = self._planned
        if not until:
            # Nothing says that it does not decay.
            return self._replace(decays=bool(schedules))
        read = [read_schedule(s, until) for s in schedules]
        rises = [last_rise(steps, rates) for steps, rates, _ in read]
        return self._replace(
            last_rise=max(rises, default=0),
            decays=any(decays(rates, at_end) for _, rates, at_end in read),
        )


def read_schedule(calls, until):
    """Some steps, and the rates there, as the compiled step will see them.

    Args:
        calls: `ScheduleCalls`.
        until: Integer, the number of steps.

    Returns:
        Integer and float array of shape `(m,)`: steps, counted from 1, and
        the rates there; and the rate with which the schedule itself ends, or
        the last one, if that is later.
    """
    points = min(until, MAX_POINTS)
    steps = np.unique(np.linspace(0, until - 1, points).astype("int32"))
    numbers = calls.first + calls.every * steps
    # A call of `fit()` may be one of several.
    numbers = np.append(numbers, max(numbers[-1], _end(calls.schedule)))

    def rate(number):
        return ops.cast(calls.schedule(number), "float32")

    numbers = ops.convert_to_tensor(numbers.astype("int32"))
    try:
        rates = backend.map(rate, numbers)
    except Exception:  # It need not be traceable where training is eager.
        rates = ops.stack([rate(number) for number in ops.unstack(numbers)])
    rates = ops.convert_to_numpy(rates)
    return steps + 1, rates[:-1], rates[-1]


def _end(schedule):
    """Where a schedule of Keras says that it ends, or 0."""
    names = ("warmup_steps", "decay_steps")
    return int(sum(getattr(schedule, name, None) or 0 for name in names))


def last_rise(steps, rates):
    """The last step at which a learning rate is higher than before, or 0.

    Updates shrink as the rate falls. Where it rises again, after a warm-up or
    a warm restart, they had not converged.
    """
    rises = np.diff(rates) > TOLERANCE * np.max(rates)
    return int(steps[1:][rises][-1]) if rises.any() else 0


def decays(rates, at_end):
    """Whether a learning rate ends far below its highest."""
    return bool(at_end < DECAYED * np.max(rates))
