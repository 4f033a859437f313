"""What GradES refuses: optimizers and models that it could not do right."""

import keras

from keras_grades.keras_internals import optimizers
from keras_grades.validation import excerpt

# Their updates do not shrink as the learning rate falls.
DO_NOT_FOLLOW = (keras.optimizers.Ftrl, keras.optimizers.ScheduleFreeAdamW)


def check_inner_optimizer(optimizer):
    """Raises if an optimizer cannot be wrapped."""
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise TypeError(
            "`inner_optimizer` must be a `keras.optimizers.Optimizer`. "
            f"Received: {optimizer!r} of type {type(optimizer).__name__}"
        )
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise ValueError(
            "Loss scaling goes around GradES, so that it measures unscaled "
            "gradients. Use `LossScaleOptimizer(GradESOptimizer(inner))`. "
            "Received: a `LossScaleOptimizer` as `inner_optimizer`."
        )
    if any(
        inner.gradient_accumulation_steps
        for inner in optimizers.inner_optimizers(optimizer)[1:]
    ):
        raise ValueError(
            "The optimizers in a `MultiOptimizer` must not accumulate "
            "gradients: there is no one step then. Give "
            "`gradient_accumulation_steps` to none of them. Received: "
            f"inner_optimizer={optimizer!r}"
        )
    _check_has_no_way_around(optimizer)


def _check_has_no_way_around(optimizer):
    """Raises if Keras would train with a method that the wrapper has, too."""
    for inner in optimizers.inner_optimizers(optimizer):
        for name in ("apply_gradients", "stateless_apply"):
            own = getattr(type(inner), name)
            if own is not getattr(keras.optimizers.Optimizer, name):
                raise ValueError(
                    f"`{type(inner).__name__}` overrides `{name}`, which "
                    "would not be called: GradES applies gradients by "
                    "`apply`. Override `apply` or `update_step`, which are "
                    "called on every backend. Received: "
                    f"inner_optimizer={optimizer!r}"
                )


def check_replicas(optimizer, received):
    """Raises where Keras cannot train several replicas with an optimizer.

    Args:
        optimizer: `keras.optimizers.Optimizer`.
        received: String, the strategy, for the message.
    """
    for inner in optimizers.inner_optimizers(optimizer):
        for name in ("gradient_accumulation_steps", "ema_overwrite_frequency"):
            if getattr(inner, name):
                raise ValueError(
                    f"Keras cannot train several replicas with `{name}`: its "
                    "optimizer would update them inside a branch, which "
                    "TensorFlow refuses. Do without, or train on one replica. "
                    f"Received: {name}={getattr(inner, name)}, {received}"
                )


def check_knows(optimizer, variables):
    """Raises if an optimizer was built for other variables."""
    unknown = [v.path for v in variables if not optimizers.knows(optimizer, v)]
    if unknown:
        raise ValueError(
            "`inner_optimizer` was built for other variables than those that "
            "are trainable now. Call `model.compile()` again after a change "
            "of `trainable`, or of the model. Not known to it: "
            + excerpt(unknown)
        )


def check_holds_components(groups, variables):
    """Raises if an optimizer is built without some of its components."""
    received = {id(v) for v in variables}
    missing = [
        v.path
        for group in groups
        for v in group.variables
        if id(v) not in received
    ]
    if missing:
        raise ValueError(
            "The optimizer must be built with all variables of its "
            "components. Pass `model.trainable_variables` to `build()`. "
            f"Not among the variables received: {excerpt(missing)}"
        )


def check_can_anneal(optimizer, variables):
    """Raises if a part of an update cannot be taken back."""
    obstacles = {
        "moving averages of the weights (`use_ema`)": optimizers.uses_averages(
            optimizer
        ),
        "constraints of weights": any(v.constraint for v in variables),
        "variables that are overwritten by their gradients (float8)": any(
            v.overwrite_with_gradient for v in variables
        ),
    }
    found = [name for name, is_there in obstacles.items() if is_there]
    if found:
        raise ValueError(
            "`cooldown` takes back a part of each update, which does not go "
            f"together with {', '.join(found)}. Use `cooldown=0`, or do "
            "without."
        )


def check_can_settle(optimizer):
    """Raises if updates do not shrink as the learning rate falls."""
    found = [
        type(each).__name__
        for each in optimizers.inner_optimizers(optimizer)
        if isinstance(each, DO_NOT_FOLLOW) or optimizers.wraps_another(each)
    ]
    if found:
        raise ValueError(
            "`monitor='transfer'`, the default where the learning rate does "
            "not decay by itself, lets it fall at the end, and not every "
            "optimizer follows: Ftrl makes weights anew from all gradients so "
            "far, ScheduleFreeAdamW from their mean so far, and one that wraps "
            "another takes steps at the rate of that. "
            "Pass `cooldown=0`: then all freezes at once. Received: "
            + excerpt(found)
        )


def check_is_keras(model):
    """Raises if a model is one of another library."""
    if not isinstance(model, keras.Layer):
        kind = f"{type(model).__module__}.{type(model).__qualname__}"
        raise TypeError(
            "`model` must be a `keras.Model` or layer of Keras 3, KerasHub's "
            "included. keras_grades is not for models of PyTorch, Hugging "
            f"Face or `tf_keras`. Received: an object of type {kind}"
        )


def is_built(model):
    """Whether a model has its variables."""
    return bool(model.built and model.variables)


def check_compiled(model):
    """Raises if a model has no optimizer to wrap."""
    if not model.compiled or model.optimizer is None:
        raise ValueError(
            "GradES wraps the model's optimizer, and this model has none. "
            "Call `model.compile(optimizer=..., loss=...)` first. Received: "
            f"{model.name!r}, which is not compiled."
        )


def check_named(model, path, optimizer, can_train):
    """Raises if another optimizer than the compiled one cannot be wrapped.

    Args:
        model: `keras.Model`.
        path: String, attributes from the model on, joined by dots.
        optimizer: What is there, or `None`.
        can_train: Boolean, whether a `train_step` can train with it.
    """
    if not can_train:
        raise ValueError(
            "On this backend Keras gives `train_step` the state of "
            "`model.optimizer` alone, so that no other optimizer can train. "
            "Compile the model with a `keras.optimizers.MultiOptimizer`, or "
            f"use TensorFlow or PyTorch. Received: optimizer={path!r}"
        )
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        has = [
            name
            for name, value in vars(model).items()
            if isinstance(value, keras.optimizers.Optimizer)
        ]
        raise ValueError(
            "`optimizer` must name a `keras.optimizers.Optimizer`: an "
            "attribute of the model, or a path of attributes. Received: "
            f"optimizer={path!r}. This model has: {excerpt(has)}"
        )
    if not optimizer.built:
        raise ValueError(
            "An optimizer that the model is not compiled with must be built, "
            "so that it is known what it trains. Call "
            f"`model.{path}.build(variables)` before `fit()`. Received: "
            f"optimizer={path!r}"
        )
