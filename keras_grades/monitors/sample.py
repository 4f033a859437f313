"""Some entries of a matrix stand for all of them."""

import functools
import math

import numpy as np
from keras import ops

from keras_grades.backend import backend

# So many entries of a variable at most.
SAMPLE = 1024
# So many at most stand for a whole component.
ENTRIES = 168


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
    Of a stack of few matrices, as of experts or heads, none is passed over.
    """
    steps, left = {}, entries
    for done, axis in enumerate(np.argsort(shape, kind="stable")):
        wanted = max(1, int(left ** (1 / (len(shape) - done)) + 1e-6))
        if len(shape) > 2 and not done and shape[axis] <= entries // 4:
            wanted = max(1, shape[axis])
        steps[axis] = max(1, math.ceil(shape[axis] / wanted))
        left //= max(1, len(range(0, shape[axis], steps[axis])))
    return tuple(slice(None, None, steps[a]) for a in range(len(shape)))


def sample_size(shape, entries=SAMPLE):
    """How many entries of a tensor of this shape `sample` returns."""
    steps = (s.step for s in grid(tuple(shape), entries))
    return math.prod(len(range(0, d, s)) for d, s in zip(shape, steps))


def of_matrices(variables):
    """The places of a component's matrices; a bias moves with its matrix.

    One of attention may have an axis for the heads.
    """
    places = [
        i
        for i, v in enumerate(variables)
        if len(v.shape) > 1 and not v.name.endswith("bias")
    ]
    return places or list(range(len(variables)))


def samples(tensors, variables):
    """Some entries of each component, in a row of fixed length.

    Args:
        tensors: List of n tuples of tensors or `keras.Variable`s.
        variables: List of n tuples of their `keras.Variable`s.

    Returns:
        Float tensor of shape `(n, ENTRIES)`, with zeros where a component has
        fewer.
    """
    pieces, zeros = [], ops.zeros((ENTRIES,), "float32")
    for group, of in zip(tensors, variables):
        kept, left = of_matrices(of), ENTRIES
        share = ENTRIES // max(1, len(kept))
        for i in kept:
            # That of a gradient may be unknown while a step is traced.
            shape = of[i].shape
            piece = backend.everywhere(sample(group[i], shape, share))
            size = sample_size(shape, share)
            pieces.append(ops.reshape(piece, (size,)))
            left -= size
        if left:
            pieces.append(zeros[:left])
    # All at once: on PyTorch each call takes time.
    rows = ops.cast(ops.concatenate(pieces), "float32")
    return ops.reshape(rows, (len(variables), ENTRIES))


def has_gradient(gradients, variables):
    """Whether each component has a gradient, and not one of zeros.

    Zeros come from a part of the model that took no part in this batch, such
    as a tower, a dropped layer or an expert: they say nothing of convergence.
    It goes by some entries of its matrices.

    Args:
        gradients: List of n tuples of tensors.
        variables: List of n tuples of their `keras.Variable`s.

    Returns:
        Boolean tensor of shape `(n,)`.
    """
    is_nonzero = ops.not_equal(samples(gradients, variables), 0)
    # A variable without entries has converged, so its gradient counts.
    is_empty = [any(0 in v.shape for v in group) for group in variables]
    return ops.logical_or(ops.any(is_nonzero, axis=1), np.array(is_empty))
