"""Monitors measure a statistic at each step: built in, or your own."""

from keras_grades.monitors.base import UNDEFINED
from keras_grades.monitors.base import Monitor
from keras_grades.monitors.base import StateSpec
from keras_grades.monitors.gradient import Gradient
from keras_grades.monitors.gradient import GradientChange
from keras_grades.monitors.norms import NORMS
from keras_grades.monitors.relative_change import RelativeChange
from keras_grades.monitors.trial import try_out
from keras_grades.monitors.weight_change import WeightChange

__all__ = [
    "GO_BY_RATE",
    "MONITORS",
    "NORMS",
    "UNDEFINED",
    "Monitor",
    "StateSpec",
    "get",
    "try_out",
]

# How each is made, for a norm. `"relative_change"` has no scale, and no norm.
MONITORS = {
    "gradient": Gradient,
    "gradient_change": GradientChange,
    "weight_change": WeightChange,
    "relative_change": lambda norm: RelativeChange(),
}

# Their statistic falls with the learning rate, and tells only of its last
# fall: before a rise nothing has converged.
GO_BY_RATE = ("relative_change",)


def get(monitor, norm):
    """The `Monitor` of a name; an instance is returned as it is."""
    if isinstance(monitor, Monitor):
        return monitor
    return MONITORS[monitor](norm)
