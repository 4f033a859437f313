"""GradES written out as a plain loop, independent of the library.

Plain gradients, decisions in numpy, variables set non-trainable by hand.
"""

import functools

import keras
import numpy as np


def gradients(model, variables, x, y, loss_fn, sample_weight=None):
    """Gradients of the loss, as tensors, on the backend in use.

    What the model keeps beside its weights, such as moving averages and
    seeds, is brought up to date.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = loss_fn(y, model(x, training=True), sample_weight)
        return tape.gradient(loss, [v.value for v in variables])
    if backend == "torch":
        model.zero_grad()
        loss_fn(y, model(x, training=True), sample_weight).backward()
        return [v.value.grad for v in variables]
    trained, others, function = _jax_gradients(model, loss_fn)
    grads, new = function(
        [v.value for v in trained],
        [v.value for v in others],
        x,
        y,
        sample_weight,
    )
    for variable, value in zip(others, new):
        variable.assign(value)
    grad_of = {id(v): g for v, g in zip(trained, grads)}
    return [grad_of[id(v)] for v in variables]


@functools.cache
def _jax_gradients(model, loss_fn):
    """Of all variables that are trainable at first: it is compiled once."""
    import jax

    trained = list(model.trainable_variables)
    others = list(model.non_trainable_variables)

    def loss_of(trained_values, other_values, x, y, sample_weight):
        mapping = list(
            zip(trained + others, list(trained_values) + list(other_values))
        )
        with keras.StatelessScope(state_mapping=mapping) as scope:
            loss = loss_fn(y, model(x, training=True), sample_weight)
        return loss, [scope.get_current_value(v) for v in others]

    return trained, others, jax.jit(jax.grad(loss_of, has_aux=True))


def apply(optimizer, grads, variables):
    if keras.backend.backend() == "torch":
        import torch

        with torch.no_grad():
            optimizer.apply(grads, variables)
    else:
        optimizer.apply(grads, variables)


def _average(gradients_of_parts):
    if len(gradients_of_parts) == 1:
        return gradients_of_parts[0]
    return [
        None if parts[0] is None else sum(parts[1:], parts[0]) / len(parts)
        for parts in zip(*gradients_of_parts)
    ]


def _array(tensor):
    return keras.ops.convert_to_numpy(tensor)


def numpy(tensor):
    return _array(tensor).astype("float64")


NORMS = {
    "l1": lambda arrays: sum(np.abs(a).sum() for a in arrays),
    "mean_l1": lambda arrays: (
        sum(np.abs(a).sum() for a in arrays) / sum(a.size for a in arrays)
    ),
    "l2": lambda arrays: sum(np.sqrt((a**2).sum()) for a in arrays),
}


def end_of(converged_at, cooldown):
    """The step at which what has converged then has cooled down."""
    steps = cooldown if isinstance(cooldown, int) else cooldown * converged_at
    return converged_at + int(steps)


def anneal(variables, start, groups, converged_at, step, cooldown):
    """Takes back some of the last update, where it is scaled."""
    shares = []
    for converged in converged_at:
        length = end_of(converged, cooldown) - converged
        left = 1 - (step - converged) / (length + 1)
        shares.append(max(left, 0) if converged else 1)
    mean = sum(shares) / len(shares)
    share_of = {
        id(v): share for share, group in zip(shares, groups) for v in group
    }
    for v, before in zip(variables, start):
        share = share_of.get(id(v), mean)
        if share < 1 and v.trainable:
            v.assign(before + share * (numpy(v) - before))


def relative_change(sizes):
    """How large the last updates are beside all so far.

    Args:
        sizes: The size of each update so far.
    """
    ratio, count, mean, deviation = np.nan, 0, 0.0, 0.0
    for size in sizes:
        ratio = np.nan
        if not np.isfinite(size) or (size == 0 and count == 0):
            continue
        log = np.log(size) if size > 0 else -np.inf
        if count == 0:
            mean = log
        beyond = min(max(log - mean, -np.log(1e4)), np.log(1e4))
        count += 1
        mean += min(2 / count, 1) * beyond
        window = max(20, 0.1 * count)
        deviation += (beyond - deviation) / window
        ratio = np.exp(deviation)
    return ratio


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
    cooldown=0,
    followers=(),
    accumulate=1,
    before_step=None,
    zeroed=False,
):
    """Trains for one update a batch, or in so many batches.

    Args:
        batches: List of `(x, y)` or `(x, y, sample_weight)`.
        groups: One list of variables a component.
        tau: One threshold a component.
        cooldown: Integer, steps, or float, a multiple of the step at which a
            component has converged, in which it is annealed until it freezes.
        followers: Pairs of a list of variables and a list of places in
            `groups`: the variables are frozen once all of those are.
        accumulate: Number of batches whose gradients are averaged.
        before_step: Function of the step and the optimizer, called before.
        zeroed: Whether frozen variables get a gradient of zero, and their
            value back afterwards, and are not left out: there are optimizers
            that must be given all variables that they were built with.

    Returns:
        The freeze step of each component (0: never), and the statistic of
        each at each step, NaN where it is frozen or undefined.
    """
    all_variables = list(model.trainable_variables)
    optimizer.build(all_variables)
    frozen_at = [0] * len(groups)
    converged_at = [0] * len(groups)
    below = [0] * len(groups)
    previous = [None] * len(groups)
    sizes = [[] for _ in groups]
    trace = []
    steps = [
        batches[i : i + accumulate]
        for i in range(0, len(batches) - accumulate + 1, accumulate)
    ]
    for t, parts in enumerate(steps, start=1):
        variables = list(model.trainable_variables)
        before = [[numpy(v) for v in g] for g in groups]
        grads = _average(
            [
                gradients(model, variables, x, y, loss_fn, *w)
                for x, y, *w in parts
            ]
        )
        grad_of = {id(v): g for v, g in zip(variables, grads)}
        grad_arrays = [
            None if frozen_at[i] else [numpy(grad_of[id(v)]) for v in group]
            for i, group in enumerate(groups)
        ]
        if before_step is not None:
            before_step(t, optimizer)
        start = [numpy(v) for v in all_variables] if cooldown else []
        if zeroed:
            values = [np.copy(_array(v)) for v in all_variables]
            apply(
                optimizer,
                [
                    grad_of.get(id(v), keras.ops.zeros(v.shape, v.dtype))
                    for v in all_variables
                ],
                all_variables,
            )
            for v, value in zip(all_variables, values):
                if not v.trainable:
                    v.assign(value)
        else:
            apply(optimizer, grads, variables)
        # What the optimizer did, before any of it is taken back.
        after = [[numpy(v) for v in g] for g in groups]
        if cooldown:
            anneal(all_variables, start, groups, converged_at, t, cooldown)
        row = []
        for i, group in enumerate(groups):
            if frozen_at[i]:
                row.append(np.nan)
                continue
            if monitor == "gradient":
                measured = grad_arrays[i]
            elif monitor == "weight_change":
                measured = [v - w for v, w in zip(after[i], before[i])]
            elif previous[i] is None:
                measured = None
            else:
                measured = [g - p for g, p in zip(grad_arrays[i], previous[i])]
            previous[i] = grad_arrays[i]
            s = np.nan if measured is None else NORMS[norm](measured)
            if monitor == "relative_change":
                sizes[i].append(
                    sum(
                        np.abs(v - w).sum()
                        for v, w in zip(after[i], before[i])
                        if v.ndim > 1
                    )
                )
                s = relative_change(sizes[i])
            row.append(s)
            below[i] = below[i] + 1 if s < tau[i] else 0
            if (
                t >= grace_steps
                and below[i] >= patience + 1
                and not converged_at[i]
            ):
                converged_at[i] = t
            if converged_at[i] and t == end_of(converged_at[i], cooldown):
                frozen_at[i] = t
                for v in group:
                    v.trainable = False
        for variables, leaders in followers:
            if all(frozen_at[i] for i in leaders):
                for v in variables:
                    v.trainable = False
        trace.append(row)
    return frozen_at, np.array(trace)
