"""One `fit()`: when to look at the state, when to stop, when to rebuild."""

import math
import warnings

import keras
import numpy as np

from keras_grades import messages
from keras_grades import trace
from keras_grades import validation
from keras_grades.backend import backend
from keras_grades.criterion import NEVER
from keras_grades.installation.installation import Installation
from keras_grades.looks import LOOKS
from keras_grades.looks import Looks
from keras_grades.rebuild.rebuilder import Rebuilder
from keras_grades.report import FreezeReport

# With fewer steps than this nothing is said of a plan that is not kept.
FEW = 32


class Run:
    """Follows one `fit()` from the host.

    The state of the run is in the variables of the optimizer. The host looks
    at it now and then, at steps that depend on the plan alone: stops `fit()`,
    and has the train step rebuilt without frozen components. It does not wait
    for the device: at one look it reads what it began to copy at the last.

    Args:
        model: A compiled `keras.Model`.
        optimizer: The built `GradESOptimizer` around the model's optimizer.
        plan: `Plan`.
        policy: `FreezePolicy` of the callback, as it was given.
        options: `Options` of the callback.
        rebuild_policy: `RebuildPolicy`, which decides when to rebuild.
        work: `StepWork` of the model.
        clock: Function that returns the time in seconds.
        say: Function that prints a message for a level of verbosity.

    Attributes:
        components: List of n `Component`, with their `frozen_at`.
        installation: `Installation` on the model.
        total_steps: Integer, the planned steps, or `None` if unknown.
        stopped_step: Integer, the step at which training was stopped, or
            `None`.
        trace: `Trace` of the run.
    """

    def __init__(
        self,
        model,
        optimizer,
        *,
        plan,
        policy,
        options,
        rebuild_policy,
        work,
        clock,
        say,
    ):
        self.components = list(optimizer.components)
        self.total_steps = plan.steps()
        self.stopped_step = None
        self.trace = trace.Trace(0, len(self.components))
        self.optimizer = optimizer
        self.installation = Installation(
            model,
            optimizer,
            self._after_call,
            clock,
            options.restore_trainable,
            options.optimizer_path,
        )
        self.rebuilder = Rebuilder(
            self.installation,
            rebuild_policy,
            work,
            self.components,
            optimizer.followers,
            clock,
        )
        self._model = model
        self._plan = plan
        self._policy = policy
        self._options = options
        share = options.max_frozen_ratio
        self._enough = math.ceil(share * len(self.components) - 1e-9)
        self._say = say
        self._looks = Looks(optimizer, model, plan.batches_per_step, clock)
        self._first_step = 0
        # The step at which each component has converged, or 0.
        self._converged_at = np.zeros(len(self.components), int)
        self._has_warned = False
        # When each component comes to rest, once that is known of enough.
        self._rest_at: np.ndarray | None = None
        # Whether it is one epoch of a loop.
        self._is_open = False
        self.has_begun = self.has_ended = False

    @property
    def frozen(self):
        """Boolean array of shape `(n,)`, as of the last look."""
        return np.array([c.frozen_at is not None for c in self.components])

    def begin(self, epoch, earlier):
        """Begins where the first epoch does, or a checkpoint that was loaded.

        Other callbacks may have loaded it since `on_train_begin`.

        Args:
            epoch: Integer, the first epoch.
            earlier: The `Run` of the `fit()` before, if this one goes on where
                that ended, or `None`.
        """
        self.has_begun = True
        step = self._first_step = self.take_up()
        if earlier is not None:
            self._is_open = earlier.is_in_loop_with(self._plan, epoch)
        self._plan_from(step, epoch)
        self._begin_at(step)
        if not self._model.stop_training:
            self.rebuilder.begin(self.frozen)

    def is_in_loop_with(self, plan, epoch):
        """Whether a next `fit()` is one more epoch: nobody knows the last.

        Args:
            plan: `Plan` of the next one.
            epoch: Integer, its first epoch.
        """
        is_one = plan.epochs is not None and plan.epochs - epoch == 1
        # A run that was interrupted has planned more, and goes on with that.
        return is_one and (self._is_open or self._plan.epochs == epoch)

    def _plan_from(self, step, epoch):
        """Plans the steps that were taken, and those that remain.

        They are the plan of `fit()`, unless it begins at a later epoch
        without any state, or with one of another number of steps.
        """
        remaining, total_steps = self._plan.steps(epoch), self.total_steps
        # With accumulated gradients one may be left over.
        if remaining is not None and abs(step + remaining - total_steps) > 1:
            total_steps = step + remaining
        is_as_planned = total_steps == self.total_steps and not self._is_open
        if is_as_planned and self.optimizer.is_planned_from_here:
            return
        self.total_steps = total_steps
        self.rebuilder.plan(total_steps, self._is_open)
        # The state is that of the windows of the first plan.
        plan = self.optimizer.extend if step else self.optimizer.plan
        plan(total_steps, self._is_open)

    def _begin_at(self, step):
        if self._is_enough():
            self._stop_before_a_step(step)
        self._say_where_it_begins(step)
        # It may be in the middle of settling, up to another end than before.
        self._rest_at = None
        self._see_the_end()
        self._plan_next_look()

    def can_take_over(self, other, epoch):
        """Whether this run, of an earlier `fit()`, can go on in its place.

        Args:
            other: The `Run` of the same callback that is about to begin.
            epoch: Integer, its first epoch.
        """
        state = backend.read(other.optimizer, other.installation.model)
        if (
            state["step"]  # A checkpoint was loaded.
            or self._policy != other._policy
            or _owned(self.components) != _owned(other.components)
            or not self.installation.can_take_over(other.installation)
        ):
            return False
        self.catch_up()
        # What settled because its plan ended learns on in the next one.
        return not self._settles_by_plan or self._has_left(other._plan, epoch)

    @property
    def _settles_by_plan(self):
        criterion = self.optimizer.rule.criterion
        return criterion.is_by_plan(int(self._converged_at.max()))

    def _has_left(self, plan, epoch):
        """Whether a next `fit()` is the rest of this one, interrupted.

        The epoch in which it was interrupted may be done anew.
        """
        if self.stopped_step is not None or plan != self._plan:
            return False
        again = self.trace.step + plan.steps(epoch) - self.total_steps
        return again <= plan.steps_per_epoch

    def catch_up(self):
        """Notes what was so when training was interrupted, if it is known."""
        backend.sync(self._model)
        if not backend.is_there(self.optimizer):
            return
        last = self._looks.last()
        if last is not None:
            self._note(last)
        self._note(self._looks.now())

    def take_over(self, other, epoch):
        """Goes on in place of another run, with the plan of that.

        Args:
            other: The `Run` that is about to begin.
            epoch: Integer, the first epoch.
        """
        other.installation.take_off()
        self.has_ended = False
        self.installation.put_on()
        self._is_open = self.is_in_loop_with(other._plan, epoch)
        self._plan, step = other._plan, self.trace.step
        remaining = self._plan.steps(epoch)
        if not self._settles_by_plan:  # Else the end stays where it is.
            self.total_steps = None if remaining is None else step + remaining
        self.rebuilder.plan(self.total_steps, self._is_open)
        if self.optimizer.extend(self.total_steps, self._is_open):
            self._model.make_train_function(force=True)
        self._begin_at(step)

    def take_up(self):
        """Reads the state that training goes on from; returns its step."""
        sight = self._looks.now()
        step = int(sight.state()["step"])
        self.trace = trace.Trace(step, len(self.components))
        self._note(sight)
        return step

    def _after_call(self, output, first_call_began):
        """Runs after each call of the train function: one comparison."""
        looks = self._looks
        looks.batches += min(
            self._model.steps_per_execution, self._plan.batches or math.inf
        )
        if first_call_began is not None:
            # Waits for the step, and decides nothing: when that is does not
            # depend on the time.
            sight = looks.now(output)
            step = int(sight.state()["step"])
            self.rebuilder.compiled(step, first_call_began, sight.time)
        if looks.is_due:
            self._look_back(output)

    def _look_back(self, output):
        """Looks at what was so at the last look: that is there by now.

        Where `fit()` may have to stop, it waits for what is so now.
        """
        self._take_in_the_last()
        if self._must_wait():
            self.look(output)
            return
        self._looks.begin(output)
        self._plan_next_look()

    def _take_in_the_last(self):
        last = self._looks.last()
        if last is not None:
            self._take_in(last)

    def _must_wait(self):
        """Whether `fit()` may have to stop right now.

        When what settles comes to rest is known ahead, and so is the deadline
        by which it begins to. What freezes at once is not seen until the next
        look, which is too late in a short run.
        """
        rule, step = self.optimizer.rule, self._looks.step
        if self._rest_at is not None:
            return step >= self._stop_at
        deadline = rule.criterion.deadline
        if deadline is not None and step >= deadline:
            return True
        is_short = self.total_steps is not None and self.total_steps < LOOKS
        return self._is_enough() or (is_short and rule.action.freezes_at_once)

    def look(self, output=None):
        """Looks at the state as it is now; stops `fit()` if it is time.

        Args:
            output: What the train function returned, or `None` between
                epochs.
        """
        self._take_in_the_last()
        step = self._take_in(self._looks.now(output))
        if self._is_enough() and not self._model.stop_training:
            self._stop(step)
        self._plan_next_look()

    def _take_in(self, sight):
        """Takes in the state at one look; returns its step."""
        was_frozen = self.frozen
        state, newly_frozen = self._note(sight)
        step = int(state["step"])
        backend.check_agreement(self._model, state["frozen_at"])
        self.rebuilder.ran(step, sight.time, sight.has_waited, was_frozen)
        for line in messages.freezing(self.components, newly_frozen, step):
            self._say(line, level=2, in_epoch=True)
        self._see_the_end()
        self._compare_with_plan(step, sight.batches)
        self.rebuilder.decide(step, self.frozen, self._rest_at, self._ends_at)
        return step

    def _note(self, sight):
        """Notes what is to be seen; the state, and what is newly frozen."""
        state = self._looks.read(sight)
        self._converged_at = state["converged_at"]
        self.trace.extend(int(state["step"]), state["trace"])
        return state, self._note_frozen(state["frozen_at"])

    def _compare_with_plan(self, step, batches):
        """Warns, once, of other updates than batches stand for."""
        planned = batches // self._plan.batches_per_step
        updates = step - self._first_step
        if self._has_warned or planned < FEW:
            return
        are_too_many = updates >= 2 * planned and self._goes_by_plan
        if updates > planned // 2 and not are_too_many:
            return
        self._has_warned = True
        warnings.warn(
            messages.unplanned(updates, batches, are_too_many), stacklevel=2
        )

    @property
    def _goes_by_plan(self):
        has_deadline = self.optimizer.rule.criterion.deadline is not None
        alpha = self.optimizer.policy.alpha
        return has_deadline or bool(alpha and not validation.is_integer(alpha))

    def _note_frozen(self, frozen_at):
        """Notes freeze steps; returns the newly frozen components."""
        newly_frozen = []
        for component, step in zip(self.components, frozen_at):
            before, component.frozen_at = component.frozen_at, int(step) or None
            if component.frozen_at not in (before, None):
                newly_frozen.append(component)
        return newly_frozen

    def _is_enough(self):
        return np.count_nonzero(self.frozen) >= self._enough

    def _stop(self, step):
        self._model.stop_training = True
        self.stopped_step = step

    def _stop_before_a_step(self, step):
        """As at the end of an epoch: not even one step is left to take."""
        self._stop(step)
        self.installation.take_no_step()

    def _plan_next_look(self):
        grace_steps = self.optimizer.rule.grace_steps
        self._looks.plan(self.total_steps, grace_steps, self._stop_at)

    def end(self):
        """Notes that `fit()` has come to its end, and was not interrupted."""
        self.has_ended = True
        self.installation.end()

    def skip_time(self):
        """Leaves out the time since the last look."""
        self.rebuilder.skip_time(self.trace.step)

    def before_step(self):
        """Makes logical freezes structural, or prepares that, if it is due."""
        self.rebuilder.act()

    def _say_where_it_begins(self, step):
        optimizer, total_steps = self.optimizer, self.total_steps
        if step:
            what = messages.going_on(self.components, step, total_steps)
        else:
            what = messages.beginning(
                self.components,
                optimizer.policy.monitor,
                optimizer.rule,
                total_steps,
                optimizer.policy.guesses_horizon(
                    optimizer.steps_per_epoch, total_steps
                ),
            )
        self._say(what)

    def _see_the_end(self):
        """Notes, and says, when `fit()` will stop, once that is known.

        That is so once what has converged only has to come to rest.
        """
        if self._rest_at is not None or self._is_enough():
            return
        converged_at = self._converged_at
        has_converged = converged_at > 0
        if np.count_nonzero(has_converged) < self._enough:
            return
        rest_at = self.optimizer.rule.action.rest_at(converged_at, np)
        self._rest_at = np.where(has_converged, rest_at, NEVER)
        since = np.sort(converged_at[has_converged])[self._enough - 1]
        self._say(
            messages.settling(int(since), self._stop_at, self.total_steps),
            in_epoch=True,
        )

    @property
    def _stop_at(self):
        """Integer, the step after which enough is frozen, once it is known."""
        if self._rest_at is None:
            return None
        return int(np.sort(self._rest_at)[self._enough - 1])

    @property
    def _ends_at(self):
        """The same, or the end of the plan, if that comes first."""
        if self._is_open or not self.total_steps or self._stop_at is None:
            return self._stop_at
        return min(self._stop_at, self.total_steps)

    def say_where_it_ends(self):
        """Says it, and why."""
        rule, step = self.optimizer.rule, self.trace.step
        converged_at = int(self._converged_at.max())
        reason = rule.criterion.reason(converged_at)
        first = rule.first_convergence
        if not converged_at and step < first:
            for_grace = first == rule.grace_steps
            has_alpha = bool(self.optimizer.policy.alpha)
            reason = messages.too_short(first, for_grace and has_alpha)
        is_cut_short = self.stopped_step is None and self._stop_at is not None
        if is_cut_short and not self._is_open:
            reason = f"{reason} {messages.cut_short(self._stop_at)}".lstrip()
        self._say(
            messages.ending(
                self.components,
                step,
                self.total_steps,
                self.stopped_step is not None,
                reason,
            )
        )

    def report(self):
        """`FreezeReport` of the run so far."""
        rule = self.optimizer.rule
        return FreezeReport(
            components=self.components,
            tau=rule.tau.tolist(),
            trace=self.trace.as_dict(),
            steps=self.trace.step,
            total_steps=self.total_steps,
            stopped_step=self.stopped_step,
            settings={
                **self.optimizer.policy.settings(),
                "grace_steps": rule.grace_steps,
                **self._options.settings(),
                "backend": keras.backend.backend(),
            },
            timing=self.rebuilder.timing(),
        )


def _owned(components):
    return [[id(v) for v in c.variables] for c in components]
