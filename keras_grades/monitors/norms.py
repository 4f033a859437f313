"""The norm of a component: the sum of those of its variables."""

import math

import numpy as np
from keras import ops

from keras_grades.backend import backend
from keras_grades.monitors.base import sum_by_component

NORMS = ("l1", "mean_l1", "l2")


def component_norms(tensors, variables, norm):
    """The norm of each component.

    Args:
        tensors: Iterable of k tensors, one a variable. They are taken one by
            one: to hold all of them may take as much memory as the weights.
        variables: List of n tuples of `keras.Variable`, k in all.
        norm: String, `"l1"`, `"mean_l1"` or `"l2"`.

    Returns:
        Float tensor of shape `(n,)`.
    """
    norms = sum_by_component(backend.norms(tensors, norm), variables)
    if norm == "mean_l1":
        # An empty variable has no entry, and a norm of 0.
        entries = [max(1, _entries(group)) for group in variables]
        norms = ops.divide(norms, np.array(entries, "float32"))
    return norms


def _entries(variables):
    return sum(math.prod(v.shape) for v in variables)
