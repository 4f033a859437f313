"""An optimizer that stands in for the one that it wraps."""

import contextlib

import keras
from keras import ops

from keras_grades import compatibility
from keras_grades.keras_internals import optimizers
from keras_grades.keras_internals.trackable import TrackedAs

# What the base class keeps of any optimizer, and what is its own here.
HYPERPARAMETERS = (
    "clipnorm",
    "clipvalue",
    "ema_momentum",
    "ema_overwrite_frequency",
    "global_clipnorm",
    "gradient_accumulation_steps",
    "loss_scale_factor",
    "use_ema",
    "weight_decay",
)


class OptimizerWrapper(TrackedAs, keras.optimizers.Optimizer):
    """Leaves learning rate, hyperparameters and state to the wrapped optimizer.

    Callbacks and loggers read and set them on `model.optimizer`: they find
    those of the wrapped one. A file has that in the place of this one.

    Args:
        inner_optimizer: The `keras.optimizers.Optimizer` to wrap.
        name: String.

    Attributes:
        stands_in: Boolean, whether it also passes for an instance of the
            class of the wrapped one, with its config. Defaults to `False`.
    """

    stands_in = False
    # Until it is initialized.
    inner_optimizer = _narrowed = None

    def __init__(self, inner_optimizer, name):
        compatibility.check_inner_optimizer(inner_optimizer)
        if isinstance(inner_optimizer, OptimizerWrapper):
            raise ValueError(
                f"A `{type(self).__name__}` cannot wrap another one. "
                f"Received: inner_optimizer={inner_optimizer!r}"
            )
        super().__init__(learning_rate=0.0, name=name)
        for hyperparameter in HYPERPARAMETERS:
            delattr(self, hyperparameter)
        self.inner_optimizer = inner_optimizer

    @property  # type: ignore[misc]
    def __class__(self):
        # What `isinstance` asks, once `type` has said no, and `keras.saving`.
        return type(self.inner_optimizer) if self.stands_in else type(self)

    def __dir__(self):
        # Keras saves what it finds here, and finds what the wrapped one has.
        names = {*super().__dir__(), *dir(self.inner_optimizer)}
        return names - {"inner_optimizer"}

    def save_own_variables(self, store):
        self.inner_optimizer.save_own_variables(store)

    def load_own_variables(self, store):
        self.inner_optimizer.load_own_variables(store)

    def tracked_as(self):
        # All of it, also what it is narrowed to leave out.
        whole = {} if self._narrowed is None else self._narrowed.attributes
        return self.inner_optimizer, whole

    @optimizers.no_automatic_dependency_tracking
    def build(self, variables):
        if self.inner_optimizer.built:
            compatibility.check_knows(self.inner_optimizer, variables)
        else:
            self.inner_optimizer.build(variables)
        optimizers.build_without_state(self, variables)
        self._built_with = list(variables)
        self._trained = self._built_with

    @property
    def own_iterations(self):
        """`keras.Variable`, the steps that were counted here."""
        return optimizers.counter(self)

    @property
    def iterations(self):
        return self.inner_optimizer.iterations

    @property
    def learning_rate(self):
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.inner_optimizer.learning_rate = learning_rate

    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        self.inner_optimizer.exclude_from_weight_decay(var_list, var_names)

    def set_weights(self, weights):
        for variable, value in zip(self.variables, weights, strict=True):
            variable.assign(value)

    def scale_loss(self, loss):
        return self.inner_optimizer.scale_loss(loss)

    def __getattr__(self, name):
        """Called for what is not found here."""
        inner = vars(self).get("inner_optimizer")
        is_public = not name.startswith("_")
        if inner is not None and (is_public or name in optimizers.FORWARDED):
            return getattr(inner, name)
        # Not by asking again: Dynamo would come here once more, and again.
        raise AttributeError(
            f"{type(self).__name__!r} object has no attribute {name!r}"
        )

    def __setattr__(self, name, value):
        inner = vars(self).get("inner_optimizer")
        is_own = name.startswith("_") or name in vars(self)
        is_own = is_own or hasattr(type(self), name)
        if inner is None or is_own or not hasattr(inner, name):
            super().__setattr__(name, value)
        else:
            setattr(inner, name, value)

    @optimizers.no_automatic_dependency_tracking
    def narrow(self, variables):
        """Makes this the optimizer of the given variables alone.

        For structural freezing: the next gradients are of these variables.

        Args:
            variables: List of `keras.Variable`, some of those it was built
                with.
        """
        ids = {id(v) for v in variables}
        gone = [v for v in self._built_with if id(v) not in ids]
        self.widen()
        for i, average in optimizers.averages(self.inner_optimizer, gone):
            # A copy: JAX gives no buffer away twice.
            average.assign(ops.copy(gone[i]))
        self._arrange(variables)

    @optimizers.no_automatic_dependency_tracking
    def _arrange(self, variables):
        self.widen()
        ids = {id(v) for v in variables}
        self._train([v for v in self._built_with if id(v) in ids])
        self._narrowed = optimizers.narrow(self.inner_optimizer, variables)

    @contextlib.contextmanager
    def narrowed_to(self, variables):
        """A context to trace a step in, of variables that stay as they are.

        Args:
            variables: As in `narrow`.
        """
        trained = self._trained
        try:
            self._arrange(variables)
            yield
        finally:
            self._arrange(trained)

    @optimizers.no_automatic_dependency_tracking
    def widen(self):
        """Makes this the optimizer of all that it was built with again."""
        if self._narrowed is not None:
            optimizers.widen(self.inner_optimizer, self._narrowed)
            self._narrowed = None
            self._train(self._built_with)

    def _train(self, variables):
        self._trained = variables
        optimizers.set_trainable(self, variables)
