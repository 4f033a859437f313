"""Puts GradES on a model for one `fit()`, and takes it off without a trace."""

import concurrent.futures
import math
import weakref
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import keras

from keras_grades.backend import backend
from keras_grades.installation.attached import Attached
from keras_grades.keras_internals import jax_state
from keras_grades.keras_internals import layers
from keras_grades.keras_internals import saving
from keras_grades.train_step import COMPILED
from keras_grades.train_step import optimizer_place


class Made(NamedTuple):
    """What was made to train the variables whose flags were set then.

    Attributes:
        trained: Tuple of integers, the ids of those variables.
        train_step: Function, with the logs of GradES.
        plain: Function, the train function that the model made of it.
        train_function: Function, the same; it reports each of its calls.
        compiles_ahead: Boolean, whether one like it can be compiled while
            this one trains.
    """

    trained: tuple[int, ...]
    train_step: Callable
    plain: Callable
    train_function: Callable
    compiles_ahead: bool


class Installation(Attached):
    """All that GradES changes on a model: the one way in, the one way out.

    The optimizer is wrapped, `train_step` adds its logs, the train function
    reports each of its calls, and `trainable` flags flip.

    Args:
        model: A compiled `keras.Model`.
        optimizer: The built `GradESOptimizer` around the model's optimizer.
        after_call: Function called after each call of the train function,
            with its output, and, if it was the first call, in which it may
            have compiled, the time at which that began, else `None`.
        clock: Function that returns the time in seconds.
        restore_trainable: Boolean, whether flags are set back at the end.
        path: String, the attribute of the model with its optimizer.
    """

    names = (
        *Attached.names,
        *jax_state.GUARDS,
        "get_compile_config",
        "get_state_tree",
        "make_train_function",
        "train_step",
    )

    def __init__(
        self,
        model,
        optimizer,
        after_call,
        clock,
        restore_trainable,
        path,
    ):
        super().__init__(model)
        self.optimizer = optimizer
        self._after_call = after_call
        self._clock = clock
        self._restore_trainable = restore_trainable
        self._place = optimizer_place(model, path)
        self._trained = list(model.trainable_variables)
        self._flipped = []
        # Whether Keras must make its own train function again afterwards.
        self._is_renewed = False
        # The flags of the moment, and by flags what was traced with them.
        self._flags: tuple[int, ...] = ()
        self._traced: dict[tuple[int, ...], dict[str, Any]] = {}
        self._made: Made | None = None
        # The train function that Keras had before, once it has it back.
        self._found: weakref.ref | None = None
        # What batches are like, one of each kind, whether there may be more
        # kinds, and what is compiled for them beside training.
        self._batches: list[Any] = []
        self._may_differ = True
        self._prepared: tuple[Made, concurrent.futures.Future] | None = None
        self._has_ended = False
        # If not `None`, the next step is not taken, and these are its logs.
        self._idle_logs: dict[str, float] | None = None

    @property
    def is_on(self):
        """Whether the model still has all that was put on it."""
        return super().is_on and getattr(*self._place) is self.optimizer

    def _put_on(self):
        model, undo = self.model, self._undo
        self._flags = self._trained_ids()
        self._train_step = model.train_step
        self._train_function = model.train_function
        undo.callback(self._restore_train_function)
        undo.callback(self._restore_flags)
        undo.callback(self.optimizer.widen)
        self._attach()
        inner = self.optimizer.inner_optimizer
        setattr(*self._place, self.optimizer)
        self.optimizer.stands_in = True
        undo.callback(self._restore_optimizer, inner)
        owner = self._place[0]
        scales = isinstance(owner, keras.optimizers.LossScaleOptimizer)
        if scales and not owner.built:
            # A checkpoint of it can be loaded from now on.
            owner.build(model.trainable_variables)
        self._batches, self._may_differ = [], True
        self._has_ended = False
        undo.callback(saving.save_as_if_alone(self._place[0], self.optimizer))
        model.get_compile_config = self._get_compile_config
        model.get_state_tree = self._get_state_tree
        backend.guard_state(model, self.check_flags)
        undo.callback(backend.sync, model)
        model.make_train_function = self._make_train_function
        if self._made is None:
            model.make_train_function(force=True)
        else:
            self._put_on_what_was_made()

    def _put_on_what_was_made(self):
        """The flags, and the function, with all that it has compiled."""
        self._set_flags(False)
        self._swap_traced()
        self.optimizer.narrow(self.model.trainable_variables)
        self._use(self._made)

    def can_take_over(self, other):
        """Whether this can be put on again in place of another one.

        What invalidates the train function of Keras, which it finds again,
        invalidates that of this one.

        Args:
            other: The `Installation` that is on the model now.
        """
        return (
            self._made is not None
            and self.model is other.model
            and self.optimizer.inner_optimizer
            is other.optimizer.inner_optimizer
            and _ids(self._trained) == _ids(other._trained)
            and self._found is not None
            and self._found() is other._train_function is not None
        )

    def _restore_optimizer(self, inner):
        self.optimizer.stands_in = False
        # Another optimizer may have been put there meanwhile.
        if getattr(*self._place) is self.optimizer:
            setattr(*self._place, inner)

    def _get_compile_config(self):
        config = type(self.model).get_compile_config(self.model)
        return saving.mark(config)

    def _get_state_tree(self, *args, **kwargs):
        """That of the model as it was: it is sorted by the flags."""
        self._set_flags(True)
        try:
            return type(self.model).get_state_tree(self.model, *args, **kwargs)
        finally:
            self._set_flags(False)

    def _set_flags(self, trainable):
        _set_trainable(self._flipped, trainable)

    def _restore_flags(self):
        if self._restore_trainable and self._flipped:
            # The user may have frozen layers since an interruption.
            flags = layers.flags_by_layers(self.model)
            for variable in self._flipped:
                variable.trainable = flags.get(id(variable), True)
            self._renew()
        elif not self._restore_trainable and self._has_ended:
            self._freeze_the_rest()

    def _freeze_the_rest(self):
        """What is frozen only logically gets flags, too, where they stay."""
        rest = list(filter(backend.trains, self.optimizer.frozen_variables()))
        if rest:
            _set_trainable(rest, False)
            self._flipped += rest
            self._renew()

    def _renew(self):
        """After a change of flags: what goes by them is made anew."""
        self._swap_traced()
        self._is_renewed |= backend.renew(self.model)

    def _swap_traced(self):
        """Puts on what was traced with these flags, if anything was."""
        before, self._flags = self._flags, self._trained_ids()
        names = [n for n in backend.traced if hasattr(self.model, n)]
        self._traced[before] = {n: getattr(self.model, n) for n in names}
        fitting = self._traced.pop(self._flags, {})
        for name in names:
            setattr(self.model, name, fitting.get(name))

    def _trained_ids(self):
        return _ids(self.model.trainable_variables)

    def _restore_train_function(self):
        # With other flags, the function of an earlier `fit()` does not fit.
        unchanged = self._restore_trainable or not self._flipped
        unchanged = unchanged and not self._is_renewed
        found, self._train_function = self._train_function, None
        self.model.train_function = found if unchanged else None
        # After another `compile()` JAX would find the traces of what Keras
        # had made before this, if that were kept alive.
        self._found = None if found is None else weakref.ref(found)
        self._traced.pop(_ids(self._trained), None)

    def _make_train_function(self, force=False):
        if self.model.train_function is not None and not force:
            return
        self._prepared = None
        self._made = self._make()

    def _make(self):
        """Makes a train step by the flags of the moment, and puts it on."""
        model = self.model
        # A new function each time: compilers cache traces by function.
        model.train_step = backend.with_logs(
            self._train_step, model, self.optimizer
        )
        type(model).make_train_function(model, force=True)
        plain = model.train_function
        model.train_function = self._reporting(plain)
        return Made(
            self._trained_ids(),
            model.train_step,
            plain,
            model.train_function,
            backend.compiles_ahead(plain),
        )

    def _use(self, made):
        self._made = made
        self.model.train_step = made.train_step
        self.model.train_function = made.train_function

    def _reporting(self, train_function):
        """Calls `after_call(output, first_call_began)` after each call."""
        is_first_call = True

        def reporting_train_function(*args):
            nonlocal is_first_call
            if self._idle_logs is not None:
                logs, self._idle_logs = self._idle_logs, None
                if backend.builds_late:
                    # Metrics are not there before the first step.
                    layers.build_for(self.model, backend.batch_spec(*args))
                    logs = self._with_metrics(logs)
                return backend.no_step(logs, *args)
            began = self._clock() if is_first_call else None
            output = None
            try:
                self.check_is_on()
                if self._may_differ and self._made.compiles_ahead:
                    args, batch = backend.peek(*args)
                    if batch not in self._batches:
                        self._batches.append(batch)
                output = train_function(*args)
                is_first_call = False
                self._after_call(output, began)
            except BaseException as error:
                self._leave(error, args, output)
                raise
            return output

        return reporting_train_function

    def take_no_step(self):
        """Leaves out the next step: `fit()` knows no other way to take none."""
        logs = self.optimizer.logs(self.optimizer.observed)
        logs = {name: float(value) for name, value in logs.items()}
        self._idle_logs = (
            logs if backend.builds_late else self._with_metrics(logs)
        )

    def _with_metrics(self, logs):
        return dict.fromkeys(self.model.get_metrics_result(), math.nan) | logs

    def _leave(self, error, arguments, output):
        """Saves the weights, and takes off, unless only the data has ended."""
        backend.keep_state(self.model, arguments, output)
        try:
            self.check_flags(error)
        finally:
            if not backend.is_end_of_data(error):
                self.take_off()

    def check_is_on(self):
        """Raises if GradES has fallen off the model during training."""
        if not self.is_on:
            raise ValueError(
                "GradES is not on this model any more: during its training it "
                "was compiled again, trained by another `fit()`, or given "
                "another optimizer. Do that before or after `fit()`. "
                f"Received: the optimizer {getattr(*self._place)!r}"
            )

    def check_flags(self, error=None):
        """Raises if something else has changed `trainable` flags."""
        frozen = {id(v) for v in self._flipped}
        now = self._trained_ids()
        if frozen.intersection(now):
            # They were set, and set back, for what some callback does.
            self._set_flags(False)
            now = self._trained_ids()
        if now != self._made.trained:
            raise ValueError(
                "The `trainable` flags of this model, or its layers, were "
                "changed during training by something else than GradES: the "
                "optimizer and the compiled step cannot follow. Set "
                "`trainable`, and add layers, before `fit()`. To unfreeze a "
                "model step by step, end `fit()`, set the flags, compile the "
                "model again, and go on with `initial_epoch`."
            ) from error

    @property
    def can_prepare(self):
        """Whether a train step can be compiled while another one trains."""
        return bool(self._batches)

    @property
    def kinds_of_batches(self):
        """Integer, for how many a train step is compiled: the last batch of
        an epoch may be a smaller one."""
        return max(1, len(self._batches))

    def has_seen_all_batches(self):
        """Tells that from here on there are no batches of another kind."""
        self._may_differ = False

    @property
    def is_preparing(self):
        """Whether something is compiled beside training right now."""
        return self._prepared is not None and not self._prepared[1].done()

    def prepare(self, variables):
        """Begins to compile a train step in which some are frozen.

        That step is traced right here. Then training goes on, with all as it
        was, and `freeze` finds what was compiled meanwhile.

        Args:
            variables: List of `keras.Variable`.
        """
        self.check_flags()
        backend.sync(self.model)
        variables = list(filter(backend.trains, variables))
        now = self._made
        try:
            _set_trainable(variables, False)
            with self.optimizer.narrowed_to(self.model.trainable_variables):
                self._made = self._make()
                compiling = backend.begin_to_compile(
                    self.model, self._made.plain, self._batches
                )
            self._prepared = self._made, compiling
        finally:
            _set_trainable(variables, True)
            self._use(now)

    def freeze(self, variables):
        """Freezes structurally: the flags, the optimizer, the function."""
        self.check_flags()
        backend.sync(self.model)
        variables = list(filter(backend.trains, variables))
        try:
            _set_trainable(variables, False)
            self.optimizer.narrow(self.model.trainable_variables)
            self._renew()
            self._put_on_what_fits()
        except BaseException:
            # What Keras does on its way out goes by the flags.
            _set_trainable(variables, True)
            self.optimizer.narrow(self.model.trainable_variables)
            self._renew()
            raise
        self._flipped += variables

    def end(self):
        """Notes that `fit()` was not interrupted."""
        self._has_ended = True

    def _put_on_what_fits(self):
        """What was prepared for these flags, or something new."""
        trained = self._trained_ids()
        if self._prepared is None or self._prepared[0].trained != trained:
            self.model.make_train_function(force=True)
            return
        made, compiling = self._prepared
        # If that has failed, the first call tries again, or says why.
        concurrent.futures.wait([compiling])
        self._use(made)
        self._prepared = None


def unwrap(model, path):
    """Takes off a `GradESOptimizer` for good: its state was taken over."""
    place = optimizer_place(model, path)
    inner = getattr(*place).inner_optimizer
    setattr(*place, inner)
    if path == COMPILED:
        saving.compile_with(model, inner)
    # It may have traced the other optimizer.
    model.train_function = None


def _set_trainable(variables, trainable):
    for variable in variables:
        variable.trainable = trainable


def _ids(variables):
    return tuple(id(v) for v in variables)
