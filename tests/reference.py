"""GradES written out as a plain loop, independent of the library.

Plain gradients, decisions in numpy, variables set non-trainable by hand.
"""

import functools

import keras
import numpy as np


def gradients(model, variables, x, y, loss_fn):
    """Gradients of the loss, as arrays, on the backend in use."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = loss_fn(y, model(x, training=True))
        return tape.gradient(loss, [v.value for v in variables])
    if backend == "torch":
        model.zero_grad()
        loss_fn(y, model(x, training=True)).backward()
        return [v.value.grad for v in variables]
    all_variables = model.variables
    grads = _jax_gradients(model, loss_fn)(
        [v.value for v in all_variables], x, y
    )
    grad_of = {id(v): g for v, g in zip(all_variables, grads)}
    return [grad_of[id(v)] for v in variables]


@functools.cache
def _jax_gradients(model, loss_fn):
    """Gradients of all variables, so that it is compiled only once."""
    import jax

    def loss_of(values, x, y):
        mapping = list(zip(model.variables, values))
        with keras.StatelessScope(state_mapping=mapping):
            return loss_fn(y, model(x, training=True))

    return jax.jit(jax.grad(loss_of))


def apply(optimizer, grads, variables):
    if keras.backend.backend() == "torch":
        import torch

        with torch.no_grad():
            optimizer.apply(grads, variables)
    else:
        optimizer.apply(grads, variables)


def numpy(tensor):
    return keras.ops.convert_to_numpy(tensor).astype("float64")


NORMS = {
    "l1": lambda arrays: sum(np.abs(a).sum() for a in arrays),
    "mean_l1": lambda arrays: (
        sum(np.abs(a).sum() for a in arrays) / sum(a.size for a in arrays)
    ),
    "l2": lambda arrays: sum(np.sqrt((a**2).sum()) for a in arrays),
}


def train(
    model,
    optimizer,
    loss_fn,
    batches,
    groups,
    tau,
    grace_steps=0,
    monitor="gradient",
    norm="l1",
    patience=0,
    interval=1,
    followers=(),
):
    """Trains for one update a batch.

    Args:
        groups: One list of variables a component.
        tau: One threshold a component.
        followers: Pairs of a list of variables and a list of places in
            `groups`: the variables are frozen once all of those are.

    Returns:
        The freeze step of each component (0: never), and the statistic of
        each at each step, NaN where it is frozen or undefined.
    """
    optimizer.build(model.trainable_variables)
    frozen_at = [0] * len(groups)
    below = [0] * len(groups)
    previous = [None] * len(groups)
    trace = []
    for t, (x, y) in enumerate(batches, start=1):
        variables = list(model.trainable_variables)
        before = [[numpy(v) for v in g] for g in groups]
        grads = gradients(model, variables, x, y, loss_fn)
        grad_of = {id(v): g for v, g in zip(variables, grads)}
        grad_arrays = [
            None if frozen_at[i] else [numpy(grad_of[id(v)]) for v in group]
            for i, group in enumerate(groups)
        ]
        apply(optimizer, grads, variables)
        row = []
        for i, group in enumerate(groups):
            if frozen_at[i]:
                row.append(np.nan)
                continue
            if monitor == "gradient":
                measured = grad_arrays[i]
            elif monitor == "weight_change":
                measured = [numpy(v) - w for v, w in zip(group, before[i])]
            elif previous[i] is None:
                measured = None
            else:
                measured = [g - p for g, p in zip(grad_arrays[i], previous[i])]
            previous[i] = grad_arrays[i]
            s = np.nan if measured is None else NORMS[norm](measured)
            row.append(s)
            if t % interval == 0:
                below[i] = below[i] + 1 if s < tau[i] else 0
                if t >= grace_steps and below[i] >= patience + 1:
                    frozen_at[i] = t
                    for v in group:
                        v.trainable = False
        for variables, leaders in followers:
            if all(frozen_at[i] for i in leaders):
                for v in variables:
                    v.trainable = False
        trace.append(row)
    return frozen_at, np.array(trace)
