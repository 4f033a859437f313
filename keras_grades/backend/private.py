"""What Keras keeps private and GradES cannot do without.

`tests/test_private.py` fails when Keras changes any of it.
"""

import keras
from keras.src.utils.tracking import no_automatic_dependency_tracking

__all__ = [
    "find_grades_optimizer",
    "inner_gradients",
    "is_update_step",
    "narrow",
    "no_automatic_dependency_tracking",
    "optimizer_place",
    "widen",
]


def find_grades_optimizer(model):
    """The model's `GradESOptimizer`, also inside loss scaling, or None."""
    from keras_grades.optimizer import GradESOptimizer

    optimizer = getattr(*optimizer_place(model))
    return optimizer if isinstance(optimizer, GradESOptimizer) else None


def optimizer_place(model):
    """Where the wrapped optimizer goes: object and name of the attribute.

    Loss scaling stays outermost, so that what GradES is given is unscaled,
    and finite.
    """
    if isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer):
        return model.optimizer, "inner_optimizer"
    return model, "optimizer"


def is_update_step(optimizer):
    """Whether the next `apply` updates the weights or only accumulates."""
    steps = optimizer.gradient_accumulation_steps
    if not steps:
        return True
    return (optimizer._iterations + 1) % steps == 0


def inner_gradients(optimizer, gradients, variables):
    """The gradients that the optimizer will use: unscaled and averaged."""
    scale = optimizer.loss_scale_factor
    if scale is not None:
        gradients = [g / scale for g in gradients]
    steps = optimizer.gradient_accumulation_steps
    if steps:
        gradients = [
            (g + optimizer._accumulated_gradients[i]) / steps
            for g, i in zip(
                gradients, map(optimizer._get_variable_index, variables)
            )
        ]
    return gradients


@no_automatic_dependency_tracking
def narrow(optimizer, variables):
    """Makes a built optimizer one of these variables alone.

    Its state for the others stays, untouched, in `optimizer.variables`.
    Averages of weights and `MultiOptimizer` would otherwise reach for all
    the variables that the optimizer was built with.

    Returns:
        What `widen` needs to undo it.
    """
    keep = {optimizer._var_key(v) for v in variables}
    undo = {"_trainable_variables": optimizer._trainable_variables}
    kept = [
        i
        for i, v in enumerate(optimizer._trainable_variables)
        if optimizer._var_key(v) in keep
    ]
    if optimizer.use_ema:
        averages = optimizer._model_variables_moving_average
        undo["_model_variables_moving_average"] = averages
        optimizer._model_variables_moving_average = [averages[i] for i in kept]
    if isinstance(optimizer, keras.optimizers.MultiOptimizer):
        indices = optimizer._trainable_variables_indices
        undo["_trainable_variables_indices"] = indices
        optimizer._trainable_variables_indices = {
            k: i for k, i in indices.items() if k in keep
        }
        undo["inner"] = [
            narrow(inner, [v for v in variables if _knows(inner, v)])
            for inner in optimizer.optimizers
        ]
    optimizer._trainable_variables = [
        optimizer._trainable_variables[i] for i in kept
    ]
    return undo


@no_automatic_dependency_tracking
def widen(optimizer, undo):
    """Undoes `narrow`."""
    undo = dict(undo)
    for inner, inner_undo in zip(
        getattr(optimizer, "optimizers", []), undo.pop("inner", [])
    ):
        widen(inner, inner_undo)
    for name, value in undo.items():
        setattr(optimizer, name, value)


def _knows(optimizer, variable):
    return (
        optimizer._var_key(variable) in optimizer._trainable_variables_indices
    )
