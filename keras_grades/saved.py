"""What is saved of a `GradESOptimizer`: its config, and its state by name."""

import keras

from keras_grades import checkpoint
from keras_grades.component import Component
from keras_grades.component import Followers
from keras_grades.keras_internals.saving import Part
from keras_grades.policy import FreezePolicy
from keras_grades.wrapper import OptimizerWrapper


class SavedOptimizer(OptimizerWrapper):
    """Saves what GradES adds beside the wrapped optimizer, and loads it.

    A file has the wrapped optimizer in its own layout, so that it loads
    without keras_grades, too.
    """

    def __init__(self, inner_optimizer, name):
        super().__init__(inner_optimizer, name)
        place = Part(self.save_freeze_state, self.load_freeze_state)
        setattr(self, checkpoint.PLACE, place)
        self._has_old_layout = False

    def save_freeze_state(self, store):
        """Saves what GradES adds. The wrapped optimizer is saved beside it.

        Args:
            store: Mapping from a name to an array, to be filled.
        """
        checkpoint.save(
            store, self.state, self._fingerprint(), self.rule.monitor
        )

    def load_freeze_state(self, store):
        """Loads what `save_freeze_state` has saved, on any backend.

        Args:
            store: Mapping from a name to an array.

        Raises:
            ValueError: If it was saved for other components, of another
                monitor, or by another optimizer.
        """
        if self._has_old_layout:
            return
        checkpoint.check_fits(store, self._fingerprint(), self.components)
        checkpoint.check_is_of_monitor(
            store,
            self.rule.monitor_specs,
            self.rule.monitor,
            self.policy.monitor,
        )
        checkpoint.load(store, self.state)

    def tracked_as(self):
        inner, parts = super().tracked_as()
        state = {} if self._state is None else self.state
        return inner, parts | {f"grades_{name}": state[name] for name in state}

    def load_own_variables(self, store):
        # In files of version 0.1 the freeze state is here, and what was
        # wrapped has a place of its own.
        self._has_old_layout = False
        if checkpoint.has_freeze_state(store):
            self.load_freeze_state(store)
            self._has_old_layout = True
        else:
            super().load_own_variables(store)

    def __dir__(self):
        names = super().__dir__()
        return names | {"inner_optimizer"} if self._has_old_layout else names

    def _fingerprint(self):
        return checkpoint.fingerprint_of(self.components, self._places)

    def get_config(self):
        if self.stands_in:
            return self.inner_optimizer.get_config()
        return {
            **self.policy.get_config(),
            "tau": [float(tau) for tau in self.rule.tau],
            "inner_optimizer": keras.saving.serialize_keras_object(
                self.inner_optimizer
            ),
            "components": [
                checkpoint.to_config(c, self._places) for c in self.components
            ],
            "followers": [
                checkpoint.to_config(f, self._places) for f in self.followers
            ],
            "total_steps": self.total_steps,
            "steps_per_epoch": self.steps_per_epoch,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = FreezePolicy.deserialize(checkpoint.without_retired(config))
        config["inner_optimizer"] = keras.saving.deserialize_keras_object(
            config["inner_optimizer"], custom_objects=custom_objects
        )
        config["components"] = [Component(**c) for c in config["components"]]
        config["followers"] = [Followers(**f) for f in config["followers"]]
        return cls(**config)

    def _places(self, variables):
        """The places of variables among those that it was built with."""
        if not self.built:
            raise ValueError(
                "A `GradESOptimizer` can be saved once it is built: its "
                "components are then known by their place among the "
                "trainable variables. Call "
                "`optimizer.build(model.trainable_variables)` first."
            )
        return [self._place[id(v)] for v in variables]
