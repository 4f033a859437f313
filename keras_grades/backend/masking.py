"""An optimizer's update in which frozen variables keep their value exactly.

A zero gradient is not enough: weight decay, momentum, moving averages and
constraints move a variable all the same. So the old value is put back. The
gradient is zeroed as well where it would reach others: global-norm clipping
adds up all of them. Elsewhere that would be compiled and computed for nothing.

What cools down takes a share of its update: it is put back part of the way.
"""

import keras
from keras import ops


def update_masked(update, gradients, variables, before, frozen, share, zero):
    """Updates, then puts back what is frozen, without a branch.

    Args:
        update: Function that takes the gradients and updates the variables.
        gradients: List of k tensors.
        variables: List of k `keras.Variable`.
        before: List of their k values, which stay.
        frozen: Boolean tensor of shape `(k,)`.
        share: Float tensor of shape `(k,)`, the share of its update that each
            takes, 0 for what is frozen; or None, if all others take all.
        zero: Boolean, whether gradients of what is frozen are zeroed.
    """
    update(_zeroed(gradients, frozen) if zero else gradients)
    _put_back(variables, before, frozen, share)


def update_branching(update, gradients, variables, frozen, share, zero):
    """The same, with no work for the weights while all take all of it.

    For backends that would really make the copies. In the other branch the
    gradients stand in for the copies: same shapes, and no memory, but for
    the sparse gradients of embeddings.
    """
    any_held = ops.any(frozen if share is None else share < 1)
    before = ops.cond(
        any_held,
        lambda: copies(variables),
        lambda: list(map(_stand_in, gradients, variables)),
    )
    if zero:
        gradients = ops.cond(
            any_held,
            lambda: _zeroed(gradients, frozen),
            lambda: gradients,
        )
    update(gradients)
    ops.cond(
        any_held,
        lambda: _put_back(variables, before, frozen, share),
        lambda: None,
    )


def copies(variables):
    """The values of variables, which stay when these are assigned to."""
    return [ops.copy(v) for v in variables]


def assign(variable, value, condition):
    """Assigns where a condition, `True` or a tensor, holds."""
    if condition is not True:
        value = ops.where(condition, value, ops.convert_to_tensor(variable))
    variable.assign(value)


def _stand_in(gradient, variable):
    if gradient.shape == variable.shape:
        return gradient
    return ops.zeros_like(variable)


def _zeroed(gradients, frozen):
    # `where`, not a product: a frozen gradient may be NaN.
    return [
        ops.where(frozen[i], ops.zeros_like(g), g)
        for i, g in enumerate(gradients)
    ]


def _put_back(variables, before, frozen, share):
    for i, (variable, value) in enumerate(zip(variables, before)):
        updated = ops.convert_to_tensor(variable)
        if share is not None:
            updated = _part_of_the_way(value, updated, share[i])
        variable.assign(ops.where(frozen[i], value, updated))


def _part_of_the_way(old, new, share):
    given = keras.backend.standardize_dtype(new.dtype)
    dtype = "float64" if given == "float64" else "float32"
    start, end = ops.cast(old, dtype), ops.cast(new, dtype)
    between = ops.cast(start + ops.cast(share, dtype) * (end - start), given)
    # Exactly where it was to go, if all of the way.
    return ops.where(share < 1, between, new)
