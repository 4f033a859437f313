"""What Keras keeps private and GradES cannot do without.

`tests/test_private.py` fails when Keras changes any of it.
"""

import inspect
import math
from typing import NamedTuple

import keras
from keras.src.models.functional import Functional
from keras.src.ops.function import make_node_key
from keras.src.utils.naming import to_snake_case
from keras.src.utils.tracking import no_automatic_dependency_tracking

__all__ = [
    "FINGERPRINT",
    "averages",
    "embedding_variable_ids",
    "find_grades_optimizer",
    "gradients_reach_others",
    "graph_calls",
    "graph_of",
    "graph_sources",
    "inner_gradients",
    "is_update_step",
    "knows",
    "matrix_parameters",
    "nan_like",
    "narrow",
    "no_automatic_dependency_tracking",
    "optimizer_place",
    "own_variables",
    "save_inside",
    "save_with",
    "sublayers",
    "to_snake_case",
    "uses_averages",
    "watch_loading",
    "widen",
]

# Under this name a `GradESOptimizer` saves which components it is of.
FINGERPRINT = "components"


def sublayers(layer):
    """The layers that a layer holds, each after the attribute that holds it.

    In the order of the data where the layer is a graph, else as created.
    """
    held = {id(sublayer): sublayer for sublayer in layer._layers}
    if isinstance(layer, keras.Model):
        in_order = [s for s in layer.layers if id(s) in held]
        held = {id(s): s for s in in_order} | held
    return _after_attributes(layer, held.values())


def own_variables(layer):
    """The variables that a layer holds, each after its attribute."""
    return _after_attributes(
        layer, layer._trainable_variables + layer._non_trainable_variables
    )


# Where Keras, and TensorFlow's tracking, list once more what a layer holds.
_LISTS = (
    "_layers",
    "_non_trainable_variables",
    "_operations",
    "_self_",
    "_tracked",
    "_trainable_variables",
)


def _after_attributes(layer, held):
    """Pairs each of what a layer holds with its attribute, or ""."""
    if not held:
        return []
    attributes = dict(vars(layer))
    # PyTorch keeps layers in a place of its own.
    attributes |= attributes.pop("_modules", {})
    names = {}
    # What an attribute holds by itself is named so, even if some list holds
    # it too: which comes first depends on the backend.
    for name, value in sorted(
        attributes.items(), key=lambda a: isinstance(a[1], (dict, list, tuple))
    ):
        if not name.startswith(_LISTS):
            for path, item in _flatten(name.lstrip("_"), value):
                names.setdefault(id(item), path)
    return [(names.get(id(item), ""), item) for item in held]


def _flatten(name, value):
    """Yields names and items of an attribute, also of nested containers."""
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        yield name, value
        return
    for key, item in items:
        yield from _flatten(f"{name}_{key}", item)


def embedding_variable_ids(model):
    """The ids of all variables that are looked up in an embedding."""
    return {
        id(v)
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.Embedding)
        for v in layer.variables
    }


def matrix_parameters(model):
    """The number of parameters in what a step multiplies with."""
    looked_up = embedding_variable_ids(model)
    return sum(
        math.prod(v.shape)
        for v in model.variables
        if len(v.shape) > 1 and id(v) not in looked_up
    )


def graph_sources(model):
    """Of a functional model, the operations that feed each operation."""
    return {
        operation: [
            parent.operation
            for i, node in enumerate(operation._inbound_nodes)
            if make_node_key(operation, i) in model._nodes
            for parent in node.parent_nodes
        ]
        for operation in model.operations
    }


def graph_of(layer):
    """The functional model that a layer is, or None."""
    if isinstance(layer, keras.Sequential):
        return layer._functional
    return layer if isinstance(layer, Functional) else None


class GraphCall(NamedTuple):
    """One use of an operation in a functional model.

    Attributes:
        operation: The operation, a layer or not.
        variables: List of `keras.Variable`, the trainable ones that it uses.
        inputs: List of the tensors that it takes, the first argument first.
        outputs: List of the tensors that it makes.
    """

    operation: keras.Operation
    variables: list
    inputs: list
    outputs: list


