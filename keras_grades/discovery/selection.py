"""Which components are tracked: the values of `GradES(components=...)`."""

from collections.abc import Callable

import keras

from keras_grades.component import Component
from keras_grades.discovery import find_components
from keras_grades.keras_internals import optimizers
from keras_grades.validation import excerpt

Selection = (
    str
    | Callable[[Component], bool]
    | list[keras.Layer | keras.Variable]
    | None
)


def select(model, selection, optimizer=None):
    """Finds the components that a selection asks for.

    Args:
        model: A built `keras.Model`.
        selection: As `components` of `GradES`.
        optimizer: The built `keras.optimizers.Optimizer` that has to train
            them, or `None`: that of the model, which trains all.

    Returns:
        List of `Component`, in the order in which data meets them.

    Raises:
        ValueError, TypeError: If it is empty, or lists other things.
    """
    if not isinstance(selection, (list, tuple)):
        found = find_components(model, include=selection)
        return _trained_by(optimizer, found)
    wanted = [_variable_ids(item) for item in selection]
    found = _trained_by(optimizer, find_components(model))
    owned = [{id(v) for v in component.variables} for component in found]
    for item, ids in zip(selection, wanted):
        if not any(ids & variables for variables in owned):
            raise ValueError(
                "`components` lists something that is not a trainable "
                "projection of an attention or feed-forward block. Received: "
                f"{item}. See what is: "
                "`print(keras_grades.find_components(model))`"
            )
    if not wanted:
        raise ValueError(
            "`components` as a list must not be empty. Pass None to track all "
            "that `find_components` finds. Received: components=[]"
        )
    wanted = set().union(*wanted)
    return [c for c, variables in zip(found, owned) if variables & wanted]


def _trained_by(optimizer, found):
    if optimizer is None:
        return found
    trained = [
        c
        for c in found
        if all(optimizers.knows(optimizer, v) for v in c.variables)
    ]
    if not trained:
        raise ValueError(
            "The optimizer that `optimizer` names trains none of the "
            "components. Was it built with the variables that it is to "
            f"train? Received: {optimizer.name!r}; found were "
            f"{excerpt([c.name for c in found])}"
        )
    return trained


def _variable_ids(item):
    if isinstance(item, keras.Layer):
        return {id(v) for v in item.variables}
    if isinstance(item, keras.Variable):
        return {id(item)}
    raise TypeError(
        "`components` as a list must hold layers or variables. Received: "
        f"{item!r} of type {type(item).__name__}"
    )
