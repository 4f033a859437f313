"""An optimizer's update in which frozen variables keep their value exactly.

A zero gradient is not enough: weight decay, momentum, moving averages and
constraints move a variable all the same. So the old value is put back. The
gradient is zeroed as well where it would reach others: global-norm clipping
adds up all of them. Elsewhere that would be compiled and computed for nothing.
"""

from keras import ops


def update_masked(update, gradients, variables, before, frozen, zero):
    """Updates, then puts back what is frozen, without a branch.

    Args:
        update: Function that takes the gradients and updates the variables.
        gradients: List of k tensors.
        variables: List of k `keras.Variable`.
        before: List of their k values, which stay.
        frozen: Boolean tensor of shape `(k,)`.
        zero: Boolean, whether gradients of what is frozen are zeroed.
    """
    update(_zeroed(gradients, frozen) if zero else gradients)
    _put_back(variables, before, frozen)


def update_branching(update, gradients, variables, frozen, zero):
    """The same, with no work for the weights while none of them is frozen.

    For backends that would really make the copies. In the other branch the
    gradients stand in for the copies: same shapes, and no memory, but for
    the sparse gradients of embeddings.
    """
    any_frozen = ops.any(frozen)
    before = ops.cond(
        any_frozen,
        lambda: copies(variables),
        lambda: list(map(_stand_in, gradients, variables)),
    )
    if zero:
        gradients = ops.cond(
            any_frozen,
            lambda: _zeroed(gradients, frozen),
            lambda: gradients,
        )
    update(gradients)
    ops.cond(
        any_frozen,
        lambda: _put_back(variables, before, frozen),
        lambda: None,
    )


def copies(variables):
    """The values of variables, which stay when these are assigned to."""
    return [ops.copy(v) for v in variables]


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


def _put_back(variables, before, frozen):
    for i, (variable, value) in enumerate(zip(variables, before)):
        variable.assign(
            ops.where(frozen[i], value, ops.convert_to_tensor(variable))
        )
