"""Two monitors of the gradient: its norm, and the norm of its change."""

from keras import ops

from keras_grades.monitors.base import UNDEFINED
from keras_grades.monitors.base import Monitor
from keras_grades.monitors.base import StateSpec
from keras_grades.monitors.base import flatten
from keras_grades.monitors.norms import component_norms


class Gradient(Monitor):
    """`"gradient"`: the norm of the gradient.

    Args:
        norm: String, `"l1"`, `"mean_l1"` or `"l2"`.

    Reference: abstract of GradES, arXiv 2509.01842
    """

    def __init__(self, norm):
        self.norm = norm

    def before(self, state, gradients, variables):
        return component_norms(flatten(gradients), variables, self.norm)

    def after(self, state, carry, variables):
        return carry, state


class GradientChange(Monitor):
    """`"gradient_change"`: the norm of the change since the last step.

    Args:
        norm: String, `"l1"`, `"mean_l1"` or `"l2"`.

    Reference: algorithm 1 of GradES, arXiv 2509.01842
    """

    first_step = 2

    def __init__(self, norm):
        self.norm = norm

    def init(self, components):
        return {"previous_gradient": StateSpec(None)}

    def before(self, state, gradients, variables):
        pairs = zip(flatten(gradients), flatten(state["previous_gradient"]))
        changes = (gradient - previous for gradient, previous in pairs)
        norms = component_norms(changes, variables, self.norm)
        return ops.where(state["step"] > 1, norms, UNDEFINED), gradients

    def after(self, state, carry, variables):
        statistic, gradients = carry
        return statistic, {"previous_gradient": gradients}
