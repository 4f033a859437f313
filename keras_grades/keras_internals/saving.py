"""How a model saves its optimizer, and loads what was saved."""

import keras


def save_with(model, optimizer):
    """Makes `model.save()` write an optimizer in place of the model's own.

    Returns:
        What it would have written, to put it back with this function.
    """
    config = model._compile_config.config
    # Keras's HDF5 writer takes it out.
    replaced = config.get("optimizer")
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


def watch_loading(optimizer, is_ours):
    """Notices freeze state that is loaded while nothing can take it.

    Args:
        optimizer: The `keras.optimizers.Optimizer` that loads.
        is_ours: Function of a store that says whether freeze state is in it.

    Returns:
        Function that ends the watch, and returns whether any was lost.
    """
    load, is_lost = optimizer.load_own_variables, False

    def load_own_variables(store):
        nonlocal is_lost
        is_lost = is_lost or is_ours(store)
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
