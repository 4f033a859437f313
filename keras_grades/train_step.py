"""The `train_step` override: what Keras does, and `frozen_ratio` in the logs.

Keras's own `train_step` takes gradients of `model.trainable_variables` as
they are when it is traced, so after a structural freeze and a new trace the
frozen ones are out of the backward pass. What is left to add is the log.
"""

from keras_grades import backend


class GradESMixin:
    """Adds `frozen_ratio` to the logs of a model's `train_step`.

    `keras_grades.GradES` does this by itself for any model. The mixin is for
    a `Model` subclass that is trained with `GradESOptimizer` and without the
    callback.

    Example:

    ```python
    class MyModel(keras_grades.GradESMixin, keras.Model):
        ...
    ```
    """

    def train_step(self, *args, **kwargs):
        train_step = super().train_step
        return backend.with_frozen_ratio(train_step, self)(*args, **kwargs)
