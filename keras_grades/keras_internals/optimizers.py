"""What an optimizer of Keras keeps, variable by variable."""

import contextlib
from typing import NamedTuple

import keras
from keras.src.utils.tracking import no_automatic_dependency_tracking

# `SwapEMAWeights` reads the first two of the optimizer of a model, or of that
# in loss scaling; the last is where a `MultiOptimizer` saves those in it.
FORWARDED = (
    "_model_variables_moving_average",
    "optimizers",
    "_inner_optimizers",
)

# Where an optimizer on TensorFlow adds up the gradients of replicas.
SUM = "_all_reduce_sum_gradients"


def inner_optimizers(optimizer):
    """The optimizer, and those that a `MultiOptimizer` is made of."""
    return [optimizer, *getattr(optimizer, "optimizers", [])]


def wraps_another(optimizer):
    """Whether an optimizer, of another library or a user, has one in it."""
    kind = keras.optimizers.Optimizer
    return any(isinstance(value, kind) for value in vars(optimizer).values())


@no_automatic_dependency_tracking
def build_without_state(optimizer, variables):
    """Builds an optimizer for variables of which it keeps nothing itself."""
    keys = map(optimizer._var_key, variables)
    optimizer._trainable_variables_indices = {
        key: i for i, key in enumerate(keys)
    }
    set_trainable(optimizer, variables)
    optimizer.built = True


@no_automatic_dependency_tracking
def set_trainable(optimizer, variables):
    """Sets the variables that a stateless step of an optimizer is of."""
    optimizer._trainable_variables = list(variables)


def counter(optimizer):
    """The `keras.Variable` that counts the steps of an optimizer."""
    return optimizer._iterations


class ScheduleCalls(NamedTuple):
    """A learning-rate schedule, and the numbers that it is called with.

    An optimizer counts what it was called with before, and each batch whose
    gradients it accumulates.

    Attributes:
        schedule: `keras.optimizers.schedules.LearningRateSchedule`.
        first: Integer, the number at the first update of a run.
        every: Integer, by how much it grows from one update to the next.
    """

    schedule: keras.optimizers.schedules.LearningRateSchedule
    first: int = 0
    every: int = 1


def schedules_of(optimizer, updates=0):
    """The learning-rate schedules of an optimizer.

    Args:
        optimizer: `keras.optimizers.Optimizer`.
        updates: Integer, the updates that the run has taken so far.

    Returns:
        List of `ScheduleCalls`.
    """
    kind, found = keras.optimizers.schedules.LearningRateSchedule, []
    for inner in inner_optimizers(optimizer):
        if isinstance(inner._learning_rate, kind):
            every = inner.gradient_accumulation_steps or 1
            before = int(keras.ops.convert_to_numpy(inner._iterations)) // every
            first = every * (before - updates + 1) - 1
            found.append(ScheduleCalls(inner._learning_rate, first, every))
    return found


@contextlib.contextmanager
def scaled_learning_rate(optimizer, share):
    """Has an optimizer take steps at a share of its learning rate.

    Args:
        optimizer: `keras.optimizers.Optimizer`.
        share: Float scalar tensor, or `None`: all of it.
    """
    scaled = [] if share is None else inner_optimizers(optimizer)

    def reading_of(inner):
        read = type(inner)._get_current_learning_rate

        def read_scaled():
            rate = keras.ops.convert_to_tensor(read(inner))
            part = keras.ops.cast(share, rate.dtype)
            if isinstance(inner, keras.optimizers.Adafactor):
                # It takes the square root of the steps for a limit.
                steps = keras.ops.cast(inner.iterations + 1, rate.dtype)
                limit = keras.ops.minimum(rate, keras.ops.rsqrt(steps))
                rate = keras.ops.where(part < 1, limit, rate)
            return rate * part

        return read_scaled

    with _replaced("_get_current_learning_rate", scaled, reading_of):
        yield


def sums_as_given(optimizer):
    """Whether an optimizer adds up, over replicas, gradients as they are.

    On TensorFlow it does, but for clipping: Keras clips those of one replica
    before it adds them up.
    """
    return hasattr(optimizer, SUM) and not any(
        inner.clipnorm or inner.clipvalue or inner.global_clipnorm
        for inner in inner_optimizers(optimizer)
    )


@contextlib.contextmanager
def summed_already(optimizer, is_so):
    """Has an optimizer take gradients for sums over all replicas."""
    inner = inner_optimizers(optimizer) if is_so else []
    with _replaced(SUM, inner, lambda _: list):
        yield


@contextlib.contextmanager
def _replaced(method, optimizers, replacement_of):
    """Replaces a method of optimizers, each by what a function returns."""
    for optimizer in optimizers:
        _set(optimizer, method, replacement_of(optimizer))
    try:
        yield
    finally:
        for optimizer in optimizers:
            # Replicas take turns in the same lines: one comes first.
            if method in vars(optimizer):
                delattr(optimizer, method)


