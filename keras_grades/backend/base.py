"""What the backends have in common: variables are trained where they are."""

import contextlib
import math

import numpy as np
from keras import ops


class Backend:
    """The defaults; each backend overrides what differs there."""

    # Whether `fit()` builds a model with its first batch, not before it calls
    # its callbacks.
    builds_late = False

    # Whether a `train_step` can train with optimizers of its own.
    trains_with_others = True
    # Attributes of a model: functions that Keras has made, and that once they
    # are traced hand values to variables by the flags of then.
    traced: tuple[str, ...] = ()

    def norms(self, tensors, norm):
        """The norm of each tensor.

        Args:
            tensors: Iterable of k tensors, taken one by one.
            norm: String, `"l2"`, or else the sum of absolute values is taken.

        Returns:
            Float32 tensor of shape `(k,)`.
        """
        raise NotImplementedError

    def map(self, function, values):
        """The results of a function for each value of a tensor, stacked.

        Where steps are compiled it is compiled once, not once a value.
        """
        return ops.map(function, values)

    def scalars(self, tensor):
        """The entries of a tensor of shape `(k,)`, a list of k scalars."""
        return ops.unstack(tensor)

    def snapshot(self, variables):
        """The values of variables, which stay when these are assigned to."""
        return [ops.copy(v) for v in variables]

    def everywhere(self, tensor):
        """The tensor, as a whole on each device that takes part in a step."""
        return tensor

    def branches(self, tensor):
        """Whether to branch on a tensor costs less than it saves."""
        del tensor
        return True

    def scope(self, model):
        """A context in which variables are made that belong to a model."""
        del model
        return contextlib.nullcontext()

    def sum_over_replicas(self, gradients):
        """Adds up what several replicas have.

        Args:
            gradients: List of tensors, or of tuples of tensors. There may be
                `None` among them.

        Returns:
            The same of sums.
        """
        return gradients

    def gradient_values(self, gradient):
        """The dense tensor in a gradient, which may be sparse."""
        return gradient

    def with_gradient_values(self, gradient, values):
        """A gradient like the first, with other values."""
        del gradient
        return values

    def with_logs(self, train_step, model, optimizer):
        """Adds the logs of a `GradESOptimizer` to those of a train step.

        Args:
            train_step: Function, a model's `train_step`.
            model: The model.
            optimizer: The `GradESOptimizer` that trains it.

        Returns:
            Function with the arguments of `train_step`.
        """

        del model

        def step(data):
            return train_step(data) | optimizer.logs(optimizer.observed)

        return step

    def read(self, optimizer, model, output=None):
        """The part of the optimizer's state that the host looks at.

        Args:
            optimizer: The `GradESOptimizer`.
            model: The model that it trains.
            output: What the train function returned, or `None` outside of an
                epoch.

        Returns:
            Dict of numpy arrays.
        """
        del model, output
        return {
            name: np.array(ops.convert_to_numpy(variable))
            for name, variable in optimizer.observed.items()
        }

    def is_there(self, optimizer):
        """Whether `read` has something to read outside of an epoch.

        A step that fails may have taken the state with it.

        Args:
            optimizer: The `GradESOptimizer`.
        """
        del optimizer
        return True

    def begin_to_read(self, optimizer, model, output):
        """Copies what `read` reads, as it is now, and does not wait for it.

        Args:
            optimizer, model, output: As in `read`.

        Returns:
            Function that returns what `read` would have returned.
        """
        del model, output
        copies = {k: ops.copy(v) for k, v in optimizer.observed.items()}
        return lambda: {k: ops.convert_to_numpy(v) for k, v in copies.items()}

    def place(self, variable, value):
        """Assigns an array of the host, the same on each of several."""
        variable.assign(value)

    def agree(self, model, decision):
        """What the first process has decided, on all that train together."""
        del model
        return decision

    def check_agreement(self, model, frozen_at):
        """Raises if processes that train together have parted.

        Args:
            model: The model.
            frozen_at: Integer array of shape `(n,)`, of this process.
        """
        del model, frozen_at

    def trains(self, variable):
        """Whether a variable is trained, by its flag."""
        return variable.trainable

    def renew(self, model):
        """Gives up what goes by the flags as they were, after a change.

        Returns:
            Boolean, whether Keras has to make its train function again, too.
        """
        del model
        return False

    def sync(self, model):
        """Brings the variables up to date in the middle of `fit()`."""
        del model

    def guard_state(self, model, check_flags):
        """Has variables written back to where they came from.

        Args:
            model: The model.
            check_flags: Function that raises if a `trainable` flag is not as
                it was, to be called before that could do harm.
        """
        del model, check_flags

    def keep_state(self, model, arguments, output):
        """Saves the weights after a step that was not finished, or not seen.

        Args:
            model: The model.
            arguments: What the train function was given.
            output: What it returned, or `None`.
        """
        del model, arguments, output

    def is_end_of_data(self, error):
        """Whether an error says no more than that an iterator has ended."""
        return isinstance(error, StopIteration)

    def no_step(self, logs, *arguments):
        """What a train function returns that has done nothing."""
        del arguments
        return logs

    def compiles_ahead(self, train_function):
        """Whether a train step can be compiled while another one trains.

        Args:
            train_function: What Keras has made to train a model.
        """
        del train_function
        return False

    def peek(self, *arguments):
        """Looks at the next batch that a train function takes.

        Where `compiles_ahead`.

        Args:
            *arguments: What the train function is given.

        Returns:
            What to give it instead, and what the batch is like, which is equal
            to that of a batch for which nothing more is compiled.
        """
        raise NotImplementedError

    def begin_to_compile(self, model, train_function, batches):
        """Begins to compile a train function, and does not wait for it.

        Where `compiles_ahead`.

        Args:
            model: The model, with the flags that the function is for.
            train_function: What Keras has just made for it.
            batches: List of what batches are like, as from `peek`.

        Returns:
            `concurrent.futures.Future`. Once it is done, the first call of
            the function does not compile, if its batch is like that.
        """
        raise NotImplementedError

    def batch_spec(self, *arguments):
        """What the batches are like that a train function is about to take.

        Where `builds_late`.

        Returns:
            What `train_step` is given, of things with `shape` and `dtype`.
        """
        raise NotImplementedError

    def check_model(self, model):
        """Raises, or warns, if `fit()` cannot train a model where it is."""
        del model

    def check_devices(self, optimizer, variables):
        """Raises if GradES cannot follow variables to where they are.

        Args:
            optimizer: `GradESOptimizer`, not yet built.
            variables: List of `keras.Variable`, those it is built with.
        """
        del optimizer, variables

    def compiles(self, model):
        """Whether to rebuild the train step costs a compilation."""
        return not model.run_eagerly

    def max_rebuilds(self, model):
        """How often the train step may be rebuilt in one `fit()`, 0 if it
        cannot be made without frozen variables."""
        del model
        return math.inf
