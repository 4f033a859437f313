"""What is put on a model for one `fit()`, and taken off without a trace."""

import contextlib
import functools


class Attached:
    """Something on a model. One at a time.

    `fit()` does not tell its callbacks when it is interrupted. So its next
    call, or that of `compile()`, takes off what is on the model first.

    Args:
        model: A compiled `keras.Model`.
    """

    # The attributes of the instance that hide those of its class meanwhile.
    names: tuple[str, ...] = ("_grades_installation", "compile", "fit")

    def __init__(self, model):
        self.model = model
        # What undoes it, the last change first.
        self._undo = contextlib.ExitStack()

    @property
    def is_on(self):
        """Whether the model still has it."""
        return find_installation(self.model) is self

    def put_on(self):
        """Puts on all of it, or nothing if that fails."""
        try:
            self._put_on()
        except BaseException:
            self.take_off()
            raise

    def take_off(self):
        """Gives the model back as it was."""
        self._undo.close()

    def _put_on(self):
        raise NotImplementedError

    def _attach(self):
        model = self.model
        self._undo.callback(self._restore_attributes, self._own_attributes())
        model._grades_installation = self
        model.compile = self._after_take_off("compile")
        model.fit = self._after_take_off("fit")

    def _own_attributes(self):
        """The user's own attributes, which come back."""
        attributes = vars(self.model)
        return {n: attributes[n] for n in self.names if n in attributes}

    def _restore_attributes(self, own):
        for name in self.names:
            if name in vars(self.model):
                delattr(self.model, name)
        for name, value in own.items():
            setattr(self.model, name, value)

    def _after_take_off(self, method):
        model = self.model

        @functools.wraps(getattr(model, method))
        def after_take_off(*args, **kwargs):
            self.take_off()
            return getattr(model, method)(*args, **kwargs)

        return after_take_off


def find_installation(model):
    """What is on a model, an `Attached`, or `None`."""
    return getattr(model, "_grades_installation", None)
