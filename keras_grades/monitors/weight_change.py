"""The monitor of the authors' PyTorch package: the norm of the update."""

from keras_grades.backend import backend
from keras_grades.monitors.base import Monitor
from keras_grades.monitors.base import flatten
from keras_grades.monitors.norms import component_norms


class WeightChange(Monitor):
    """`"weight_change"`: the norm of the update.

    Args:
        norm: String, `"l1"`, `"mean_l1"` or `"l2"`.
    """

    def __init__(self, norm):
        self.norm = norm

    def before(self, state, gradients, variables):
        return backend.snapshot(flatten(variables))

    def after(self, state, carry, variables):
        updates = (v - before for v, before in zip(flatten(variables), carry))
        return component_norms(updates, variables, self.norm), state
