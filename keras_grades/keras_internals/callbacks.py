"""Where Keras keeps the model of a callback."""

MODEL = "_model"


def state_without_model(callback):
    """The attributes of a callback, of no model.

    `callback.model` would write the state back on JAX.
    """
    return vars(callback) | {MODEL: None}
