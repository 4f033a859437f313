"""`find_components`: which matrices of a model GradES watches.

By structure and type: the tree of layers (`tree`), the attention layers in it
(`attention`), the block that each belongs to (`blocks`), and what else in the
block maps its width to another and back (`feed_forward`, `graph`).
"""

import collections
import os
from collections.abc import Callable

import keras

from keras_grades.compatibility import check_is_keras
from keras_grades.compatibility import is_built
from keras_grades.component import Component
from keras_grades.component import ComponentList
from keras_grades.discovery.blocks import Blocks
from keras_grades.discovery.tree import embedding_variable_ids
from keras_grades.discovery.tree import layer_tree
from keras_grades.validation import check_pattern
from keras_grades.validation import excerpt

__all__ = ["find_components"]

Choice = str | Callable[[Component], bool] | None


def find_components(
    model: keras.Layer, include: Choice = None, exclude: Choice = None
) -> ComponentList:
    """Finds the attention and feed-forward projections of a model.

    It looks at structure, not at families of models: at the projections that
    an attention layer holds, and at matrices that map the hidden width to
    another and back in the same block. Embeddings, norms, routers, poolers,
    heads, patch embeddings and adapters are not components, and frozen
    weights are left out, as is any layer with "Pool" in the name of its
    class. If a feed-forward network has inner layers between
    the way up and the way down, their role is `"ffn_up"`, too.

    Example:

    ```python
    components = keras_grades.find_components(model)
    print(components)  # A table: name, role, block, shape, parameters.
    ```

    Args:
        model: A built `keras.Model` or layer.
        include: A regular expression on names (`re.search`), or a function
            `Component -> bool`: keep only these. Defaults to `None`, all.
        exclude: The same, for what to leave out. Defaults to `None`.

    Returns:
        `ComponentList`, a list of `Component` in the order in which data
        meets them. Names are unique, and the same in every run and on every
        backend.

    Raises:
        ValueError: If the model is not built, or nothing is found or left.
        TypeError: If `include` or `exclude` is something else.
    """
    _check_built(model)
    keeps = _predicate("include", include, default=True)
    drops = _predicate("exclude", exclude, default=False)
    found = _find(model)
    if not found:
        raise ValueError(_nothing_found(model))
    chosen = [c for c in found if keeps(c) and not drops(c)]
    if not chosen:
        raise ValueError(
            "No component is left by the selection. Received: "
            f"include={include!r}, exclude={exclude!r}. There are: "
            + excerpt([c.name for c in found])
        )
    return ComponentList(chosen)


def _find(model):
    trainable = {id(v) for v in model.trainable_variables}
    tree = layer_tree(model)
    taken = embedding_variable_ids(tree)
    components = []
    for matrix, role, block in Blocks(tree).roles():
        variables = tuple(v for v in matrix.variables if id(v) in trainable)
        if not variables or variables[0] is not matrix.variables[0]:
            continue
        if taken & {id(v) for v in variables}:
            continue
        taken |= {id(v) for v in variables}
        components.append(Component(matrix.path, role, block, variables))
    _drop_common_prefix(components)
    return components


def _drop_common_prefix(components):
    """Drops the names of what holds all blocks: it tells none apart."""
    parents = [
        os.path.commonprefix([c.block.split("/")[:-1], c.name.split("/")[:-1]])
        for c in components
    ]
    common = len(os.path.commonprefix(parents)) if parents else 0
    for component in components:
        component.block = _after(component.block, common)
        component.name = _after(component.name, common)


def _after(path, segments):
    return "/".join(path.split("/")[segments:])


def _predicate(name, selection, default):
    """What a regular expression or function says of a component."""
    if selection is None:
        return lambda component: default
    if callable(selection):
        return selection
    if not isinstance(selection, str):
        raise TypeError(
            f"`{name}` must be a regular expression on component names or a "
            f"function `Component -> bool`. Received: {name}={selection!r} "
            f"of type {type(selection).__name__}"
        )
    pattern = check_pattern(f"`{name}`", selection)
    return lambda component: bool(pattern.search(component.name))


def _nothing_found(model):
    kinds = collections.Counter(
        type(node.layer).__name__ for node in layer_tree(model).walk()
    )
    seen = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
    return (
        "No trainable projection of an attention or feed-forward block was "
        f"found in {model.name!r}. Kinds of layers seen: {seen}. Pass a "
        "Transformer, with `trainable` left on; if it is quantized, call "
        "`enable_lora(rank)` first."
    )


def _check_built(model):
    check_is_keras(model)
    if not is_built(model):
        raise ValueError(
            "The model must be built, so that it has variables. Call it on a "
            "batch of data, or `model.build(input_shape)`. Received: "
            f"{model.name!r}, which is not built."
        )
