"""How much a component moves in a step, beside what it moved so far.

While a matrix learns, its updates stay about as large as they were. They
shrink when it has converged: gradients get smaller and agree less, which is
what Adam goes by, or the learning rate has decayed. How far they have shrunk
has no scale: it means the same for small and large matrices, models, learning
rates and batches.
"""

import math

import numpy as np
from keras import ops

from keras_grades import backend
from keras_grades.backend.masking import assign

# So many entries of a variable stand for all.
SAMPLE = 1024
# The last steps are twenty, or this share of all, if that is more.
WINDOW = 20
WINDOW_SHARE = 0.1
# In the mean of all steps a step counts in proportion to its number, so that
# the large updates at the beginning, before a model has found its way, soon
# count for little: step t enters the mean with so much of 1 / t.
WEIGHT = 2.0
# One step counts as at most so many times more or less than the mean: one bad
# batch moves neither mean far, and where nothing moved there is a logarithm.
MAX_RATIO = 1e4


class RelativeChange:
    """What the monitor `"relative_change"` keeps, and what it measures.

    Args:
        components: Sequence of n `Component`.
        add_variable: Function that makes a variable of the optimizer.

    Attributes:
        state: Dict of `keras.Variable` of shape `(n,)`: `moves`, the steps in
            which a component has moved; `log_mean`, the mean logarithm of
            how far; `deviation` from it, over the last steps.
    """

    def __init__(self, components, add_variable):
        self._components = len(components)
        # A bias moves with its matrix.
        self._of = {
            id(v): i
            for i, component in enumerate(components)
            for v in _matrices(component.variables)
        }
        shape = (len(components),)
        self.state = {
            "moves": add_variable(shape, "zeros", "int32", name="moves"),
            "log_mean": add_variable(
                shape, "zeros", "float32", name="log_mean"
            ),
            "deviation": add_variable(
                shape, "zeros", "float32", name="deviation"
            ),
        }

    def watch(self, variables, is_update):
        """Notes where the components are, before an update.

        Args:
            variables: List of `keras.Variable`, those that are updated.
            is_update: `True`, or a boolean scalar, whether this is a step.

        Returns:
            Function to be called after the update, which returns how much
            each component has moved in it, of its mean so far: a float tensor
            of shape `(n,)`, NaN where nothing is known.
        """
        variables = [v for v in variables if id(v) in self._of]
        if not variables:
            return lambda: np.full((self._components,), np.nan, "float32")
        before = [ops.copy(_sample(v)) for v in variables]

        def measure():
            sizes = backend.norms(
                [_sample(v) - b for v, b in zip(variables, before)], "l1"
            )
            # Each entry stands for as many as were passed over.
            stand_for = [
                math.prod(v.shape) / math.prod(b.shape)
                for v, b in zip(variables, before)
            ]
            sizes = ops.segment_sum(
                ops.multiply(sizes, np.array(stand_for, "float32")),
                np.array([self._of[id(v)] for v in variables], "int32"),
                num_segments=self._components,
            )
            old = [ops.convert_to_tensor(v) for v in self.state.values()]
            ratio, *new = relative(sizes, *old)
            for variable, value in zip(self.state.values(), new):
                assign(variable, value, is_update)
            return ratio

        return measure


def relative(sizes, moves, log_mean, deviation):
    """Takes one step: how large updates are of late, beside all so far.

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
        `deviation`. The ratio is NaN where a size is not finite, or nothing
        has moved yet.
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
    # It begins at 0, no deviation: with a few steps nothing is low yet.
    rate = 1 / ops.maximum(WINDOW_SHARE * total, float(WINDOW))
    recent = deviation + rate * (beyond - deviation)
    deviation = ops.where(counts, recent, deviation)
    ratio = ops.where(counts, ops.exp(deviation), np.float32("nan"))
    return ratio, moves, log_mean, deviation


def _matrices(variables):
    return [v for v in variables if len(v.shape) > 1] or variables


def _sample(variable):
    """Some entries of a variable, evenly spread."""
    return ops.convert_to_tensor(variable)[_grid(variable.shape)]


def _grid(shape):
    """A step along each axis, so that about `SAMPLE` entries are met.

    What one axis has not, the longer ones make up for. Rows and columns are
    passed over as a whole: a matrix that is spread over devices stays there.
    """
    steps, left = {}, SAMPLE
    for done, axis in enumerate(np.argsort(shape, kind="stable")):
        wanted = max(1, int(left ** (1 / (len(shape) - done)) + 1e-6))
        steps[axis] = max(1, math.ceil(shape[axis] / wanted))
        left //= max(1, len(range(0, shape[axis], steps[axis])))
    return tuple(slice(None, None, steps[a]) for a in range(len(shape)))
