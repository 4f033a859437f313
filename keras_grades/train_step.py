"""The `train_step` override: what Keras does, and two numbers in the logs.

Keras's own `train_step` takes gradients of `model.trainable_variables` as
they are when it is traced, so after a structural freeze and a new trace the
frozen ones are out of the backward pass. Only the logs are left to add.
"""

import functools

import keras

from keras_grades.backend import backend
from keras_grades.optimizer import GradESOptimizer

# The attribute of a model with what it was compiled with.
COMPILED = "optimizer"


class GradESMixin:
    """Adds `frozen_ratio` and `statistic` to the logs of a `train_step`.

    `keras_grades.GradES` does this by itself for any model. The mixin is for
    a `Model` subclass that is trained with `GradESOptimizer` and without the
    callback: `fit()` then measures, freezes exactly and logs, but neither
    rebuilds the train step nor stops. Name it before `keras.Model`. A class
    with a `train_step` of its own is named after it:
    `class MyModel(GradESMixin, ModelWithTrainStep)`.

    Example:

    ```python
    class MyModel(keras_grades.GradESMixin, keras.Model):
        pass

    model = MyModel(inputs, outputs)
    components = keras_grades.find_components(model)
    model.compile(
        keras_grades.GradESOptimizer(
            keras.optimizers.AdamW(1e-4), components, total_steps=1000
        ),
        loss=loss,
    )
    model.fit(x, y)  # The progress bar shows both.
    ```
    """

    def train_step(self, *args, **kwargs):
        step, optimizer = super().train_step, find_grades_optimizer(self)
        if optimizer is not None:
            step = backend.with_logs(step, self, optimizer)
        return step(*args, **kwargs)


def find_grades_optimizer(model):
    """The model's `GradESOptimizer`, also inside loss scaling, or `None`."""
    optimizer = find_optimizer(model, COMPILED)
    return optimizer if isinstance(optimizer, GradESOptimizer) else None


def find_optimizer(model, path):
    """The optimizer at a path from a model, inside loss scaling, or `None`."""
    try:
        return getattr(*optimizer_place(model, path))
    except AttributeError:
        return None


def optimizer_place(model, path):
    """Where the wrapped optimizer goes: object and name of the attribute.

    Loss scaling stays outermost, so that what GradES is given is unscaled,
    and finite.

    Args:
        model: `keras.Model`.
        path: String, attributes from the model on, joined by dots.
    """
    *owners, name = path.split(".")
    owner = functools.reduce(getattr, owners, model)
    optimizer = getattr(owner, name)
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return optimizer, "inner_optimizer"
    return owner, name
