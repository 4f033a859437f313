"""Reads ahead in a learning-rate schedule."""

import numpy as np
from keras import ops

from keras_grades.backend import backend

# In a longer run, this many steps stand for all.
MAX_POINTS = 512
# A rise by less than this share of the highest rate is rounding.
TOLERANCE = 1e-3
# A rate that ends below this share of its highest decays by itself.
DECAYED = 0.5


def last_rise(schedule, total_steps):
    """The last step at which a learning rate is higher than before.

    Updates shrink as the rate falls. Where it rises again, after a warm-up or
    a warm restart, they had not converged.

    Args:
        schedule: `keras.optimizers.schedules.LearningRateSchedule`.
        total_steps: Integer, the planned steps.

    Returns:
        Integer, 0 if the rate never rises.
    """
    steps, rates = _read_ahead(schedule, total_steps)
    rises = np.diff(rates) > TOLERANCE * np.max(rates)
    # Steps are counted from 1 here, and from 0 in a schedule.
    return int(steps[1:][rises][-1]) + 1 if rises.any() else 0


def decays(schedule, total_steps):
    """Whether a learning rate ends far below its highest.

    Args:
        schedule: `keras.optimizers.schedules.LearningRateSchedule`.
        total_steps: Integer, the planned steps.
    """
    _, rates = _read_ahead(schedule, total_steps)
    return bool(rates[-1] < DECAYED * np.max(rates))


def _read_ahead(schedule, total_steps):
    """Some steps, and the rates there, as the compiled step will see them."""
    points = min(total_steps, MAX_POINTS)
    steps = np.unique(np.linspace(0, total_steps - 1, points).astype("int32"))

    def rate(step):
        return ops.cast(schedule(step), "float32")

    rates = backend.map(rate, ops.convert_to_tensor(steps))
    return steps, ops.convert_to_numpy(rates)
