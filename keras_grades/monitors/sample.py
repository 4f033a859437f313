"""Some entries of a matrix stand for all of them."""

import functools
import math

import numpy as np
from keras import ops

from keras_grades.monitors.base import flatten
from keras_grades.monitors.base import sum_by_component

# So many entries of a variable at most.
SAMPLE = 1024


def sample(tensor, shape, entries=SAMPLE):
    """Some entries of a tensor, evenly spread.

    Args:
        tensor: Tensor or `keras.Variable`.
        shape: Tuple of integers, its shape. That of a gradient may be unknown
            while a step is traced; that of its variable is not.
        entries: Integer, at most so many. Defaults to `SAMPLE`.
    """
    return ops.convert_to_tensor(tensor)[grid(tuple(shape), entries)]


@functools.lru_cache
def grid(shape, entries=SAMPLE):
    """A step along each axis, so that at most so many entries are met.

    Longer axes make up for what a short one lacks. Rows and columns are
    passed over as a whole: a matrix that is spread over devices stays there.
    """
    steps, left = {}, entries
    for done, axis in enumerate(np.argsort(shape, kind="stable")):
        wanted = max(1, int(left ** (1 / (len(shape) - done)) + 1e-6))
        steps[axis] = max(1, math.ceil(shape[axis] / wanted))
        left //= max(1, len(range(0, shape[axis], steps[axis])))
    return tuple(slice(None, None, steps[a]) for a in range(len(shape)))


def sample_size(shape, entries=SAMPLE):
    """How many entries of a tensor of this shape `sample` returns."""
    steps = (s.step for s in grid(tuple(shape), entries))
    return math.prod(len(range(0, d, s)) for d, s in zip(shape, steps))


def of_matrices(variables):
    """The places of a component's matrices; a bias moves with its matrix."""
    places = [i for i, v in enumerate(variables) if len(v.shape) > 1]
    return places or list(range(len(variables)))


def has_gradient(gradients, variables):
    """Whether each component has a gradient, and not one of zeros.

    Zeros come from a part of the model that took no part in this batch, such
    as a tower, a dropped layer or an expert: they say nothing of convergence.

    Args:
        gradients: List of n tuples of tensors.
        variables: List of n tuples of their `keras.Variable`s.

    Returns:
        Boolean tensor of shape `(n,)`.
    """
    if not any(gradients):
        return ops.zeros((len(gradients),), "bool")
    # A variable without entries has converged, so its gradient counts.
    is_nonzero = [
        ops.any(ops.not_equal(sample(g, v.shape), 0))
        if math.prod(v.shape)
        else ops.ones((), "bool")
        for g, v in zip(flatten(gradients), flatten(variables))
    ]
    count = ops.cast(ops.stack(is_nonzero), "int32")
    return sum_by_component(count, gradients) > 0
