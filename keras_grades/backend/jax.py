"""JAX: the step is a pure function, and XLA fuses what is written plainly."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from keras_grades.backend.masking import update_masked
from keras_grades.backend.private import find_grades_optimizer

__all__ = [
    "check",
    "compiles",
    "guard_state",
    "keep_state",
    "max_rebuilds",
    "no_step",
    "norms",
    "read",
    "snapshot",
    "sync",
    "update_active",
    "with_frozen_ratio",
]


def norms(tensors, norm):
    """The norm of each tensor, as a float32 tensor of shape `(k,)`."""
    tensors = (jnp.asarray(t, "float32") for t in tensors)
    if norm == "l2":
        return jnp.stack([jnp.sqrt(jnp.sum(jnp.square(t))) for t in tensors])
    return jnp.stack([jnp.sum(jnp.abs(t)) for t in tensors])


def update_active(update, gradients, variables, frozen, share, zero):
    """Without a branch, and without copies: no array ever changes."""
    before = snapshot(variables)
    update_masked(update, gradients, variables, before, frozen, share, zero)


def snapshot(variables):
    """The values of variables, which stay when these are assigned to."""
    return [v.value for v in variables]


def with_frozen_ratio(train_step, model):
    """Adds `frozen_ratio` to the logs of a `train_step(state, data)`."""

    def step(state, data):
        logs, state = train_step(state, data)
        optimizer = find_grades_optimizer(model)
        if optimizer is not None:
            values = _values(optimizer, model, state[2])
            logs["frozen_ratio"] = jnp.mean(
                values["frozen_at"] > 0, dtype="float32"
            )
        return logs, state

    return step


def read(optimizer, model, output=None):
    """The optimizer's state as arrays.

    In the middle of an epoch the state is not in the variables but in what
    the train function returned, `(logs, state)`.
    """
    if output is None:
        return {k: v.numpy() for k, v in optimizer.state.items()}
    _, (_, _, optimizer_variables, _) = output
    values = _values(optimizer, model, optimizer_variables)
    return {k: np.asarray(v) for k, v in jax.device_get(values).items()}


def _values(optimizer, model, optimizer_variables):
    position = {id(v): i for i, v in enumerate(model.optimizer.variables)}
    return {
        name: optimizer_variables[position[id(variable)]]
        for name, variable in optimizer.state.items()
    }


def sync(model):
    """Writes the state of the running epoch back into the variables.

    Keras takes it up again, partitioned anew, at the next batch.
    """
    model.jax_state_sync()


# What Keras takes of a model for a step, in this order.
STATE = (
    "trainable_variables",
    "non_trainable_variables",
    "optimizer_variables",
    "metrics_variables",
)


def guard_state(model, check_flags):
    """Makes Keras write the state back to the variables that it came from.

    It would go by the flags of the moment, which may have been changed since
    the state was taken, and hand values to the wrong variables. And so would
    a compiled step: flags are checked each time that the state is taken.
    """
    weights = STATE[:2]
    taken_from = {}

    def get_jax_state(**arguments):
        if arguments.get("optimizer_variables"):
            check_flags()  # It is taken to train.
        taken_from.update({name: getattr(model, name) for name in weights})
        return type(model)._get_jax_state(model, **arguments)

    def jax_state_sync():
        state = getattr(model, "_jax_state", None)
        if state and not model._jax_state_synced:
            for name in weights:
                # Written back once: it may be given away afterwards.
                for variable, value in zip(
                    taken_from[name], state.pop(name, [])
                ):
                    variable.assign(value)
        type(model).jax_state_sync(model)

    model._get_jax_state = get_jax_state
    model.jax_state_sync = jax_state_sync


def keep_state(model, arguments, output):
    """Writes back the state of a step that was not finished, or not seen.

    While a step runs the variables are empty, and what Keras would write
    back is the state before the last rebuild, or none at all.

    Args:
        model: The model.
        arguments: What the train function was given, `(state, iterator)`.
        output: What it returned, `(logs, state)`, or None.
    """
    state = arguments[0] if output is None else output[1]
    if not any(value.is_deleted() for value in jax.tree.leaves(state)):
        model._jax_state = dict(zip(STATE, state))
        model._jax_state_synced = False
        model.jax_state_sync()


def no_step(logs, *arguments):
    """What a train function returns that has done nothing."""
    return logs, arguments[0]


def check(model):
    """Nothing that `fit()` does on JAX is out of reach."""
    del model


def compiles(model):
    """Whether to rebuild the train step costs a compilation."""
    return not model.run_eagerly and bool(model.jit_compile)


def max_rebuilds(model):
    """How often the train step may be rebuilt in one `fit()`."""
    del model
    return math.inf
