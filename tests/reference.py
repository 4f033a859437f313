"""GradES written out as a plain loop, independent of the library.

Plain gradients, decisions in numpy, variables set non-trainable by hand.
"""

import contextlib
import dataclasses
import functools
from typing import NamedTuple

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


def mean_gradients(model, batches, loss_fn):
    """Those of the trainable variables, by the `id` of each."""
    variables = list(model.trainable_variables)
    of_batches = [
        gradients(model, variables, x, y, loss_fn, *weight)
        for x, y, *weight in batches
    ]
    return {id(v): _mean(some) for v, some in zip(variables, zip(*of_batches))}


def _mean(tensors):
    if len(tensors) == 1 or tensors[0] is None:
        return tensors[0]
    return sum(tensors[1:], tensors[0]) / len(tensors)


def numpy(tensor):
    """A copy, in float64."""
    return keras.ops.convert_to_numpy(tensor).astype("float64")


def values(variables):
    return {id(v): numpy(v) for v in variables}


# What is measured.

NORMS = {
    "l1": lambda arrays: sum(np.abs(a).sum() for a in arrays),
    "mean_l1": lambda arrays: (
        sum(np.abs(a).sum() for a in arrays) / sum(a.size for a in arrays)
    ),
    "l2": lambda arrays: sum(np.sqrt((a**2).sum()) for a in arrays),
}


class Seen(NamedTuple):
    """One step of a component, as lists of arrays, one a variable.

    The weights are those around the update of the optimizer, before a
    cooldown takes some of it back.
    """

    gradients: list
    before: list
    after: list

    @property
    def updates(self):
        return [
            after - before for before, after in zip(self.before, self.after)
        ]


def see_before(components, gradient_of):
    """Notes gradients and weights of what is not frozen, before an update."""
    for c in components:
        if not c.frozen_at:
            c.seen.append(
                Seen(
                    gradients=[numpy(gradient_of[id(v)]) for v in c.variables],
                    before=[numpy(v) for v in c.variables],
                    after=[],
                )
            )


def see_after(components):
    for c in components:
        if not c.frozen_at:
            c.seen[-1].after.extend(numpy(v) for v in c.variables)


def gradient_norm(seen, norm):
    return norm(seen[-1].gradients)


def gradient_change_norm(seen, norm):
    if len(seen) == 1:
        return np.nan
    before, now = seen[-2].gradients, seen[-1].gradients
    return norm([b - a for a, b in zip(before, now)])


def weight_change_norm(seen, norm):
    return norm(seen[-1].updates)


def relative_size_of_update(seen, norm):
    """It has no norm, and leaves out the biases."""
    return relative_change(
        [sum(np.abs(u).sum() for u in s.updates if u.ndim > 1) for s in seen]
    )


# Each is a function of all steps of a component that were seen.
MONITORS = {
    "gradient": gradient_norm,
    "gradient_change": gradient_change_norm,
    "weight_change": weight_change_norm,
    "relative_change": relative_size_of_update,
}


