"""What `tf.train.Checkpoint` writes of an object, and reads."""


class TrackedAs:
    """An object that a checkpoint takes for another one, with more beside.

    TensorFlow asks for the parts of an object by name; so the names are those
    of the other one. Elsewhere nobody asks.
    """

    def tracked_as(self):
        """The other object, and parts of it that are to be exchanged.

        Returns:
            Object, `None` while there is none yet, and dict of parts by name.
            Those that it has not are put beside.
        """
        raise NotImplementedError

    def _trackable_children(self, *args, **kwargs):
        other, parts = self.tracked_as()
        if other is None:
            return super()._trackable_children(*args, **kwargs)
        return {**other._trackable_children(*args, **kwargs), **parts}

    def _lookup_dependency(self, name, *args, **kwargs):
        other, parts = self.tracked_as()
        if other is None:
            return super()._lookup_dependency(name, *args, **kwargs)
        if name in parts:
            return parts[name]
        return other._lookup_dependency(name, *args, **kwargs)
