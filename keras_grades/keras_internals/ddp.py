"""How Keras, from 3.16 on, trains one model in several PyTorch processes."""


def of(model):
    """The `DistributedDataParallel` that Keras has made of a model, or `None`.

    Keras makes it with the train function, if there is none.
    """
    return getattr(model, "ddp_model", None)


def discard(model):
    """Has Keras make another one, with the next train function."""
    # Not as Keras does: it would take it for a layer.
    object.__setattr__(model, "ddp_model", None)