def graph_calls(graph):
    """Yields a functional model's `GraphCall`s, in the order of data."""
    for depth in sorted(graph._nodes_by_depth, reverse=True):
        for node in graph._nodes_by_depth[depth]:
            if not node.is_input:
                yield GraphCall(
                    node.operation,
                    _used_variables(node),
                    _received(node),
                    node.outputs,
                )


def _used_variables(node):
    layer = node.operation
    if not isinstance(layer, keras.layers.ReversibleEmbedding):
        return list(getattr(layer, "trainable_variables", []))
    embeddings = layer.embeddings
    if node.arguments.kwargs.get("reverse") and not layer.tie_weights:
        embeddings = layer.reverse_embeddings
    return [v for v in layer.trainable_variables if v is embeddings]


def _received(node):
    arguments, operation = node.arguments, node.operation
    names = list(inspect.signature(operation.call).parameters)
    given = dict(zip(names, arguments.args)) | arguments.kwargs
    first = given.get(names[0]) if names else None
    inner = graph_of(operation)
    if inner is not None and isinstance(first, dict):
        # Each goes to the input of its name, whatever the order.
        by_name = [first.get(t.name) for t in inner.inputs]
        if None not in by_name:
            return by_name
    leading = {id(t) for t in keras.tree.flatten(first)}
    return sorted(
        arguments.keras_tensors, key=lambda tensor: id(tensor) not in leading
    )


def find_grades_optimizer(model):
    """The model's `GradESOptimizer`, also inside loss scaling, or None."""
    from keras_grades.optimizer import GradESOptimizer

    optimizer = getattr(*optimizer_place(model))
    return optimizer if isinstance(optimizer, GradESOptimizer) else None


def optimizer_place(model):
    """Where the wrapped optimizer goes: object and name of the attribute.

    Loss scaling stays outermost, so that what GradES is given is unscaled,
    and finite.
    """
    if isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer):
        return model.optimizer, "inner_optimizer"
    return model, "optimizer"


def save_with(model, optimizer):
    """Makes `model.save()` write down an optimizer in place of the own one.

    Returns:
        What it would have written down, to put it back with this function.
    """
    config = model._compile_config.config
    replaced = config["optimizer"]
    # Loss scaling stays, and has the optimizer in it.
    if not isinstance(replaced, keras.optimizers.LossScaleOptimizer):
        config["optimizer"] = optimizer
    return replaced


def save_inside(scaling, optimizer):
    """Makes loss scaling save all that the optimizer inside was built with.

    `LossScaleOptimizer` saves the variables of the inner one by their number,
    and loads none, of its own neither, if there are fewer or more.

    Args:
        scaling: The `LossScaleOptimizer`; anything else is left alone.
        optimizer: The `GradESOptimizer` inside.

    Returns:
        Function that undoes it.
    """

    def save_own_variables(store):
        own = [v.numpy() for v in scaling._variables]
        for i, value in enumerate(own + optimizer.values_as_built()):
            store[str(i)] = value

    if not isinstance(scaling, keras.optimizers.LossScaleOptimizer):
        return lambda: None
    return _replace(scaling, "save_own_variables", save_own_variables)


