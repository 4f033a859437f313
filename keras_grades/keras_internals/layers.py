"""What Keras keeps private about the layers that a layer holds."""

import keras
from keras.src.utils.naming import to_snake_case


def sublayers(layer):
    """The layers that a layer holds, each after the attribute that holds it.

    In the order of the data where the layer is a graph, else as created.
    """
    held = {id(sublayer): sublayer for sublayer in layer._layers}
    if isinstance(layer, keras.Model):
        in_order = [s for s in layer.layers if id(s) in held]
        held = {id(s): s for s in in_order} | held
    return _after_attributes(layer, held.values())


def build_for(model, data):
    """Builds a model and its optimizer as `fit()` does, without a step.

    Args:
        model: A compiled `keras.Model`.
        data: What `train_step` will be given, of things with a `shape` and a
            `dtype`.
    """
    model._symbolic_build(data_batch=data)


def flags_by_layers(model):
    """What `trainable` each weight has by its layer, as a dict by id."""
    return {
        id(v): layer.trainable
        for layer in model._flatten_layers()
        for v in layer._trainable_variables
    }


def own_variables(layer):
    """The weights that a layer adds by itself, each after its attribute."""
    below = {id(v) for _, held in sublayers(layer) for v in held.weights}
    own = [v for v in layer.weights if id(v) not in below]
    return _after_attributes(layer, own)


def raw_kernel(layer):
    """The kernel as it is stored, or `None` if there is none yet.

    The public `kernel` of a Dense or EinsumDense is made anew at each use
    where the layer has a LoRA pair, or is quantized.
    """
    return getattr(layer, "_kernel", None)


def generated_name(held):
    """The name, less its counter, that Keras gives to what has none."""
    return to_snake_case(type(held).__name__)


# Attributes in which Keras, and TensorFlow's tracking, list it once more.
_LISTS = (
    "_layers",
    "_non_trainable_variables",
    "_operations",
    "_self_",
    "_tracked",
    "_trainable_variables",
)


def _after_attributes(layer, held):
    """Pairs each thing that a layer holds with its attribute, or ""."""
    if not held:
        return []
    attributes = dict(vars(layer))
    # PyTorch keeps layers in a place of its own.
    attributes |= attributes.pop("_modules", {})
    names = {}
    # An attribute that holds it alone names it before a list does: which
    # comes first depends on the backend.
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
