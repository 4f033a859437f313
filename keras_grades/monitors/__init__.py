"""Monitors measure a statistic at each step: built in, or your own."""

from keras_grades.monitors.base import UNDEFINED
from keras_grades.monitors.base import Monitor
from keras_grades.monitors.base import StateSpec
from keras_grades.monitors.gradient import Gradient
from keras_grades.monitors.gradient import GradientChange
from keras_grades.monitors.relative_change import RelativeChange
from keras_grades.monitors.transfer import Transfer
from keras_grades.monitors.weight_change import WeightChange

__all__ = ["UNDEFINED", "Monitor", "StateSpec"]

# How each is made, for a norm, or a horizon and whether it adapts that.
MONITORS = {
    "transfer": lambda norm, *horizon: Transfer(*horizon),
    "gradient": lambda norm, *_: Gradient(norm),
    "gradient_change": lambda norm, *_: GradientChange(norm),
    "weight_change": lambda norm, *_: WeightChange(norm),
    "relative_change": lambda *_: RelativeChange(),
}

# Before the last rise of the learning rate nothing has converged, as these
# see it.
GO_BY_RATE = ("transfer", "relative_change")


def get(monitor, norm, horizon, adapts):
    """The `Monitor` of a name; an instance is returned as it is."""
    if isinstance(monitor, Monitor):
        return monitor
    return MONITORS[monitor](norm, horizon, adapts)