def relative_change(sizes):
    """How large the last updates are, compared with all so far.

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


def transfer(seen, part, *, adapts):
    """The cosine between where weights went and where they should go next.

    Args:
        seen: List of n pairs of arrays of shape `(steps, entries)`, the
            gradients of a component and the weights that they were taken at.
        part: The steps of a part.
        adapts: Whether windows are short where most components have moved
            little: one part, or two of less than five steps.

    Returns:
        A list of n, the mean of the recent cosines of each component.
    """
    if len(seen[0][1]) < part:
        return [np.nan] * len(seen)
    parts = [[in_parts(a, part) for a in pair] for pair in seen]
    new = [
        np.linalg.norm(w[-1] - weights[0]) / np.linalg.norm(weights[0]) >= 0.03
        for (_, w), (_, weights) in zip(parts, seen)
    ]
    short = (2 if part < 5 else 1) if adapts else 4
    window = 4 if 2 * sum(new) > len(new) else short
    # Four windows' worth of comparisons are needed.
    if len(parts[0][1]) < 3 * window + 4 * window - 1:
        return [np.nan] * len(seen)
    mean = np.zeros(len(seen))
    ends = range(3 * window, len(parts[0][1]) + 1)
    for count, end in enumerate(ends, start=1):
        cosines = [cosine(g, w, window, end) for g, w in parts]
        rate = 1 / max(min(count, 4 * window), 0.2 * count)
        mean += rate * (np.array(cosines) - mean)
    return mean.tolist()


def in_parts(values, part):
    """The means of the parts that are complete."""
    n = len(values) // part
    return values[: n * part].reshape(n, part, -1).mean(1)


def cosine(gradients, weights, window, end):
    """Of where weights went, and where the last window wants them to go."""
    wanted = -gradients[end - window : end].sum(0)
    last = weights[end - 2 * window : end - window].sum(0)
    went = last - weights[end - 3 * window : end - 2 * window].sum(0)
    norms = np.linalg.norm(wanted) * np.linalg.norm(went)
    return wanted @ went / max(norms, 1e-30)


def transfer_of(components, part):
    """Without the biases; of matrices so small that all entries count."""

    def flat(of):
        return np.array(
            [np.concatenate([a.ravel() for a in s if a.ndim > 1]) for s in of]
        )

    seen = [
        (flat([s.gradients for s in c.seen]), flat([s.before for s in c.seen]))
        for c in components
    ]
    return transfer(seen, part, adapts=False)


def statistic_of(component, *, monitor, norm):
    if component.frozen_at:
        return np.nan
    return MONITORS[monitor](component.seen, NORMS[norm])


# What is decided.


@dataclasses.dataclass
class Watched:
    """A component, and what is known of it; 0 is the step of what never was."""

    variables: list
    tau: float
    seen: list = dataclasses.field(default_factory=list)
    below: int = 0
    converged_at: int = 0
    frozen_at: int = 0


def decide(component, statistic, step, *, grace_steps, patience, cooldown):
    """The rule of GradES, for one component; what is frozen stays so."""
    if component.frozen_at:
        return
    component.below = component.below + 1 if statistic < component.tau else 0
    is_low = component.below >= patience + 1
    if is_low and step >= grace_steps and not component.converged_at:
        component.converged_at = step
    if component.converged_at and step == last_step(component, cooldown):
        component.frozen_at = step
        freeze(component.variables)


def freeze_followers(followers, components):
    for variables, leaders in followers:
        if all(components[i].frozen_at for i in leaders):
            freeze(variables)


def freeze(variables):
    for variable in variables:
        variable.trainable = False


def last_step(component, cooldown):
    """The step at which what has converged is frozen."""
    steps = cooldown
    if isinstance(cooldown, float):
        steps = int(cooldown * component.converged_at)
    return component.converged_at + steps


def share_of_update(component, step, cooldown):
    """It falls in equal parts, and would be 0 in the step after the last."""
    if not component.converged_at:
        return 1
    parts = last_step(component, cooldown) + 1 - component.converged_at
    return max(0, 1 - (step - component.converged_at) / parts)


def anneal(variables, start, components, step, cooldown):
    """Takes back what is too much of the last update.

    What is not of a component takes the mean of the components' shares.
    """
    shares = [share_of_update(c, step, cooldown) for c in components]
    share_of = {
        id(v): share
        for share, component in zip(shares, components)
        for v in component.variables
    }
    for v in variables:
        share = share_of.get(id(v), sum(shares) / len(shares))
        if share < 1 and v.trainable:
            v.assign(start[id(v)] + share * (numpy(v) - start[id(v)]))


# One step, and all of them.


def in_steps(batches, accumulate):
    """Yields each step, from 1 on, with the batches whose gradients it has."""
    for step in range(1, len(batches) // accumulate + 1):
        yield step, batches[(step - 1) * accumulate : step * accumulate]


def update(optimizer, variables, gradient_of, zeroed):
    """One update of the trainable ones of the variables."""
    if not zeroed:
        trained = [v for v in variables if v.trainable]
        apply(optimizer, [gradient_of[id(v)] for v in trained], trained)
        return
    frozen = [v for v in variables if not v.trainable]
    kept = values(frozen)
    zeros = {id(v): keras.ops.zeros(v.shape, v.dtype) for v in frozen}
    gradient_of = {**gradient_of, **zeros}
    apply(optimizer, [gradient_of[id(v)] for v in variables], variables)
    for v in frozen:
        v.assign(kept[id(v)])


def train(
    model,
    optimizer,
    loss_fn,
    batches,
    groups,
    *,
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
    variables = list(model.trainable_variables)
    optimizer.build(variables)
    components = [Watched(list(g), t) for g, t in zip(groups, tau)]
    trace = []
    for step, some in in_steps(batches, accumulate):
        gradient_of = mean_gradients(model, some, loss_fn)
        if before_step is not None:
            before_step(step, optimizer)
        see_before(components, gradient_of)
        start = values(variables)
        update(optimizer, variables, gradient_of, zeroed=zeroed)
        see_after(components)
        if cooldown:
            anneal(variables, start, components, step, cooldown)
        trace.append(
            [statistic_of(c, monitor=monitor, norm=norm) for c in components]
        )
        for c, statistic in zip(components, trace[-1]):
            decide(
                c,
                statistic,
                step,
                grace_steps=grace_steps,
                patience=patience,
                cooldown=cooldown,
            )
        freeze_followers(followers, components)
    return [c.frozen_at for c in components], np.array(trace)


@contextlib.contextmanager
def share_of_rate(optimizer, share):
    """A context in which each learning rate is so much less."""
    inner = getattr(optimizer, "optimizers", [optimizer]) if share < 1 else []
    rates = [float(numpy(each.learning_rate)) for each in inner]
    for each, rate in zip(inner, rates):
        each.learning_rate = share * rate
    yield
    for each, rate in zip(inner, rates):
        each.learning_rate = rate


def train_until_settled(
    model,
    optimizer,
    loss_fn,
    batches,
    groups,
    blocks,
    *,
    part,
    patience,
    cooldown,
    deadline,
    accumulate=1,
    before_step=None,
    zeroed=False,
):
    """Trains with one clock for all, and a learning rate that falls to 0.

    All components converge at one step, when the mean of their statistics has
    been positive on `patience + 1` steps in a row, and later negative on as
    many, or at the deadline. Then the learning rate falls linearly, over
    `cooldown` times the steps so far. The lowest block freezes halfway, the
    highest at the end.

    Args:
        accumulate, before_step, zeroed: As in `train`.

    Returns:
        The step at which they converged, or 0; the freeze steps; the
        statistics up to the first of these, as `train` returns them; and the
        last step.
    """
    variables = list(model.trainable_variables)
    optimizer.build(variables)
    components = [Watched(list(g), tau=0.0) for g in groups]
    order = list(dict.fromkeys(blocks))
    trace, converged_at, length = [], 0, 0
    above = below = 0
    for step, some in in_steps(batches, accumulate):
        gradient_of = mean_gradients(model, some, loss_fn)
        if before_step is not None:
            before_step(step, optimizer)
        left = 1
        if converged_at:
            left = max(1 - (step - converged_at) / (length + 1), 0.0)
        see_before(components, gradient_of)
        with share_of_rate(optimizer, left):
            update(optimizer, variables, gradient_of, zeroed=zeroed)
        see_after(components)
        if not any(c.frozen_at for c in components):
            trace.append(transfer_of(components, part))
        if not converged_at:
            mean = np.mean(trace[-1])
            if above <= patience // 2:
                above = above + 1 if mean > 0 else 0  # NaN is not.
            else:
                below = below + 1 if mean < 0 else 0
            if below > patience or step == deadline:
                converged_at, length = step, int(cooldown * step)
        if converged_at:
            for component, block in zip(components, blocks):
                height = order.index(block) / max(1, len(order) - 1)
                height = height if len(order) > 1 else 1.0
                due = converged_at + int((0.5 + 0.5 * height) * length)
                if step >= due and not component.frozen_at:
                    component.frozen_at = step
                    freeze(component.variables)
        if all(c.frozen_at for c in components):
            break
    frozen_at = [c.frozen_at for c in components]
    return converged_at, frozen_at, np.array(trace), step
