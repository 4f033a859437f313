"""An optimizer that stands in for the one that it wraps."""

import keras
from keras import ops

from keras_grades import compatibility
from keras_grades.keras_internals import optimizers


class OptimizerWrapper(keras.optimizers.Optimizer):
    """Leaves learning rate, iterations and state to the wrapped optimizer.

    Args:
        inner_optimizer: The `keras.optimizers.Optimizer` to wrap.
        name: String.
    """

    def __init__(self, inner_optimizer, name):
        compatibility.check_inner_optimizer(inner_optimizer)
        if isinstance(inner_optimizer, OptimizerWrapper):
            raise ValueError(
                f"A `{type(self).__name__}` cannot wrap another one. "
                f"Received: inner_optimizer={inner_optimizer!r}"
            )
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = inner_optimizer
        self._narrowed = None

    @optimizers.no_automatic_dependency_tracking
    def build(self, variables):
        if self.inner_optimizer.built:
            compatibility.check_knows(self.inner_optimizer, variables)
        else:
            self.inner_optimizer.build(variables)
        super().build(variables)
        self._built_with = list(variables)
        self._trained = self._built_with

    @property
    def own_iterations(self):
        """`keras.Variable`, the steps that were counted here."""
        return super().iterations

    @property
    def iterations(self):
        return self.inner_optimizer.iterations

    @property
    def learning_rate(self):
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.inner_optimizer.learning_rate = learning_rate

    def scale_loss(self, loss):
        return self.inner_optimizer.scale_loss(loss)

    def __getattr__(self, name):
        # Callbacks of Keras look for averages, and for the optimizers in a
        # `MultiOptimizer`, in the model's optimizer or that in loss scaling.
        if name in optimizers.FORWARDED:
            return getattr(self.inner_optimizer, name)
        return super().__getattribute__(name)  # Raises as it did.

    @optimizers.no_automatic_dependency_tracking
    def narrow(self, variables):
        """Makes this the optimizer of the given variables alone.

        For structural freezing: the next gradients are of these variables.

        Args:
            variables: List of `keras.Variable`, some of those it was built
                with.
        """
        self.widen()
        ids = {id(v) for v in variables}
        gone = [v for v in self._built_with if id(v) not in ids]
        for i, average in optimizers.averages(self.inner_optimizer, gone):
            # A copy: JAX gives no buffer away twice.
            average.assign(ops.copy(gone[i]))
        self._trained = [v for v in self._built_with if id(v) in ids]
        self._narrowed = (
            optimizers.narrow(self, variables),
            optimizers.narrow(self.inner_optimizer, variables),
        )

    @optimizers.no_automatic_dependency_tracking
    def widen(self):
        """Makes this the optimizer of all that it was built with again."""
        if self._narrowed is not None:
            own, inner = self._narrowed
            optimizers.widen(self, own)
            optimizers.widen(self.inner_optimizer, inner)
            self._trained = self._built_with
            self._narrowed = None
