"""How much a component moves in a step, compared with all steps so far.

While a matrix learns, its updates stay about as large as they were. They
shrink when it has converged: gradients get smaller and agree less, and Adam
follows both, or the learning rate has decayed. How far they have shrunk has
no scale: it means the same for small and large matrices, models, learning
rates and batches.
"""

import math

import numpy as np
from keras import ops

from keras_grades.backend import backend
from keras_grades.monitors.base import UNDEFINED
from keras_grades.monitors.base import Monitor
from keras_grades.monitors.base import StateSpec
from keras_grades.monitors.base import flatten
from keras_grades.monitors.base import sum_by_component
from keras_grades.monitors.sample import of_matrices
from keras_grades.monitors.sample import sample
from keras_grades.monitors.sample import sample_size

# The last steps are twenty, or this share of all, if that is more.
WINDOW = 20
WINDOW_SHARE = 0.1
# Step t enters the mean of all steps with this multiple of 1 / t: it counts
# in proportion to its number, so that the large updates at the beginning,
# before a model has found its way, soon count for little.
WEIGHT = 2.0
# One step counts as at most this many times more or less than the mean: one
# bad batch moves neither mean far, and where nothing moved there is a
# logarithm.
MAX_RATIO = 1e4


class RelativeChange(Monitor):
    """`"relative_change"`: recent updates as a share of all so far.

    The state has one entry a component: `moves`, the steps in which it has
    moved; `log_mean`, the mean logarithm of how far; `deviation`, that of
    the last steps less that of all.
    """

    def init(self, components):
        n = (len(components),)
        return {
            "moves": StateSpec(n, "int32"),
            "log_mean": StateSpec(n),
            "deviation": StateSpec(n),
        }

    def before(self, state, gradients, variables):
        return [
            tuple(ops.copy(sample(v, v.shape)) for v in _matrices(group))
            for group in variables
        ]

    def after(self, state, carry, variables):
        matrices = [_matrices(group) for group in variables]
        changes = [
            sample(v, v.shape) - before
            for v, before in zip(flatten(matrices), flatten(carry))
        ]
        # Each entry stands for all those that the sample passes over.
        stands_for = [
            math.prod(v.shape) / max(1, sample_size(v.shape))
            for v in flatten(matrices)
        ]
        sizes = ops.multiply(
            backend.norms(changes, "l1"), np.array(stands_for, "float32")
        )
        names = ("moves", "log_mean", "deviation")
        statistic, *new = relative(
            sum_by_component(sizes, matrices), *(state[name] for name in names)
        )
        return statistic, dict(zip(names, new))


def relative(sizes, moves, log_mean, deviation):
    """Takes one step: how large recent updates are, compared with all so far.

    Both are geometric means. Step t of all counts in proportion to t. The
    ratio of a single step to the mean is held within `MAX_RATIO`.

    Args:
        sizes: Float tensor of shape `(n,)`, the size of each update.
        moves: Integer tensor of shape `(n,)`, how many counted so far. The
            first that counts is the first that is not 0.
        log_mean: Float tensor of shape `(n,)`, of the logarithms of the sizes.
        deviation: Float tensor of shape `(n,)`, from it, of the last steps.

    Returns:
        Float tensor of shape `(n,)`, and the new `moves`, `log_mean` and
        `deviation`. The ratio is `UNDEFINED` where nothing has moved yet, and
        what the size is where that is not finite.
    """
    has_moved = ops.logical_or(moves > 0, sizes > 0)
    counts = ops.logical_and(ops.isfinite(sizes), has_moved)
    size = ops.log(ops.where(counts, sizes, 1.0))
    log_mean = ops.where(moves > 0, log_mean, size)
    limit = math.log(MAX_RATIO)
    beyond = ops.clip(size - log_mean, -limit, limit)
    moves = moves + ops.cast(counts, "int32")
    total = ops.cast(ops.maximum(moves, 1), "float32")
    weight = ops.minimum(WEIGHT / total, 1.0)
    log_mean = ops.where(counts, log_mean + weight * beyond, log_mean)
    # It begins at 0, no deviation: after a few steps nothing is low yet.
    rate = 1 / ops.maximum(WINDOW_SHARE * total, float(WINDOW))
    recent = deviation + rate * (beyond - deviation)
    deviation = ops.where(counts, recent, deviation)
    ratio = ops.where(has_moved, ops.exp(deviation), UNDEFINED)
    ratio = ops.where(ops.isfinite(sizes), ratio, sizes)
    return ratio, moves, log_mean, deviation


def _matrices(variables):
    return tuple(variables[i] for i in of_matrices(variables))
