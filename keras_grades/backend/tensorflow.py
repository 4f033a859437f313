"""TensorFlow: the step is a graph of in-place updates, often without XLA."""

import math

import tensorflow as tf

from keras_grades.backend.masking import copies as snapshot
from keras_grades.backend.masking import update_branching
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
    tensors = (tf.cast(t, "float32") for t in tensors)
    if norm == "l2":
        return tf.stack([tf.norm(t) for t in tensors])
    return tf.stack([tf.reduce_sum(tf.abs(t)) for t in tensors])


def update_active(update, gradients, variables, frozen, share, zero):
    """Branches; the gradient of an embedding may be sparse, and stays so."""

    def update_all(values):
        update([_like(g, value) for g, value in zip(gradients, values)])

    values = [g.values if _is_sparse(g) else g for g in gradients]
    update_branching(update_all, values, variables, frozen, share, zero)


def _like(gradient, values):
    if _is_sparse(gradient):
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return values


def _is_sparse(gradient):
    return isinstance(gradient, tf.IndexedSlices)


def with_frozen_ratio(train_step, model):
    """Adds `frozen_ratio` to the logs of a `train_step(data)`."""

    def step(data):
        logs = train_step(data)
        optimizer = find_grades_optimizer(model)
        if optimizer is not None:
            logs["frozen_ratio"] = optimizer.frozen_ratio
        return logs

    return step


def read(optimizer, model, output=None):
    """The optimizer's state as arrays."""
    del model, output
    return {k: v.numpy() for k, v in optimizer.state.items()}


def sync(model):
    """Variables are always up to date."""
    del model


def guard_state(model, check_flags):
    """Nothing: the variables themselves are trained."""
    del model, check_flags


def keep_state(model, arguments, output):
    """Nothing: the variables themselves are trained."""
    del model, arguments, output


def no_step(logs, *arguments):
    """What a train function returns that has done nothing."""
    del arguments
    return logs


def check(model):
    """Refuses several replicas, of which the optimizer would see one."""
    replicas = model.distribute_strategy.num_replicas_in_sync
    if replicas > 1:
        raise ValueError(
            "GradES cannot measure under a `tf.distribute` strategy with "
            "several replicas: the optimizer sees the gradients of one only. "
            f"Received: {type(model.distribute_strategy).__name__} with "
            f"{replicas} replicas. Train on one replica, or use "
            "`keras.distribution` on the JAX backend."
        )


def compiles(model):
    """Whether to rebuild the train step costs a compilation."""
    return not model.run_eagerly


def max_rebuilds(model):
    """How often the train step may be rebuilt in one `fit()`."""
    del model
    return math.inf
