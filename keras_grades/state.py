"""The state of a run, in variables of the optimizer: made from one list."""

import contextlib

import numpy as np
from keras import ops

from keras_grades.keras_internals.optimizers import new_like
from keras_grades.masking import assign


class State:
    """Variables by name, as they were declared.

    Args:
        rule_specs: Dict from a name to a `StateSpec`. Replicas that train
            together take these from the first of them, so that none ever
            freezes what another does not.
        monitor_specs: Dict like that. They are computed alike on each replica.
        components: Sequence of n `Component`.
        add_variable: `add_variable` of the optimizer. It does not get those
            of which there is one for each variable of the components, so that
            those of frozen components can go.
    """

    def __init__(self, rule_specs, monitor_specs, components, add_variable):
        specs = {**rule_specs, **monitor_specs}
        members = [v for c in components for v in c.variables]
        self._variables = {
            name: add_variable(
                spec.shape,
                _filled_with(spec.initial),
                spec.dtype,
                "only_first_replica" if name in rule_specs else "none",
                name=name,
            )
            for name, spec in specs.items()
            if spec.shape is not None
        }
        self._kept = {
            name: {
                # Each with a name of its own: files may go by that.
                id(v): new_like(v, spec.initial, f"{name}_{i}")
                for i, v in enumerate(members)
            }
            for name, spec in specs.items()
            if spec.shape is None
        }

    def __getitem__(self, name):
        """The `keras.Variable` of a name."""
        return self._variables[name]

    def tensors(self, tracked):
        """The values by name.

        Args:
            tracked: List of n tuples of the components' `keras.Variable`.

        Returns:
            Dict of tensors; where there is one for each variable, of lists
            of n tuples like `tracked`.
        """
        values = {
            name: ops.convert_to_tensor(variable)
            for name, variable in self._variables.items()
        }
        for name, kept in self._kept.items():
            values[name] = [
                tuple(ops.convert_to_tensor(kept[id(v)]) for v in group)
                for group in tracked
            ]
        return values

    def assign(self, values, tracked, condition):
        """Assigns new values.

        Args:
            values: Dict like that of `tensors`, of some of the names.
            tracked: As in `tensors`.
            condition: `True`, or a boolean scalar, whether to assign.
        """
        for name, value in values.items():
            if name in self._variables:
                assign(self._variables[name], value, condition)
                continue
            kept = self._kept[name]
            for group, tensors in zip(tracked, value):
                for variable, tensor in zip(group, tensors):
                    assign(kept[id(variable)], tensor, condition)

    @property
    def kept(self):
        """List of the variables that `add_variable` did not make."""
        return [v for kept in self._kept.values() for v in kept.values()]

    def keep_only(self, variables):
        """Frees the state of all variables but these."""
        ids = {id(v) for v in variables}
        self._kept = {
            name: {key: v for key, v in kept.items() if key in ids}
            for name, kept in self._kept.items()
        }

    @contextlib.contextmanager
    def kept_only(self, variables):
        """A context in which it looks like that, and nothing is freed."""
        kept = self._kept
        try:
            self.keep_only(variables)
            yield
        finally:
            self._kept = kept

    def by_name(self, place):
        """All variables, with a place in the name of those that are kept.

        Args:
            place: Dict from the id of a variable to its place among those
                that the optimizer was built with.
        """
        kept = {
            f"{name}_{place[key]}": variable
            for name, each in self._kept.items()
            for key, variable in each.items()
        }
        return {**self._variables, **kept}


def _filled_with(value):
    """An initializer that compiles nothing, as those of Keras do on JAX."""
    return lambda shape, dtype: np.full(shape, value, dtype)


def updated_where(condition, new, old):
    """New state for the components of which a condition holds.

    Args:
        condition: Boolean tensor of shape `(n,)`.
        new: Dict of tensors. Those that do not have one entry a component,
            and lists, are new as they are.
        old: Dict of tensors.
    """
    return {
        name: ops.where(_like(condition, value), value, old[name])
        if getattr(value, "shape", ())[:1] == condition.shape
        else value
        for name, value in new.items()
    }


def _like(condition, value):
    rank = len(value.shape)
    return ops.reshape(condition, (-1, *[1] * (rank - 1)))
