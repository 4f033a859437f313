"""GradES put on a model for one `fit()`, and taken off without a trace."""

import time

from keras_grades import backend
from keras_grades.backend import private
from keras_grades.train_step import GradESMixin


class Installation:
    """All that GradES changes on a model: the one way in, the one way out.

    The optimizer is wrapped, `train_step` adds its log, the train function
    reports each of its calls, and `trainable` flags flip.

    Args:
        model: A compiled `keras.Model`.
        optimizer: The built `GradESOptimizer` around the model's optimizer.
        after_step: Function called after each call of the train function,
            with what it returned, and, if it was the first call, in which it
            may have compiled, the time at which that began, else None.
    """

    def __init__(self, model, optimizer, after_step):
        self.model = model
        self.optimizer = optimizer
        self._after_step = after_step
        self._place = private.optimizer_place(model)
        self._train_step = model.train_step
        self._train_function = model.train_function
        self._flipped = []

    def put_on(self):
        """Installs; from here on, `take_off` undoes all of it."""
        model = self.model
        model._grades_installation = self
        setattr(*self._place, self.optimizer)
        model.make_train_function = self._make_train_function
        model.make_train_function(force=True)

    def _make_train_function(self, force=False):
        model = self.model
        if model.train_function is not None and not force:
            return
        if not isinstance(model, GradESMixin):
            # A new function each time: compilers cache traces by function.
            model.train_step = backend.with_frozen_ratio(
                self._train_step, model
            )
        type(model).make_train_function(model, force=True)
        model.train_function = _reporting(
            model.train_function, self._after_step
        )

    def freeze(self, variables):
        """Freezes structurally: the flags, the optimizer, the function."""
        backend.sync(self.model)
        for variable in variables:
            if variable.trainable:
                variable.trainable = False
                self._flipped.append(variable)
        self.optimizer.narrow(self.model.trainable_variables)
        self.model.make_train_function(force=True)

    def take_off(self, restore_trainable=True):
        """Gives the model back, with its optimizer, `train_step` and flags."""
        model = self.model
        if getattr(model, "_grades_installation", None) is not self:
            return
        backend.sync(model)
        del model._grades_installation, model.make_train_function
        if "train_step" in vars(model):
            del model.train_step
        if getattr(*self._place) is self.optimizer:
            setattr(*self._place, self.optimizer.inner_optimizer)
        self.optimizer.widen()
        if restore_trainable:
            for variable in self._flipped:
                variable.trainable = True
        # With other flags, the function of an earlier `fit()` does not fit.
        unchanged = restore_trainable or not self._flipped
        model.train_function = self._train_function if unchanged else None


def find_installation(model):
    """What an interrupted `fit()` has left on the model, or None."""
    return getattr(model, "_grades_installation", None)


def _reporting(train_function, after_step):
    """Calls `after_step(output, first_call_began)` after each call."""
    is_first_call = True

    def reporting_train_function(*args):
        nonlocal is_first_call
        began = time.perf_counter() if is_first_call else None
        is_first_call = False
        output = train_function(*args)
        after_step(output, began)
        return output

    return reporting_train_function