@no_automatic_dependency_tracking
def _set(optimizer, name, value):
    setattr(optimizer, name, value)


def is_update_step(optimizer):
    """Whether the next `apply` updates the weights or only accumulates.

    Returns:
        `True`, or a boolean scalar tensor if gradients are accumulated.
    """
    steps = optimizer.gradient_accumulation_steps
    if not steps:
        return True
    # `iterations` counts updates; this counts the calls.
    return (optimizer._iterations + 1) % steps == 0


def inner_gradients(optimizer, gradients, variables):
    """The gradients that the optimizer will use: unscaled and averaged."""
    scale = optimizer.loss_scale_factor
    if scale is not None:
        gradients = [g / scale for g in gradients]
    steps = optimizer.gradient_accumulation_steps
    if steps:
        sums = [
            optimizer._accumulated_gradients[optimizer._get_variable_index(v)]
            for v in variables
        ]
        gradients = [(g + s) / steps for g, s in zip(gradients, sums)]
    return gradients


def gradients_reach_others(optimizer):
    """Whether a gradient may matter to other variables, or to later steps.

    Clipping by the norm of all gradients, and accumulating them, are the only
    places in Keras. An optimizer that is not of Keras may do anything.
    """
    return any(
        inner.global_clipnorm
        or inner.gradient_accumulation_steps
        or not type(inner).__module__.startswith("keras.")
        for inner in inner_optimizers(optimizer)
    )


def uses_averages(optimizer):
    """Whether the optimizer keeps moving averages of weights."""
    return any(inner.use_ema for inner in inner_optimizers(optimizer))


def averages(optimizer, variables):
    """Pairs of the index of a variable and its moving average, if any."""
    found = {}
    for inner in inner_optimizers(optimizer):
        # One in a `MultiOptimizer` may have nothing to train.
        if inner.use_ema and inner.built:
            keys = map(id, inner._trainable_variables)
            found |= dict(zip(keys, inner._model_variables_moving_average))
    return [
        (i, found[id(v)]) for i, v in enumerate(variables) if id(v) in found
    ]


def new_like(variable, initial, name):
    """A `keras.Variable` that is placed where another one is.

    Args:
        variable: `keras.Variable`, of which it takes shape, dtype and layout.
        initial: Float, the value of each entry.
        name: String.
    """
    return keras.Variable(
        lambda shape, dtype: keras.ops.full(shape, initial, dtype),
        shape=variable.shape,
        dtype=variable.dtype,
        trainable=False,
        layout=getattr(variable, "_layout", None),
        name=name,
    )


class Narrowed(NamedTuple):
    """What an optimizer had before it was narrowed.

    Attributes:
        attributes: Dict from the name of an attribute to its value.
        inner: List of `Narrowed`, of the optimizers in a `MultiOptimizer`.
    """

    attributes: dict
    inner: list


@no_automatic_dependency_tracking
def narrow(optimizer, variables):
    """Makes a built optimizer one of these variables alone.

    Its state for the others stays, untouched, in `optimizer.variables`.
    Averages of weights and `MultiOptimizer` would otherwise reach for all
    the variables that the optimizer was built with.

    Returns:
        `Narrowed`, to undo it by `widen`.
    """
    keep = set(map(optimizer._var_key, variables))
    built_with = optimizer._trainable_variables
    kept = [
        i for i, v in enumerate(built_with) if optimizer._var_key(v) in keep
    ]
    attributes, inner = {"_trainable_variables": built_with}, []
    if optimizer.use_ema and optimizer.built:
        every = optimizer._model_variables_moving_average
        attributes["_model_variables_moving_average"] = every
        optimizer._model_variables_moving_average = [every[i] for i in kept]
    if isinstance(optimizer, keras.optimizers.MultiOptimizer):
        indices = optimizer._trainable_variables_indices
        attributes["_trainable_variables_indices"] = indices
        optimizer._trainable_variables_indices = {
            key: i for key, i in indices.items() if key in keep
        }
        inner = [
            narrow(each, [v for v in variables if knows(each, v)])
            for each in optimizer.optimizers
        ]
    optimizer._trainable_variables = [built_with[i] for i in kept]
    return Narrowed(attributes, inner)


@no_automatic_dependency_tracking
def widen(optimizer, narrowed):
    """Undoes `narrow`."""
    for each, undo in zip(getattr(optimizer, "optimizers", []), narrowed.inner):
        widen(each, undo)
    for name, value in narrowed.attributes.items():
        setattr(optimizer, name, value)


def knows(optimizer, variable):
    """Whether a built optimizer has state for a variable."""
    key = optimizer._var_key(variable)
    return key in optimizer._trainable_variables_indices