def watch_loading(model):
    """Notices freeze state that is loaded while nothing can take it.

    Args:
        model: A `keras.Model`. Nothing can be lost if it is not compiled, or
            has a `GradESOptimizer` already.

    Returns:
        Function that ends the watch, and returns whether any was lost.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or find_grades_optimizer(model) is not None:
        return lambda: False
    optimizer = getattr(*optimizer_place(model))
    load, is_lost = optimizer.load_own_variables, False

    def load_own_variables(store):
        nonlocal is_lost
        is_lost = is_lost or FINGERPRINT in store
        load(store)

    undo = _replace(optimizer, "load_own_variables", load_own_variables)

    def end():
        undo()
        return is_lost

    return end


def _replace(instance, name, value):
    """Puts an attribute on an instance; returns what takes it off, once."""
    attributes = vars(instance)
    own = {name: attributes[name]} if name in attributes else {}
    attributes[name] = value

    def undo():
        if attributes.get(name) is value:
            del attributes[name]
            attributes.update(own)

    return undo


def is_update_step(optimizer):
    """Whether the next `apply` updates the weights or only accumulates."""
    steps = optimizer.gradient_accumulation_steps
    if not steps:
        return True
    return (optimizer._iterations + 1) % steps == 0


def inner_gradients(optimizer, gradients, variables):
    """The gradients that the optimizer will use: unscaled and averaged."""
    scale = optimizer.loss_scale_factor
    if scale is not None:
        gradients = [g / scale for g in gradients]
    steps = optimizer.gradient_accumulation_steps
    if steps:
        gradients = [
            (g + optimizer._accumulated_gradients[i]) / steps
            for g, i in zip(
                gradients, map(optimizer._get_variable_index, variables)
            )
        ]
    return gradients


def gradients_reach_others(optimizer):
    """Whether a gradient may matter to other variables, or to later steps.

    Clipping by the norm of all gradients, and accumulating them, are the only
    places in Keras. What optimizers of other origin do is not known.
    """
    return any(
        inner.global_clipnorm
        or inner.gradient_accumulation_steps
        or not type(inner).__module__.startswith("keras.")
        for inner in _with_inner(optimizer)
    )


def _with_inner(optimizer):
    """The optimizer, and those that a `MultiOptimizer` is made of."""
    return [optimizer, *getattr(optimizer, "optimizers", [])]


def uses_averages(optimizer):
    """Whether the optimizer keeps moving averages of weights."""
    return any(inner.use_ema for inner in _with_inner(optimizer))


def averages(optimizer, variables):
    """Pairs of the place of a variable and its moving average, if any."""
    found = {}
    for inner in _with_inner(optimizer):
        if inner.use_ema:
            keys = map(inner._var_key, inner._trainable_variables)
            found |= dict(zip(keys, inner._model_variables_moving_average))
    keys = [optimizer._var_key(v) for v in variables]
    return [(i, found[key]) for i, key in enumerate(keys) if key in found]


def nan_like(variable, name):
    """A `keras.Variable` full of NaN, placed where another one is."""
    return keras.Variable(
        lambda shape, dtype: keras.ops.full(shape, float("nan"), dtype),
        shape=variable.shape,
        dtype=variable.dtype,
        trainable=False,
        layout=getattr(variable, "_layout", None),
        name=name,
    )


@no_automatic_dependency_tracking
def narrow(optimizer, variables):
    """Makes a built optimizer one of these variables alone.

    Its state for the others stays, untouched, in `optimizer.variables`.
    Averages of weights and `MultiOptimizer` would otherwise reach for all
    the variables that the optimizer was built with.

    Returns:
        What `widen` needs to undo it.
    """
    keep = {optimizer._var_key(v) for v in variables}
    undo = {"_trainable_variables": optimizer._trainable_variables}
    kept = [
        i
        for i, v in enumerate(optimizer._trainable_variables)
        if optimizer._var_key(v) in keep
    ]
    if optimizer.use_ema:
        every = optimizer._model_variables_moving_average
        undo["_model_variables_moving_average"] = every
        optimizer._model_variables_moving_average = [every[i] for i in kept]
    if isinstance(optimizer, keras.optimizers.MultiOptimizer):
        indices = optimizer._trainable_variables_indices
        undo["_trainable_variables_indices"] = indices
        optimizer._trainable_variables_indices = {
            k: i for k, i in indices.items() if k in keep
        }
        undo["inner"] = [
            narrow(inner, [v for v in variables if knows(inner, v)])
            for inner in optimizer.optimizers
        ]
    optimizer._trainable_variables = [
        optimizer._trainable_variables[i] for i in kept
    ]
    return undo


@no_automatic_dependency_tracking
def widen(optimizer, undo):
    """Undoes `narrow`."""
    undo = dict(undo)
    for inner, inner_undo in zip(
        getattr(optimizer, "optimizers", []), undo.pop("inner", [])
    ):
        widen(inner, inner_undo)
    for name, value in undo.items():
        setattr(optimizer, name, value)


def knows(optimizer, variable):
    """Whether a built optimizer has state for a variable."""
    return (
        optimizer._var_key(variable) in optimizer._trainable_variables_indices
    )
