"""The statistics of a run, step by step, on the host."""

import numpy as np


class Trace:
    """Collects the optimizer's ring buffer before it is overwritten.

    Args:
        step: Integer, the steps taken before the first one to collect.
        components: Integer, their number.
        interval: Integer, every how many steps was measured.
    """

    def __init__(self, step, components, interval):
        self.step = step
        self._interval = interval
        self._components = components
        self._steps = []
        self._rows = []

    def extend(self, step, buffer):
        """Collects the steps up to this one.

        Args:
            step: Integer, the last step taken.
            buffer: Float array of shape `(rows, n)`; step t is in row
                `(t - 1) % rows`.
        """
        first = max(self.step + 1, step - len(buffer) + 1)
        for t in range(first, step + 1):
            if t % self._interval == 0:
                self._steps.append(t)
                self._rows.append(np.array(buffer[(t - 1) % len(buffer)]))
        self.step = step

    def as_dict(self):
        """`{"step": int array (m,), "statistic": float array (m, n)}`."""
        statistic = np.array(self._rows, "float32")
        return {
            "step": np.array(self._steps, "int32"),
            "statistic": statistic.reshape(-1, self._components),
        }
