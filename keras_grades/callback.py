"""The callback: `model.fit(..., callbacks=[GradES()])`."""

import time
from collections.abc import Callable
from typing import Any
from typing import Self

import keras
import numpy as np

from keras_grades import compatibility
from keras_grades import messages
from keras_grades import resume
from keras_grades import validation
from keras_grades.backend import backend
from keras_grades.component import Component
from keras_grades.discovery.selection import Selection
from keras_grades.installation.attached import find_installation
from keras_grades.installation.late_build import LateBuild
from keras_grades.keras_internals import callbacks
from keras_grades.monitors import Monitor
from keras_grades.policy import FreezePolicy
from keras_grades.report import FreezeReport
from keras_grades.run import Run
from keras_grades.start import Options
from keras_grades.start import new_run
from keras_grades.train_step import find_optimizer


class GradES(keras.callbacks.Callback):
    """Stops each matrix of a Transformer once it has converged, then `fit()`.

    During training it watches every attention projection and every
    feed-forward matrix. At a learning rate that does not decay by itself all
    are judged together: once they have converged, the rate falls to 0, and
    blocks freeze from below. Otherwise each matrix freezes by itself. When
    all are frozen, training stops. There is no validation pass.

    For the time of `fit()` the model's optimizer is wrapped in a
    `GradESOptimizer`, and two numbers appear in the logs: `frozen_ratio`, the
    share of components that are frozen, and `statistic`, the mean over the
    components of what the monitor measures, 0 until it is known. Afterwards
    the model has its own optimizer back, with its state.

    A frozen component keeps its value from the step after `frozen_at` on,
    bit for bit. That costs no compilation, and saves no time either: its
    gradient is still computed until the train step is rebuilt without it
    (`recompile`).

    Example:

    ```python
    model.compile(keras.optimizers.AdamW(5e-5), loss=loss)
    callback = keras_grades.GradES()
    model.fit(x, y, epochs=10, callbacks=[callback])
    print(callback.report.summary())
    ```

    Its state travels with every checkpoint of the model and its optimizer
    that is taken during training. With `BackupAndRestore`, or with a model
    that was saved during training, `fit()` goes on where it was: with the
    same components frozen, and the same counts. Without GradES such a file
    is one of the model's own optimizer, and nothing is frozen.
    A `fit()` that begins at a later epoch, of the same model with the same
    instance of GradES, goes on where the last one was, too: `fit()` may be
    called in a loop, an epoch each, also with other data, and compiles once.
    Its grace period is a share of the steps of the first call: pass `alpha`
    as an integer. Once training
    was stopped, later calls take no step. A new instance, a model that was
    compiled again, `initial_epoch=0`, and a call after one that settled by
    its plan, as the first may at a constant learning rate, begin anew. From
    the second call of such a loop on, the end of a call is no deadline.
    If it begins at a later epoch without any state, the planned steps are
    those that remain.

    Args:
        tau: Threshold: a component has converged when its statistic stays
            below. `"auto"`, a positive float (with `monitor="transfer"` any
            above -1), or a dict from a regular expression on component names
            (`re.search`, first match wins) to a float; a component that no
            expression matches is not tracked.
            `"auto"` needs no tuning: it stands for 0 with
            `monitor="transfer"`, and for 0.5 with
            `monitor="relative_change"`. Defaults to `"auto"`.
        alpha: Grace period, in which nothing freezes. A float in [0, 1), a
            share of the planned steps, or an integer, a number of steps.
            Defaults to `0`; `0.5` with monitors that need a tau of your own.
        monitor: What is measured, by name or of your own. `"gradient"`,
            `"gradient_change"`, `"weight_change"`, `"relative_change"`,
            `"transfer"`, or an instance of your own subclass of
            `keras_grades.monitors.Monitor`. The first two are those of the
            paper, the third that of its authors' package. `"gradient"` is the
            norm of the gradient; `"gradient_change"` that of its change since
            the last step, at the cost of a copy of the gradients of all
            components that are not yet structurally frozen; `"weight_change"`
            that of the update. `"relative_change"` compares
            recent updates (the last 20, or a tenth of all) with all so far, in
            geometric means, of some 1000 entries of each matrix.
            `"transfer"` asks whether what is learned on some examples still
            helps the next ones: it is the cosine between where the mean
            weights have gone from one window of training to the next, and
            where the gradients of the window after that want them to go, of
            168 entries of each component at most. When the mean of all
            components was above 0 and stays below, the learning rate falls to
            0, and blocks freeze from below; at a rate that does not decay by
            itself, in time to be done when the plan ends. Both have no scale
            and no norm. All others need a tau of your own. Defaults to
            `"transfer"`; `"relative_change"` where the learning rate decays
            by itself; `"gradient"` with a tau of your own.
        norm: Norm of a matrix. `"l1"`, the sum of absolute values,
            `"mean_l1"`, their mean, so that one tau fits matrices of every
            size, or `"l2"`, the Frobenius norm. Defaults to `"l1"`.
        patience: Integer, for how many further steps in a row, after the
            first, the statistic must be below `tau`. Defaults to `9`; a sixth
            of the horizon, before it is quartered, with
            `monitor="transfer"`; `0` with monitors that need a tau of
            your own.
        horizon: How far `monitor="transfer"` looks. An integer, a number of
            steps, or a float, a number of epochs. By default two epochs, or
            half of the planned steps, if that is less, and 500 steps where
            neither is known; a quarter of that where the weights have moved
            by less than 3% of their norm, as in fine-tuning. At least 36
            steps, or 15 there. One of your own is not quartered: `2.0` is
            two epochs, `2` two steps. Other monitors refuse it; given alone
            it chooses `"transfer"`. Defaults to `None`.
        cooldown: Length of the annealing before a component freezes. An
            integer, a number of steps, or a float, a multiple of the step at
            which it has converged. From there on its updates are scaled by a
            factor that falls linearly to 0; those of all that is not
            tracked, by the mean of the components' factors. From the first
            convergence on, each step copies all trainable variables on
            TensorFlow and PyTorch. Refused with `use_ema`, constraints and
            float8. With 0 a component freezes at once. With
            `monitor="transfer"` the learning rate falls instead, which copies
            nothing, and is refused only where the updates would not shrink
            with it: with Ftrl, ScheduleFreeAdamW, and optimizers that wrap
            another one. Defaults to `0`; `0.25` with `monitor="transfer"`.
        components: Components to track. `None` for all that
            `find_components` finds, a regular expression on names, a list of
            layers or variables, or a function `Component -> bool`. Defaults
            to `None`.
        optimizer: The optimizer to watch, where `train_step` has several. A
            string, an attribute of the model such as
            `"generator_optimizer"`, or several attributes, joined by dots.
            The optimizer must be built; the components are those that it
            trains. Refused on JAX, where Keras trains with
            `model.optimizer` alone. `None` for the one that the model was
            compiled with. Defaults to `None`.
        max_frozen_ratio: Share of frozen components at which training stops.
            A float in (0, 1]. With a cooldown that step is known ahead, and
            `fit()` stops there. Where components freeze at once, it stops
            later by at most 16 steps, and by at most one per cent of those
            that are planned; in runs of fewer than 200 steps not later.
            Defaults to `1.0`.
        recompile: When to rebuild the train step without frozen components.
            `"always"`, `"never"`, an integer, the number of newly frozen
            components at which to rebuild, or `"auto"`, when that saves more
            time than it costs. Both are measured in this run; once it is
            known when each component freezes, the best rebuilds are chosen
            ahead, and on JAX compiled while training goes on. In eager
            PyTorch a rebuild costs nothing, and happens at once. Defaults to
            `"auto"`.
        truncate_backward: Boolean, whether to freeze norms, biases and
            embeddings below, too. That is what else lies below the lowest
            block still training, so that the backward pass ends above it. It
            happens once all components there are frozen. Embeddings that are
            tied to the output train on: freeze them yourself, or nothing is
            gained, as a warning says. Defaults to `False`.
        restore_trainable: Boolean, whether the `trainable` flags are set back
            at the end. If not, those of all that is frozen are `False`:
            compile the model again before you train on.
            Defaults to `True`.
        verbose: How much to print. `0` is silent, `1` prints a line at the
            start, one at the end, and one where all that is left is to
            settle; `2` also one for each block in which components freeze;
            `"auto"` is 1, or 0 if `fit()` is silent. Where Keras's
            interactive logging is disabled, it is logged. Defaults to `"auto"`.

    Attributes:
        components: List of `Component`, in the order in which data meets
            them; `component.frozen_at` is the step, or `None`.
        trace: Dict of `"step"`, an integer array of shape `(m,)`, and
            `"statistic"`, a float array of shape `(m, n)`, NaN where a
            component was frozen, had no gradient, or nothing was known. Each
            step has a row; in a run longer than 16,384 steps every second
            one, in one longer than twice that every fourth, and so on. With
            `steps_per_execution` above 64, the last 64 steps of each
            execution.
        stopped_step: Integer, the step at which training was stopped, or
            `None`.
        total_steps: Integer, the planned steps, or `None` if that is unknown.
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
        *,
        alpha: float | int | None = None,
        monitor: str | Monitor | None = None,
        norm: str = "l1",
        patience: int | None = None,
        horizon: float | int | None = None,
        cooldown: float | int | None = None,
        components: Selection = None,
        optimizer: str | None = None,
        max_frozen_ratio: float = 1.0,
        recompile: str | int = "auto",
        truncate_backward: bool = False,
        restore_trainable: bool = True,
        verbose: int | str = "auto",
        **retired: Any,
    ) -> None:
        super().__init__()
        validation.check_known(retired, known=())
        validation.check_verbose(verbose)
        self.policy = FreezePolicy(
            tau=tau,
            alpha=alpha,
            monitor=monitor,
            norm=norm,
            patience=patience,
            horizon=horizon,
            cooldown=cooldown,
        )
        self.options = Options(
            components=components,
            optimizer=optimizer,
            max_frozen_ratio=max_frozen_ratio,
            recompile=recompile,
            truncate_backward=truncate_backward,
            restore_trainable=restore_trainable,
        )
        self.verbose = verbose
        # Benchmarks that take turns have a clock of their own.
        self.clock: Callable[[], float] = time.perf_counter
        self._run: Run | None = None
        # Of the last `fit()`, until it is known whether this one goes on.
        self._earlier: Run | None = None
        # While the model is not built.
        self._waits: LateBuild | None = None
        self._report: FreezeReport | None = None

    def set_model(self, model):
        compatibility.check_is_keras(model)
        super().set_model(model)
        optimizer = find_optimizer(model, self.options.optimizer_path)
        if isinstance(optimizer, keras.optimizers.Optimizer):
            # Callbacks that come first may load before `on_train_begin`.
            resume.take_note(optimizer)

    def on_train_begin(self, logs=None):
        model = self.model
        compatibility.check_compiled(model)
        if find_installation(model) is not None:
            raise ValueError(
                "This model is in training with a `GradES` already. Give "
                "`fit()` one of them only."
            )
        self._waits = None
        if backend.builds_late and not compatibility.is_built(model):
            self._waits = LateBuild(model, self._start_late)
            self._waits.put_on()
        else:
            self._start()

    def _start(self):
        run = new_run(
            self.model,
            self.params or {},
            self.policy,
            self.options,
            self.clock,
            self._say,
        )
        if self._run is None or self._run.has_begun:
            self._earlier = self._run
        self._run = run
        run.installation.put_on()

    def _start_late(self, epoch):
        self._waits = None
        self._start()
        self.on_epoch_begin(epoch)

    def on_epoch_begin(self, epoch, logs=None):
        if self._waits is not None:
            self._waits.epoch = epoch
            return
        self._run.installation.check_is_on()
        if not self._run.has_begun:
            self._begin(epoch)
        # Time between epochs belongs to no step.
        self._run.skip_time()

    def _begin(self, epoch):
        run, earlier, self._earlier = self._run, self._earlier, None
        if epoch and earlier is not None and earlier.can_take_over(run, epoch):
            self._run = earlier
            earlier.take_over(run, epoch)
        else:
            run.begin(epoch, earlier if epoch else None)

    def on_train_batch_begin(self, batch, logs=None):
        if self._waits is not None:
            return
        self._run.installation.check_is_on()
        self._run.before_step()

    def on_epoch_end(self, epoch, logs=None):
        if self._waits is not None:
            return  # There was no batch.
        self._run.installation.check_is_on()
        self._run.installation.check_flags()
        self._run.installation.has_seen_all_batches()
        self._run.look()

    def on_test_begin(self, logs=None):
        if self._is_training():
            # Validation takes time, but belongs to no step.
            self._run.look()

    def on_train_end(self, logs=None):
        if self._waits is not None:
            self.restore()
            return
        if self._run.has_begun:
            self._run.look()
        else:
            self._run.take_up()  # The checkpoint was of the last epoch.
        self._run.end()
        self.restore()
        self._run.say_where_it_ends()

    def _is_training(self):
        run = self._run
        return run is not None and run.has_begun and run.installation.is_on

    def restore(self) -> None:
        """Gives the model its own optimizer, `train_step` and flags back.

        `fit()` does this at its end. When it was interrupted, the next
        `fit()` or `compile()` does; call this, or use GradES as a context
        manager, to have it done at once.
        """
        if self._waits is not None:
            self._waits.take_off()
        run = self._run
        if run is None:
            return
        try:
            if run.has_begun and not run.has_ended:
                # It was interrupted since the last look.
                run.has_ended = True
                run.catch_up()
        finally:
            run.installation.take_off()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.restore()

    @property
    def _source(self):
        """The run, in a copy its report, or `None`."""
        return self._report if self._run is None else self._run

    @property
    def components(self) -> list[Component]:
        return [] if self._source is None else self._source.components

    @property
    def stopped_step(self) -> int | None:
        return None if self._source is None else self._source.stopped_step

    @property
    def total_steps(self) -> int | None:
        return None if self._source is None else self._source.total_steps

    @property
    def trace(self) -> dict[str, np.ndarray]:
        return self.report.trace

    @property
    def report(self) -> FreezeReport:
        if self._run is not None:
            return self._run.report()
        if self._report is None:
            raise ValueError(
                "There is nothing to report yet: pass this callback to "
                "`model.fit(callbacks=[...])` first."
            )
        return self._report

    def __getstate__(self) -> dict[str, Any]:
        # A copy has the arguments and the report; the model stays here.
        state = callbacks.state_without_model(self)
        state["_waits"] = None
        if self._run is not None:
            state |= {
                "_run": None,
                "_earlier": None,
                "_report": self.report,
            }
        return state

    def _say(self, message, level=1, in_epoch=False):
        of_fit = (self.params or {}).get("verbose", 1)
        messages.show(message, level, self.verbose, of_fit, in_epoch)
