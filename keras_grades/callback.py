"""The callback: `model.fit(..., callbacks=[GradES()])`."""

import math
import numbers
import time
import warnings
from collections.abc import Callable
from typing import Self

import keras
import numpy as np

from keras_grades import backend
from keras_grades.backend import private
from keras_grades.component import Component
from keras_grades.installation import Installation
from keras_grades.installation import find_installation
from keras_grades.optimizer import TRACE_ROWS
from keras_grades.optimizer import GradESOptimizer
from keras_grades.recompile import Recompile
from keras_grades.recompile import Work
from keras_grades.recompile import check_mode
from keras_grades.report import FreezeReport
from keras_grades.rule import MAX_THAWS
from keras_grades.rule import Rule
from keras_grades.rule import end_of_probation
from keras_grades.selection import Selection
from keras_grades.selection import select
from keras_grades.trace import Trace
from keras_grades.truncation import find_followers

# After the grace period the host looks at the state once in so many steps,
# fewer in short runs: stopping late may cost one per cent of them at most.
MAX_STEPS_BETWEEN_LOOKS = 8


class GradES(keras.callbacks.Callback):
    """Stops each matrix of a Transformer once it has converged, then `fit()`.

    During training it watches every attention projection and every
    feed-forward matrix. When one has converged, that matrix alone is frozen;
    when all of them are, training stops. There is no validation pass.

    For the time of `fit()` the model's optimizer is wrapped in a
    `GradESOptimizer`, and `frozen_ratio`, the share of components that are
    frozen, appears in the logs. Afterwards the model has its own optimizer
    back, with its state.

    A frozen component keeps its value from the step after `frozen_at` on,
    bit for bit. That costs no compilation, and saves no time either: its
    gradient is still computed until the train step is rebuilt without it
    (`recompile`).

    Example:

    ```python
    schedule = keras.optimizers.schedules.CosineDecay(5e-5, decay_steps=1000)
    model.compile(keras.optimizers.AdamW(schedule), loss=loss)
    callback = keras_grades.GradES()
    model.fit(x, y, epochs=3, callbacks=[callback])
    print(callback.report.summary())
    ```

    Its state travels with every checkpoint of the model and its optimizer
    that is taken during training. With `BackupAndRestore` after GradES in the
    list of callbacks, or with a model that was saved during training, `fit()`
    goes on where that was: with what is frozen, and with what was counted.
    If it begins at a later epoch without such a state, the planned steps are
    those that remain.

    Args:
        tau: `"auto"`, which needs no tuning: a component has converged when
            its updates have shrunk to half of what they were so far. With a
            constant learning rate they may not, and then nothing freezes. It
            stands for `tau=0.5, monitor="relative_change", patience=9,
            alpha=0`. Or a positive float, the threshold below which the
            statistic of a component that has converged is; or a dict from a
            regular expression on component names (`re.search`, first match
            wins) to a float. A component that no expression matches is not
            tracked. With a number or a dict, `alpha`, `monitor` and
            `patience` have other defaults. Defaults to `"auto"`.
        alpha: The grace period, in which nothing freezes: a float in [0, 1),
            a share of the planned steps, or an integer, a number of steps.
            Defaults to `0`, with a tau of your own to `0.5`.
        monitor: What is measured. `"gradient"`: the norm of the gradient;
            `"gradient_change"`: of its change since the last step, at the
            cost of a copy of the gradients of all components that are not
            yet structurally frozen; `"weight_change"`: of the update;
            `"relative_change"`, which has no scale and no norm: how large
            the updates of the last steps are (20, or a tenth of all), as a
            share of all so far (geometric means, of some 1000 entries of each
            matrix).
            All but the last need a tau of your own. Defaults to
            `"relative_change"`, with a tau of your own to `"gradient"`.
        norm: `"l1"`, the sum of absolute values, `"mean_l1"`, their mean, so
            that one tau fits matrices of every size, or `"l2"`, the Frobenius
            norm. Defaults to `"l1"`.
        patience: Integer, how many more measured steps in a row the statistic
            must be below `tau`. Defaults to `9`, with a tau of your own to
            `0`.
        interval: Integer, every how many steps is measured. Defaults to `1`.
        components: What to track: `None` for all that `find_components`
            finds, a regular expression on names, a list of layers or
            variables, or a function `Component -> bool`. Defaults to `None`.
        max_frozen_ratio: Float in (0, 1], the share of frozen components at
            which training stops. The host looks after one per cent of the
            planned steps, or 8, if that is less. Defaults to `1.0`.
        recompile: When to rebuild the train step without what is frozen:
            `"always"`, `"never"`, an integer, the number of newly frozen
            components at which to rebuild, or `"auto"`: when the time that
            it will save exceeds what it costs, both measured in this run. In
            eager PyTorch a rebuild costs nothing, and happens at once.
            Defaults to `"auto"`.
        truncate_backward: Boolean, whether to freeze, once all components of
            the lowest blocks are frozen, what else lies below the lowest
            block still training: norms, biases, and embeddings that are not
            tied to the output. Then the backward pass ends there.
            Defaults to `False`.
        restore_trainable: Boolean, whether the `trainable` flags are set back
            at the end. If not, compile the model again before you train on.
            Defaults to `True`.
        verbose: 0 is silent, 1 prints a line at the start and at the end, 2
            also one for what froze. Defaults to `1`.
        cooldown: How long a component is annealed before it is frozen: an
            integer, a number of steps, or a float, a multiple of the step at
            which it has converged. From there on its updates are scaled by a
            factor that falls linearly to 0; those of all that is not
            tracked, by the mean of the components' factors. Defaults to
            `0`: it freezes at once. From the first convergence on, each step
            copies all trainable variables on TensorFlow and PyTorch. Refused
            with `use_ema`, constraints and float8.
        thaw: Boolean, whether a component that froze too early is released:
            if its statistic is at least twice `tau` again, on `patience + 1`
            measured steps in a row, within a tenth of the steps that it took
            to freeze and `patience + 1` measured steps more; three times at
            most (`report.thaws`). So long it is not frozen structurally, and
            training does not stop. A statistic that is smoothed, as with
            `tau="auto"`, rarely rises in time. With `global_clipnorm`, and
            with optimizers that are not of Keras, `"weight_change"` and
            `"relative_change"` release nothing: what is frozen is given
            gradients of 0 there. Refused with accumulated gradients.
            Defaults to `False`.

    Attributes:
        components: List of `Component`, in the order in which data meets
            them; `component.frozen_at` is the step, or `None`.
        trace: Dict of `"step"`, an integer array of shape `(m,)`, and
            `"statistic"`, a float array of shape `(m, n)`, NaN where a
            component was frozen or had no gradient.
        stopped_step: Integer, the step at which training was stopped, or
            `None`.
        report: `FreezeReport` of the run.

    Raises:
        ValueError, TypeError: At construction or at the start of training, if
            an argument is not as described, the model is not compiled, or
            nothing is found to track.

    Reference: [GradES, arXiv 2509.01842](https://arxiv.org/abs/2509.01842)
    """

    def __init__(
        self,
        tau: float | dict[str, float] | str = "auto",
        alpha: float | int | None = None,
        monitor: str | None = None,
        norm: str = "l1",
        patience: int | None = None,
        interval: int = 1,
        components: Selection = None,
        max_frozen_ratio: float = 1.0,
        recompile: str | int = "auto",
        truncate_backward: bool = False,
        restore_trainable: bool = True,
        verbose: int = 1,
        cooldown: float | int = 0,
        thaw: bool = False,
    ) -> None:
        super().__init__()
        self.rule = Rule(
            tau, alpha, monitor, norm, patience, interval, cooldown, thaw
        )
        _check_ratio(max_frozen_ratio)
        check_mode(recompile)
        self.max_frozen_ratio = max_frozen_ratio
        self.recompile = recompile
        self.truncate_backward = truncate_backward
        self.restore_trainable = restore_trainable
        self.verbose = verbose
        self.components: list[Component] = []
        self.stopped_step: int | None = None
        self.total_steps: int | None = None
        self._selection = components
        self._end_watch: Callable[[], bool] = lambda: False
        self._installation = None
        self._trace: Trace | None = None
        self._thaws: np.ndarray | None = None
        self._has_begun = False

    def set_model(self, model):
        super().set_model(model)
        # Callbacks that come first may load before `on_train_begin` is called.
        self._end_watch()
        self._end_watch = private.watch_loading(model)

    def on_test_begin(self, logs=None):
        self._end_watch()
        installation = find_installation(self.model)
        if self._has_begun and installation is self._installation:
            # What `fit()` takes to validate is no time of its steps.
            self._look()

    def on_predict_begin(self, logs=None):
        self._end_watch()

    def on_train_begin(self, logs=None):
        model = self.model
        _check_compiled(model)
        _check_nothing_lost(self._end_watch())
        backend.check(model)
        if find_installation(model) is not None:
            raise ValueError(
                "This model is in training with a `GradES` already. Give "
                "`fit()` one of them only."
            )
        self._start(model)

    def _start(self, model):
        inner = getattr(*private.optimizer_place(model))
        saved = {}
        if isinstance(inner, GradESOptimizer):
            # Of a model that was saved during training, or compiled so.
            inner.save_own_variables(saved)
            inner = inner.inner_optimizer
        self._updates_every = inner.gradient_accumulation_steps or 1
        self.total_steps = self._planned_steps()
        rule = self.rule
        components, _ = rule.thresholds(select(model, self._selection))
        followers = []
        if self.truncate_backward:
            followers = find_followers(model, components)
        optimizer = GradESOptimizer(
            inner,
            components,
            tau=rule.tau,
            alpha=rule.alpha,
            total_steps=self.total_steps,
            monitor=rule.monitor,
            norm=rule.norm,
            patience=rule.patience,
            interval=rule.interval,
            cooldown=rule.cooldown,
            thaw=rule.thaw,
            followers=followers,
        )
        optimizer.build(model.trainable_variables)
        if saved:
            optimizer.load_own_variables(saved)
        self._optimizer = optimizer
        self.components = list(optimizer.components)
        self.stopped_step = None
        self._structural = np.zeros(len(components), bool)
        self._work = Work(
            components,
            followers,
            private.matrix_parameters(model),
            sum(math.prod(v.shape) for v in model.trainable_variables),
        )
        self._recompile = Recompile(
            self.recompile,
            self.total_steps,
            rebuild_is_free=not backend.compiles(model),
            max_rebuilds=backend.max_rebuilds(model),
        )
        self._rebuild_is_due = False
        self._has_begun = False
        self._trace = Trace(0, len(self.components), rule.interval)
        self._thaws = np.zeros(len(components)) if rule.thaw else None
        self._batches = 0
        if saved:
            _unwrap(model)
        self._installation = Installation(model, optimizer, self._after_step)
        self._installation.put_on()

    def _planned_steps(self, first_epoch=0):
        """The updates that `fit()` is asked for, or None if unknown."""
        steps, epochs = self.params.get("steps"), self.params.get("epochs")
        if not steps or not epochs:
            return None
        return steps * (epochs - first_epoch) // self._updates_every

    def _begin(self, epoch):
        """Begins where the first epoch does, or a checkpoint that was loaded.

        Other callbacks may have loaded it since `on_train_begin`.
        """
        self._has_begun = True
        optimizer, model = self._optimizer, self._installation.model
        step = self._take_up()
        if epoch and not step:
            self.total_steps = self._planned_steps(epoch)
            optimizer.plan(self.total_steps)
            self._recompile.total_steps = self.total_steps
        if self._is_enough():
            # As at the end of an epoch: not even one step is left to take.
            self._stop(step)
            nothing = dict.fromkeys(model.get_metrics_result(), math.nan)
            ratio = np.count_nonzero(self._frozen()) / len(self.components)
            self._installation.idle_logs = {**nothing, "frozen_ratio": ratio}
        # Nothing is compiled yet: to leave out what is frozen costs nothing.
        self._rebuild_is_due = (
            self._settled().any()
            and self.recompile != "never"
            and not model.stop_training
        )
        self._next_look = self._batches_until(self._next_look_after(step))
        of = f" of {self.total_steps}" if self.total_steps else ""
        if step:
            self._say(
                f"goes on after step {step}{of}, "
                f"{np.count_nonzero(self._frozen())} of "
                f"{len(self.components)} components frozen."
            )
        else:
            rule = self.rule
            in_a_row = (rule.patience + 1) * rule.interval
            first = max(optimizer.grace_steps, in_a_row)
            self._say(
                f"{len(self.components)} components in "
                f"{len({c.block for c in self.components})} blocks; nothing "
                f"freezes before step {first}{of}."
            )

    def _take_up(self):
        """Reads where training goes on from; returns that step."""
        state = backend.read(self._optimizer, self._installation.model)
        step = int(state["step"])
        self._trace = Trace(step, len(self.components), self.rule.interval)
        self._see(state)
        return step

    def _after_step(self, output, first_call_began):
        """Runs after each call of the train function: one comparison."""
        self._batches += self._installation.model.steps_per_execution
        if first_call_began is not None:
            self._time_compilation(output, first_call_began)
        if self._batches >= self._next_look:
            self._look(output)

    def _time_compilation(self, output, began):
        # Waits for the step, and decides nothing: when that is does not
        # depend on the time.
        state = backend.read(self._optimizer, self._installation.model, output)
        self._timed = int(state["step"]), time.perf_counter()
        self._recompile.compiled(self._timed[0], self._timed[1] - began)

    def _look(self, output=None):
        """Reads the state from the device; stops `fit()` if it is time."""
        model = self._installation.model
        state = backend.read(self._optimizer, model, output)
        step = int(state["step"])
        self._time_steps(step)
        self._trace.extend(step, state["trace"])
        for what, names in self._see(state).items():
            if names and self.verbose > 1:
                self._say(f"{what} {', '.join(names)} by step {step}.")
        if self._is_enough() and not model.stop_training:
            self._stop(step)
        self._rebuild_is_due = self._recompile.is_due(step, *self._pending())
        self._next_look = self._batches_until(self._next_look_after(step))

    def _is_enough(self):
        """Whether so much is frozen that training stops."""
        enough = math.ceil(self.max_frozen_ratio * len(self.components) - 1e-9)
        return np.count_nonzero(self._settled()) >= enough

    def _stop(self, step):
        self._installation.model.stop_training = True
        self.stopped_step = step

    def _see(self, state):
        """Notes what is frozen, returns the names of what newly is, or not."""
        if self.rule.thaw:
            self._thaws = state["thaws"]
        names = {"froze": [], "released": []}
        for component, frozen_at in zip(self.components, state["frozen_at"]):
            before, component.frozen_at = component.frozen_at, None
            if frozen_at:
                component.frozen_at = int(frozen_at)
            if component.frozen_at != before:
                what = "froze" if frozen_at else "released"
                names[what].append(component.name)
        return names

    def _frozen(self):
        return np.array([c.frozen_at is not None for c in self.components])

    def _settled(self):
        """What is frozen for good."""
        rule, now = self.rule, self._trace.step
        if not rule.thaw:
            return self._frozen()
        frozen_at = np.array([c.frozen_at or 0 for c in self.components])
        last = end_of_probation(frozen_at, rule.patience, rule.interval)
        is_for_good = (now > last) | (self._thaws >= MAX_THAWS)
        return (frozen_at > 0) & is_for_good

    def _pending(self):
        """What is frozen logically only: components, and their work."""
        frozen = self._settled()
        share = self._work.share(frozen) - self._work.share(self._structural)
        return np.count_nonzero(frozen & ~self._structural), share

    def _time_steps(self, step):
        last_step, last_time = self._timed
        now = time.perf_counter()
        if step > last_step:
            _, share = self._pending()
            self._recompile.ran(step - last_step, now - last_time, share)
        self._timed = step, now

    def _next_look_after(self, step):
        """The step at which to look next.

        A function of the step alone, so that a run that is resumed from the
        end of an epoch stops where the uninterrupted one does.
        """
        every = MAX_STEPS_BETWEEN_LOOKS
        if self.total_steps is not None:
            every = max(1, min(every, self.total_steps // 100))
        in_time_for_trace = (step // TRACE_ROWS + 1) * TRACE_ROWS
        grace_steps = self._optimizer.grace_steps
        if step < grace_steps:
            in_time_to_freeze = math.ceil(grace_steps / every) * every
        else:
            in_time_to_freeze = (step // every + 1) * every
        return min(in_time_for_trace, in_time_to_freeze)

    def _batches_until(self, step):
        return self._batches + self._updates_every * (step - self._trace.step)

    def on_train_batch_begin(self, batch, logs=None):
        if self._rebuild_is_due:
            self._recompile.rebuilt(*self._pending())
            self._structural = frozen = self._settled()
            components = [c for c, f in zip(self.components, frozen) if f]
            followers = [
                f for f in self._optimizer.followers if f.are_frozen(frozen)
            ]
            self._installation.freeze(
                [v for g in components + followers for v in g.variables]
            )
            self._rebuild_is_due = False
            if not self._recompile.rebuilds_left:
                warnings.warn(
                    "The train step cannot be rebuilt once more, or the "
                    "compiler would give up on it. What freezes from here on "
                    "is left alone as exactly, but saves no time until the "
                    "end of `fit()`. Use `recompile` with a larger number, to "
                    "rebuild for more components at once.",
                    stacklevel=2,
                )

    def on_epoch_begin(self, epoch, logs=None):
        if not self._has_begun:
            self._begin(epoch)
        # What happened between epochs is no step.
        self._timed = self._trace.step, time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self._installation.check_flags()
        self._look()

    def on_train_end(self, logs=None):
        if self._has_begun:
            self._look()
        else:
            self._take_up()  # The checkpoint was of the last epoch.
        self.restore()
        frozen = np.count_nonzero(self._frozen())
        ended = "ended" if self.stopped_step is None else "stopped"
        self._say(
            f"{ended} at step {self._trace.step}"
            + (f" of {self.total_steps}" if self.total_steps else "")
            + f", {frozen} of {len(self.components)} components frozen."
        )

    def restore(self) -> None:
        """Gives the model its own optimizer, `train_step` and flags back.

        `fit()` does this at its end. When it was interrupted, the next
        `fit()` or `compile()` does; call this, or use GradES as a context
        manager, to have it done at once.
        """
        if self._installation is not None:
            self._installation.take_off(self.restore_trainable)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.restore()

    @property
    def trace(self) -> dict[str, np.ndarray]:
        return self._trained().as_dict()

    @property
    def report(self) -> FreezeReport:
        steps = self._trained().step
        rule = self.rule
        return FreezeReport(
            components=self.components,
            tau=self._optimizer.tau.tolist(),
            trace=self.trace,
            steps=steps,
            total_steps=self.total_steps,
            stopped_step=self.stopped_step,
            settings={
                "monitor": rule.monitor,
                "norm": rule.norm,
                "alpha": rule.alpha,
                "grace_steps": self._optimizer.grace_steps,
                "patience": rule.patience,
                "interval": rule.interval,
                "cooldown": rule.cooldown,
                "thaw": rule.thaw,
                "max_frozen_ratio": self.max_frozen_ratio,
                "recompile": self.recompile,
                "truncate_backward": self.truncate_backward,
                "backend": keras.backend.backend(),
            },
            timing=self._recompile.timing(),
        )

    def _trained(self) -> Trace:
        if self._trace is None:
            raise ValueError(
                "There is nothing to report yet: pass this callback to "
                "`model.fit(callbacks=[...])` first."
            )
        return self._trace

    def _say(self, message):
        if self.verbose:
            print(f"GradES: {message}", flush=True)


def _check_ratio(ratio):
    if not isinstance(ratio, numbers.Real) or isinstance(ratio, bool):
        raise TypeError(
            "`max_frozen_ratio` must be a float in (0, 1]. Received: "
            f"max_frozen_ratio={ratio!r} of type {type(ratio).__name__}"
        )
    if not 0 < ratio <= 1:
        raise ValueError(
            "`max_frozen_ratio` must be in (0, 1], the share of frozen "
            "components at which training stops. Received: "
            f"max_frozen_ratio={ratio!r}"
        )


def _unwrap(model):
    """Takes off a `GradESOptimizer` for good: its state has been taken over."""
    place = private.optimizer_place(model)
    inner = getattr(*place).inner_optimizer
    setattr(*place, inner)
    private.save_with(model, inner)
    # It may have traced the other optimizer.
    model.train_function = None


def _check_nothing_lost(is_lost):
    if is_lost:
        raise ValueError(
            "A callback that comes before GradES has loaded weights of an "
            "interrupted training, but not the state of its optimizer, nor "
            "what was frozen: there was no GradES yet to take it. Put GradES "
            "first: `callbacks=[GradES(...), BackupAndRestore(...)]`."
        )


def _check_compiled(model):
    if not model.compiled or model.optimizer is None:
        raise ValueError(
            "GradES wraps the model's optimizer, and this model has none. "
            "Call `model.compile(optimizer=..., loss=...)` first. Received: "
            f"{model.name!r}, which is not compiled."
        )
