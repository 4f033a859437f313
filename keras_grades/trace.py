"""The statistics of a run, step by step.

The last of them are kept in a ring buffer on the device, so that the host can
have all of them and look at few steps only.
"""

import numpy as np
from keras import ops

from keras_grades.monitors.base import UNDEFINED

# Rows of the buffer: the host looks at least this often.
ROWS = 64
# Rows that the host keeps. In a longer run every second step is left out, in
# one twice as long every second of those, and so on.
MOST_KEPT = 16384


def row_of(step):
    """The row of the buffer for a step, counted from 1."""
    return (step - 1) % ROWS


def with_row(buffer, step, statistic):
    """The buffer with the statistic of a step in it.

    Args:
        buffer: Float tensor of shape `(ROWS, n)`.
        step: Integer scalar tensor.
        statistic: Float tensor of shape `(n,)`.
    """
    rows = np.arange(ROWS, dtype="int32")[:, None]
    return ops.where(ops.equal(rows, row_of(step)), statistic, buffer)


class Trace:
    """Collects the buffer on the host before it is overwritten.

    Args:
        step: Integer, the steps taken before the first one to collect.
        n: Integer, the number of components.
    """

    def __init__(self, step, n):
        self.step = step
        self._n = n
        self._every = 1
        self._steps = []
        self._rows = []

    def extend(self, step, buffer):
        """Collects the steps up to this one.

        Args:
            step: Integer, the last step taken.
            buffer: Float array of shape `(ROWS, n)`.
        """
        first = max(self.step + 1, step - ROWS + 1)
        for t in range(first, step + 1):
            if t % self._every == 0:
                self._steps.append(t)
                row = np.array(buffer[row_of(t)])
                self._rows.append(np.where(row == UNDEFINED, np.nan, row))
        self.step = step
        if len(self._steps) > MOST_KEPT:
            self._thin_out()

    def _thin_out(self):
        self._every *= 2
        kept = [i for i, t in enumerate(self._steps) if t % self._every == 0]
        self._steps = [self._steps[i] for i in kept]
        self._rows = [self._rows[i] for i in kept]

    def as_dict(self):
        """`{"step": int array (m,), "statistic": float array (m, n)}`."""
        statistic = np.array(self._rows, "float32")
        return {
            "step": np.array(self._steps, "int32"),
            "statistic": statistic.reshape(-1, self._n),
        }
