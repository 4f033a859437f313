"""Frozen variables keep their value exactly through an optimizer's update.

A zero gradient is not enough: weight decay, momentum, moving averages and
constraints move a variable all the same. So the old value is put back. The
gradient is zeroed as well where it would reach others: global-norm clipping
adds up all of them. Elsewhere that would be compiled and computed for nothing.

A component that is annealed takes a share of its update: it is put back part
of the way.
"""

from typing import Any
from typing import NamedTuple

import keras
from keras import ops

from keras_grades.backend import backend


class Held(NamedTuple):
    """The values that `put_back` needs after an update.

    Attributes:
        variables: List of k `keras.Variable`.
        before: List of their k values before the update.
        frozen: List of k boolean scalar tensors.
        share: List of k float scalar tensors, the share of its update that
            each takes, or `None` if all that are not frozen take all of it.
        any_held: Boolean scalar tensor, whether there is anything to put
            back, or `None` if that is done without a branch.
    """

    variables: list
    before: list
    frozen: Any
    share: Any
    any_held: Any


def hold(gradients, variables, groups, frozen, share, zero):
    """Takes note of variables that may not take all of their update.

    Args:
        gradients: List of tensors, `None` where there is none.
        variables: List of as many `keras.Variable`.
        groups: `Groups` of the variables. Variables in none are left alone.
        frozen: Boolean tensor, whether each group is frozen.
        share: Float tensor, the share of its update that each group takes
            unless it is frozen; or `None`, if that is all of it.
        zero: Boolean, whether the gradients of frozen ones are zeroed.

    Returns:
        `Held`, or `None` if no variable in a group has a gradient; and the
        list of gradients to be given to the optimizer.
    """
    places = [
        i
        for i, (gradient, variable) in enumerate(zip(gradients, variables))
        if gradient is not None and groups.index_of(variable) is not None
    ]
    if not places:
        return None, gradients
    held_variables = [variables[i] for i in places]
    hold_them = _hold_in_a_branch if backend.branches(frozen) else _hold
    frozen = groups.spread(frozen, held_variables)
    if share is not None:
        share = groups.spread(share, held_variables)
    held_gradients = [gradients[i] for i in places]
    held, held_gradients = hold_them(
        held_gradients, held_variables, frozen, share, zero
    )
    gradients = list(gradients)
    for i, gradient in zip(places, held_gradients):
        gradients[i] = gradient
    return held, gradients


def _hold(gradients, variables, frozen, share, zero):
    before = backend.snapshot(variables)
    if zero:
        gradients = _zeroed(gradients, frozen)
    return Held(variables, before, frozen, share, None), gradients


def _hold_in_a_branch(gradients, variables, frozen, share, zero):
    """The same, with no work for the weights while all take all of it.

    For backends that would really make the copies. In the other branch the
    gradients stand in for the copies: same shapes, and no memory, but for
    the sparse gradients of embeddings, and those of another dtype.
    """
    any_held = ops.any(
        ops.stack(frozen) if share is None else ops.stack(share) < 1
    )
    values = [backend.gradient_values(g) for g in gradients]
    before = ops.cond(
        any_held,
        lambda: backend.snapshot(variables),
        lambda: list(map(_stand_in, values, variables)),
    )
    if zero:
        values = ops.cond(
            any_held, lambda: _zeroed(values, frozen), lambda: values
        )
        gradients = list(map(backend.with_gradient_values, gradients, values))
    return Held(variables, before, frozen, share, any_held), gradients


def put_back(held):
    """Gives frozen variables their values back, after the update.

    Args:
        held: `Held`.
    """
    if held.any_held is None:
        _put_back(held)
    else:
        ops.cond(held.any_held, lambda: _put_back(held), lambda: None)


def assign(variable, value, condition):
    """Assigns where a condition, `True` or a tensor, holds."""
    if condition is not True:
        value = ops.where(condition, value, ops.convert_to_tensor(variable))
    variable.assign(value)


def _stand_in(gradient, variable):
    is_alike = keras.backend.standardize_dtype(gradient.dtype) == variable.dtype
    if is_alike and gradient.shape == variable.shape:
        return gradient
    return ops.zeros_like(variable)


def _zeroed(gradients, frozen):
    # `where`, not a product: a frozen gradient may be NaN.
    return [
        ops.where(frozen[i], ops.zeros_like(g), g)
        for i, g in enumerate(gradients)
    ]


def _put_back(held):
    for i, (variable, before) in enumerate(zip(held.variables, held.before)):
        updated = ops.convert_to_tensor(variable)
        if held.share is not None:
            updated = _part_of_the_way(before, updated, held.share[i])
        variable.assign(ops.where(held.frozen[i], before, updated))


def _part_of_the_way(old, new, share):
    given = keras.backend.standardize_dtype(new.dtype)
    dtype = "float64" if given == "float64" else "float32"
    start, end = ops.cast(old, dtype), ops.cast(new, dtype)
    between = ops.cast(start + ops.cast(share, dtype) * (end - start), given)
    # Exactly the new value, for all of the way.
    return ops.where(share < 1, between, new)
