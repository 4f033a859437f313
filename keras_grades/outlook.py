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
        total_steps: Integer, the planned steps, or `None` if unknown.
        steps_per_epoch: Integer, or `None` if unknown.
        last_rise: Integer, the last step at which the learning rate rises.
        decays: Boolean, whether the learning rate decays by itself.
    """

    total_steps: int | None
    steps_per_epoch: int | None = None
    last_rise: int = 0
    decays: bool = False

    def with_rates(self, schedules, until):
        """Reads learning rates ahead.

        Args:
            schedules: List of `keras.optimizers.schedules`.
            until: Integer, the step up to which they are read, or `None` if
                it is unknown how many there will be.

        Returns:
            `Outlook`.
        """
        read = [read_schedule(s, until) for s in schedules if until]
        return self._replace(
            last_rise=max((last_rise(*points) for points in read), default=0),
            # Where a plan is unknown, nothing says that it does not.
            decays=any(decays(rates) for _, rates in read)
            or bool(schedules and not until),
        )


def read_schedule(schedule, until):
    """Some steps, and the rates there, as the compiled step will see them.

    Args:
        schedule: `keras.optimizers.schedules.LearningRateSchedule`.
        until: Integer, the number of steps.

    Returns:
        Integer and float array of shape `(m,)`. Steps are counted from 1.
    """
    points = min(until, MAX_POINTS)
    steps = np.unique(np.linspace(0, until - 1, points).astype("int32"))

    def rate(step):
        return ops.cast(schedule(step), "float32")

    rates = backend.map(rate, ops.convert_to_tensor(steps))
    # A schedule counts from 0.
    return steps + 1, ops.convert_to_numpy(rates)


def last_rise(steps, rates):
    """The last step at which a learning rate is higher than before, or 0.

    Updates shrink as the rate falls. Where it rises again, after a warm-up or
    a warm restart, they had not converged.
    """
    rises = np.diff(rates) > TOLERANCE * np.max(rates)
    return int(steps[1:][rises][-1]) if rises.any() else 0


def decays(rates):
    """Whether a learning rate ends far below its highest."""
    return bool(rates[-1] < DECAYED * np.max(rates))
