"""A model that its first batch builds, as Keras does it on TensorFlow."""

from keras_grades.backend import backend
from keras_grades.installation.attached import Attached
from keras_grades.keras_internals import layers


class LateBuild(Attached):
    """Waits for the first batch of `fit()`, and builds the model for it.

    Args:
        model: A compiled `keras.Model` that is not built.
        then: Function of the epoch that has begun, called once the model is
            built, before the first step.

    Attributes:
        epoch: Integer, the epoch that has begun.
    """

    names = (*Attached.names, "train_function")

    def __init__(self, model, then):
        super().__init__(model)
        self.epoch = 0
        self._then = then

    def _put_on(self):
        self._attach()
        self.model.train_function = self._first_call

    def _first_call(self, *arguments):
        self.take_off()
        layers.build_for(self.model, backend.batch_spec(*arguments))
        self._then(self.epoch)
        return self.model.train_function(*arguments)
