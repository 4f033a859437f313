"""How a model saves its optimizer, and loads what was saved."""

import keras
from keras.src.saving.keras_saveable import KerasSaveable


class Part(KerasSaveable):
    """What Keras saves in a place of its own, under the name of an attribute.

    Args:
        save: Function that fills a store, a mapping from a name to an array.
        load: Function that reads one. It is empty if a file lacks the place.
    """

    def __init__(self, save, load):
        self._save = save
        self._load = load

    def _obj_type(self):
        return "Optimizer"  # So Keras knows which attributes to pass over.

    def save_own_variables(self, store):
        self._save(store)

    def load_own_variables(self, store):
        self._load(store)


def compile_with(model, optimizer):
    """Makes `model.save()` write an optimizer as that it was compiled with."""
    config = model._compile_config.config
    # Keras's HDF5 writer takes it out. Loss scaling has the optimizer in it.
    if not isinstance(
        config.get("optimizer"), keras.optimizers.LossScaleOptimizer
    ):
        config["optimizer"] = optimizer


def save_as_if_alone(scaling, optimizer):
    """Makes loss scaling save and load the optimizer inside a wrapper.

    `LossScaleOptimizer` saves all variables by their number, and loads none
    if there are fewer or more: what a wrapper adds must not be among them.

    Args:
        scaling: The `LossScaleOptimizer`; anything else is left alone.
        optimizer: The `OptimizerWrapper` inside.

    Returns:
        Function that undoes it.
    """
    if not isinstance(scaling, keras.optimizers.LossScaleOptimizer):
        return lambda: None
    load_all = scaling.load_own_variables

    def variables():
        return scaling._variables + optimizer.inner_optimizer.variables

    def save(store):
        for i, variable in enumerate(variables()):
            store[str(i)] = variable.numpy()

    def load(store):
        to_load = variables()
        if len(store.keys()) != len(to_load):
            # In a file of version 0.1 all those of the wrapper are there, and
            # once more each in its place.
            if len(store.keys()) != len(scaling.variables):
                load_all(store)
                return
            to_load = scaling._variables
        for i, variable in enumerate(to_load):
            variable.assign(store[str(i)])

    undo = [
        _replace(scaling, "save_own_variables", save),
        _replace(scaling, "load_own_variables", load),
    ]
    return lambda: [each() for each in undo]


def mark(compile_config):
    """Marks the optimizer in what `model.get_compile_config()` returned.

    `AdamW` of `keras.optimizers` becomes `optimizers.AdamW` of `keras`. That
    is a name under which others may register, and no class of a user has.
    Keras looks there first, and finds its own class where nobody has.
    """
    optimizer = (compile_config or {}).get("optimizer")
    while isinstance(optimizer, dict):
        name = optimizer["class_name"]
        of_keras = str(optimizer.get("module")).startswith("keras.")
        if of_keras and name in _of_keras():
            marked = f"optimizers.{name}"
            optimizer.update(
                module="keras", class_name=marked, registered_name=marked
            )
        optimizer = optimizer["config"].get("inner_optimizer")
    return compile_config


def _of_keras():
    """The optimizers of Keras by name, but for loss scaling."""
    return {
        name: made
        for name, made in vars(keras.optimizers).items()
        if isinstance(made, type)
        and issubclass(made, keras.optimizers.Optimizer)
        and made.__name__ == name
        and made is not keras.optimizers.LossScaleOptimizer
    }


def register_marked(after_creation):
    """Has a function called with each optimizer that was marked, when loaded.

    Args:
        after_creation: Function of a `keras.optimizers.Optimizer` of Keras.
    """
    registered = keras.saving.get_custom_objects()
    for name, made in _of_keras().items():
        registered[f"optimizers.{name}"] = _Marked(made, after_creation)


class _Marked:
    """Makes an optimizer of a class, as far as `keras.saving` is concerned."""

    def __init__(self, made, after_creation):
        self._made = made
        self._after_creation = after_creation

    def from_config(self, config):
        optimizer = self._made.from_config(config)
        self._after_creation(optimizer)
        return optimizer


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
