"""Freeze state that is loaded while there is no GradES to take it.

A file of mid-fit has the model's own optimizer, as any file has, and the
freeze state beside it. Other optimizers pass over that. One that might be
wrapped by a GradES takes note of it.
"""

import weakref

import numpy as np
from keras import ops

from keras_grades import checkpoint
from keras_grades.keras_internals import saving


def take_note(optimizer):
    """Makes an optimizer of Keras note the freeze state that it is loaded with.

    Args:
        optimizer: `keras.optimizers.Optimizer`.
    """
    # A `GradESOptimizer` has the place for itself.
    if getattr(optimizer, checkpoint.PLACE, None) is None:
        setattr(optimizer, checkpoint.PLACE, _Note(optimizer))


def noted(optimizer):
    """What was noted, a dict of arrays, or `None`.

    Nothing is left of it once the optimizer has taken further steps.
    """
    note = vars(optimizer).get(checkpoint.PLACE)
    if note is None:
        return None
    is_up_to_date = note.iterations == _updates(optimizer)
    return note.store if is_up_to_date else None


def forget(optimizer):
    """Ends the notes of an optimizer."""
    vars(optimizer).pop(checkpoint.PLACE, None)


def _updates(optimizer):
    # Under `tf.distribute` it is a variable that `int` does not take.
    return int(ops.convert_to_numpy(optimizer.iterations))


class _Note(saving.Part):
    def __init__(self, optimizer):
        super().__init__(lambda store: None, self._take)
        self.store = self.iterations = None
        # Keras would walk from here to the optimizer, and back.
        self._optimizer = weakref.ref(optimizer)

    def _take(self, store):
        if checkpoint.has_freeze_state(store):
            self.store = {
                key: np.asarray(store[key]) for key in [*store.keys()]
            }
            self.iterations = _updates(self._optimizer())
        else:
            self.store = self.iterations = None


saving.register_marked(take_note)
