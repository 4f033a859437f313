"""JAX: the step is a pure function, and XLA fuses what is written plainly."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from keras_grades.backend.masking import update_masked as update_active
from keras_grades.backend.private import find_grades_optimizer

__all__ = [
    "check",
    "compiles",
    "max_rebuilds",
    "norms",
    "read",
    "sync",
    "update_active",
    "with_frozen_ratio",
]


def norms(tensors, norm):
    """The norm of each tensor, as a float32 tensor of shape `(k,)`."""
    tensors = [jnp.asarray(t, "float32") for t in tensors]
    if norm == "l2":
        return jnp.stack([jnp.sqrt(jnp.sum(jnp.square(t))) for t in tensors])
    return jnp.stack([jnp.sum(jnp.abs(t)) for t in tensors])


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
