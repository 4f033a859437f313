"""How fast a component still moves away from where it began.

The distance from the initial weights grows with the steps to some power: 1
while all updates agree, about 1/2 where they are noise, 0 where the weights
have come to rest. That power has no scale: it is the same for small and large
matrices, models and learning rates. Pesme, Dieuleveut and Flammarion, "On
Convergence-Diagnostic based Step Sizes for Stochastic Gradient Descent" (ICML
2020), tell by it that a phase of training has come to its end.
"""

import math

import keras
import numpy as np
from keras import ops

from keras_grades import backend
from keras_grades.backend.masking import assign

# So many entries of a variable stand for all.
SAMPLE = 1024
# To find the power, the distance at about half of the steps is needed. It is
# kept at so many steps to each doubling: from step 16 on, that is close to it.
ANCHORS = 8
# Those steps, up to a thousand million.
GRID = np.unique(np.rint(2 ** (np.arange(30 * ANCHORS) / ANCHORS)))
GRID = GRID.astype("int32")


class Displacement:
    """What the monitor `"displacement"` keeps, and what it measures.

    Args:
        components: Sequence of n `Component`.
        add_variable: Function that makes a variable of the optimizer.

    Attributes:
        state: Dict of `keras.Variable`: `start`, a sample of where the
            components began, and `anchors`, of shape `(ANCHORS, n)`, how far
            they were at some steps since.
    """

    def __init__(self, components, add_variable):
        self._components = len(components)
        self._of, self._slots, size = {}, {}, 0
        for i, component in enumerate(components):
            for variable in component.variables:
                slot = slice(size, size + _sample_size(variable))
                self._of[id(variable)] = i
                self._slots[id(variable)] = slot
                size = slot.stop
        # NaN until it is known: then nothing is below tau.
        unknown = keras.initializers.Constant(float("nan"))
        shapes = {"start": (size,), "anchors": (ANCHORS, len(components))}
        self.state = {
            name: add_variable(shape, unknown, "float32", name=name)
            for name, shape in shapes.items()
        }

    def begin(self, variables):
        """Before the first update, notes where the components are.

        Args:
            variables: List of `keras.Variable`, those still in training.
        """
        variables = self._ours(variables)
        # Fewer when some are structurally frozen: it is not the first then.
        if len(variables) == len(self._slots):
            in_order = sorted(variables, key=lambda v: self._slots[id(v)].start)
            here = ops.concatenate([_sample(v) for v in in_order])
            start = ops.convert_to_tensor(self.state["start"])
            self.state["start"].assign(ops.where(ops.isnan(start), here, start))

    def power(self, variables, step, is_update):
        """After the update, to which power of the steps distances grow.

        Args:
            variables: List of `keras.Variable`, those still in training.
            step: Integer scalar, this step.
            is_update: `True`, or a boolean scalar, whether this is a step.

        Returns:
            Float tensor of shape `(n,)`.
        """
        variables = self._ours(variables)
        start = ops.convert_to_tensor(self.state["start"])
        norms = backend.norms(
            (_sample(v) - start[self._slots[id(v)]] for v in variables), "l2"
        )
        # Each entry stands for as many as were passed over.
        stand_for = np.array([_stride(v) for v in variables], "float32")
        distances = ops.sqrt(
            ops.segment_sum(
                ops.multiply(ops.square(norms), stand_for),
                np.array([self._of[id(v)] for v in variables], "int32"),
                num_segments=self._components,
            )
        )
        anchors = self.state["anchors"]
        power, new = growth(distances, ops.convert_to_tensor(anchors), step)
        assign(anchors, new, is_update)
        return power

    def _ours(self, variables):
        return [v for v in variables if id(v) in self._slots]


def growth(distances, anchors, step):
    """Takes one step: to which power of the steps distances have grown.

    Args:
        distances: Float tensor of shape `(n,)`, after this step.
        anchors: Float tensor of shape `(ANCHORS, n)`, the distances at the
            last steps of `GRID`, each in the row of its place modulo
            `ANCHORS`.
        step: Integer scalar, this step, counted from 1.

    Returns:
        Float tensor of shape `(n,)`, and the new `anchors`. The power is NaN
        until it can be known, and where nothing has moved.
    """
    grid = ops.convert_to_tensor(GRID)
    place = ops.sum(ops.cast(grid <= step, "int32")) - 1
    is_anchor = ops.equal(ops.take(grid, place), step)
    rows = np.arange(ANCHORS, dtype="int32")[:, None]
    here = ops.logical_and(ops.equal(rows, place % ANCHORS), is_anchor)
    anchors = ops.where(here, distances, anchors)

    oldest = place - ANCHORS + 1
    then = ops.take(anchors, oldest % ANCHORS, axis=0)
    steps = step / ops.take(grid, ops.maximum(oldest, 0))
    # The quotient of the distances may be too large or too small a number.
    grown = ops.log(distances) - ops.log(then)
    power = grown / ops.log(ops.cast(steps, "float32"))
    is_known = ops.logical_and(
        oldest >= 0, ops.logical_and(then > 0, distances > 0)
    )
    return ops.where(is_known, power, np.float32("nan")), anchors


def _sample(variable):
    """Some entries of a variable, evenly spread, in float32."""
    entries = ops.reshape(ops.convert_to_tensor(variable), (-1,))
    return ops.cast(entries[:: _stride(variable)], "float32")


def _sample_size(variable):
    return len(range(0, math.prod(variable.shape), _stride(variable)))


def _stride(variable):
    size = math.prod(variable.shape)
    stride = max(1, math.ceil(size / SAMPLE))
    # So that it meets every row and every column.
    while math.gcd(stride, size) > 1:
        stride += 1
    return stride
