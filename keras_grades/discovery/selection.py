"""Which components are tracked: the values of `GradES(components=...)`."""

from collections.abc import Callable

import keras

from keras_grades.component import Component
from keras_grades.discovery import find_components
from keras_grades.validation import excerpt

Selection = (
    str
    | Callable[[Component], bool]
    | list[keras.Layer | keras.Variable]
    | None
)


def select(model, selection, among=None):
    """Finds the components that a selection asks for.

    Args:
        model: A built `keras.Model`.
        selection: As `components` of `GradES`.
        among: List of `keras.Variable`, those that are trained, where that
            is not all of the model. Defaults to `None`.

    Returns:
        List of `Component`, in the order in which data meets them.

    Raises:
        ValueError, TypeError: If it is empty, or lists other things.
    """
    if not isinstance(selection, (list, tuple)):
        found = find_components(model, include=selection)
        return _trained(among, found)
    wanted = [_variable_ids(item) for item in selection]
    found = _trained(among, find_components(model))
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


def _trained(among, found):
    if among is None:
        return found
    ids = {id(v) for v in among}
    trained = [c for c in found if all(id(v) in ids for v in c.variables)]
    if not trained:
        raise ValueError(
            "The optimizer that `optimizer` names trains none of the "
            "components. Was it built with the variables that it is to "
            f"train? Found were: {excerpt([c.name for c in found])}"
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
