"""The optimizer that measures, decides and leaves alone what has converged."""

import contextlib
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_grades import checkpoint
from keras_grades import compatibility
from keras_grades import masking
from keras_grades import validation
from keras_grades.backend import backend
from keras_grades.component import Component
from keras_grades.component import Followers
from keras_grades.component import frozen_variables
from keras_grades.groups import Groups
from keras_grades.keras_internals import optimizers
from keras_grades.monitors.sample import has_gradient
from keras_grades.monitors.trial import try_out
from keras_grades.outlook import Outlook
from keras_grades.policy import FreezePolicy
from keras_grades.saved import SavedOptimizer
from keras_grades.state import State


@keras.saving.register_keras_serializable(package="keras_grades")
class GradESOptimizer(SavedOptimizer):
    """Wraps an optimizer so that each component stops when it has converged.

    In every update it measures each component, lets the wrapped optimizer
    update the weights, and decides which components are frozen from the next
    step on. All of it happens inside the compiled step. A frozen component
    keeps its value bit for bit; everything else moves as if the frozen
    variables had been set non-trainable, unless a `cooldown` holds it back.
    What the wrapped optimizer keeps of a frozen component, such as its
    momentum, goes on with its gradients, or with zeros where these would
    reach others (`global_clipnorm`, accumulated gradients, optimizers that
    are not of Keras), until it is frozen structurally.

    Its state belongs to `variables`, with that of the wrapped optimizer. It
    has one entry a component: `statistic`, `below` and, with `"transfer"`,
    `above` (the steps in a row below or above tau), `converged_at` and
    `frozen_at` (the step, or 0).

    `keras_grades.GradES` puts it on a model for one `fit()` and takes it off.
    Use it by itself in a custom training loop. On TensorFlow:

    ```python
    schedule = keras.optimizers.schedules.CosineDecay(1e-4, decay_steps=1000)
    optimizer = keras_grades.GradESOptimizer(
        keras.optimizers.AdamW(schedule),
        keras_grades.find_components(model),
    )
    optimizer.build(model.trainable_variables)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = loss_fn(y, model(x, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    for x, y in dataset:
        step(x, y)
        if optimizer.frozen_ratio == 1.0:
            break
    ```

    On PyTorch the gradients are `[v.value.grad for v in variables]`, after
    `loss.backward()`, and `apply` is called under `torch.no_grad()`. On JAX
    the step is a pure function and calls
    `optimizer.stateless_apply(optimizer_variables, gradients, variables)`,
    which returns new values of both. `frozen_ratio`, `frozen_at` and
    `freeze_structurally()` read the variables: assign them those values
    before, and take both lists anew once that has returned `True`.

    Args:
        inner_optimizer: The `keras.optimizers.Optimizer` to wrap.
        components: List of `Component`, as `find_components` returns it.
        tau: As in `GradES`, or a list of one float a component. Defaults to
            `"auto"`.
        total_steps: Integer, the planned number of updates. Needed when
            `alpha` is a float, as it is by default with a tau of your own.
            With `tau="auto"` and a learning rate that does not decay by
            itself, training settles at this step at the latest. Defaults to
            `None`.
        steps_per_epoch: Integer, the number of updates in an epoch. Needed
            when `horizon` is a float; without it the default horizon is half
            of `total_steps`. Defaults to `None`.
        followers: List of `keras_grades.component.Followers`, variables that
            are frozen with components that lie above them. Defaults to `()`.
        name: String. Defaults to `"grades"`.
        **policy: `alpha`, `monitor`, `norm`, `patience`, `horizon` and
            `cooldown`, as in `GradES`.

    Raises:
        ValueError, TypeError: If an argument is not as described.

    For a `fit()` without the callback see `keras_grades.GradESMixin`.

    Reference: [GradES, arXiv 2509.01842](https://arxiv.org/abs/2509.01842)
    """

    # Own attributes, whatever the wrapped optimizer has of these names.
    components: tuple[Component, ...] = ()
    followers: tuple[Followers, ...] = ()
    policy = rule = total_steps = steps_per_epoch = freeze_state = None
    _state: State | None = None

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer,
        components: Sequence[Component],
        tau: float | dict[str, float] | Sequence[float] | str = "auto",
        *,
        total_steps: int | None = None,
        steps_per_epoch: int | None = None,
        followers: Sequence[Followers] = (),
        name: str = "grades",
        **policy: Any,
    ) -> None:
        super().__init__(inner_optimizer, name)
        validation.check_known(policy, FreezePolicy.__dataclass_fields__)
        self.policy = FreezePolicy(tau=tau, **policy)
        # Tuples: Keras must not take the components for state of its own.
        self.components = tuple(components)
        self.followers = tuple(followers)
        if not components:
            raise ValueError(
                "`components` must have at least one component. Received an "
                "empty list."
            )
        for name, given in (
            ("total_steps", total_steps),
            ("steps_per_epoch", steps_per_epoch),
        ):
            if given is not None:
                validation.check_integer(name, given, at_least=0)
        self.steps_per_epoch = steps_per_epoch
        self.plan(total_steps)

    @optimizers.no_automatic_dependency_tracking
    def plan(self, total_steps, is_open=False):
        """Sets the planned number of updates, before the first one.

        Args:
            total_steps: Integer, of which `alpha` is a share, or `None`.
            is_open: Boolean, whether training goes on after those. Defaults
                to `False`.
        """
        self.total_steps = total_steps
        outlook = self._outlook(is_open=is_open)
        # Once: the state is that of the monitor.
        self.policy = self.policy.chosen(outlook)
        self.rule = self.policy.resolve(self.components, outlook)
        self.components = self.rule.components

    def _outlook(self, **plan):
        outlook = Outlook(self.total_steps, self.steps_per_epoch, **plan)
        self._schedules = self._schedules_from_here()
        return outlook.with_rates(self._schedules)

    def _schedules_from_here(self):
        if not self.policy.goes_by_rate:
            return []
        steps = int(ops.convert_to_numpy(self.own_iterations))
        return optimizers.schedules_of(self.inner_optimizer, steps)

    @property
    def is_planned_from_here(self):
        """Boolean, whether the learning rate was read where it is now.

        Not if the wrapped optimizer was loaded since.
        """
        return self._schedules == self._schedules_from_here()

    @optimizers.no_automatic_dependency_tracking
    def extend(self, total_steps, is_open=False):
        """Plans for other updates than at first, in the middle of a run.

        The grace period stays that of the first plan, unless the learning
        rate rises once more, and so do the windows of the monitor.

        Args:
            total_steps: Integer, the number of updates planned now, or
                `None`.
            is_open: As in `plan`.

        Returns:
            Boolean, whether a step that was compiled before is out of date.
        """
        before = self.rule
        outlook = self._outlook(
            is_open=is_open or total_steps is None, extended_to=total_steps
        )
        self.rule = self.policy.resolve(
            self.components, outlook, before.monitor
        )
        return _plan_of(before) != _plan_of(self.rule)

    @optimizers.no_automatic_dependency_tracking
    def build(self, variables):
        """Creates the state.

        Args:
            variables: List of `keras.Variable`, the model's trainable ones.
        """
        if self.built:
            return
        backend.check_devices(self, variables)
        groups = self.components + self.followers
        for group in groups:
            _bind(group, variables)
        action = self.rule.action
        action.check(self.inner_optimizer, variables)
        compatibility.check_holds_components(groups, variables)
        super().build(variables)
        self._place = {id(v): i for i, v in enumerate(variables)}
        self._groups = Groups(
            self.components,
            self.followers,
            with_others=action.holds_others,
        )
        self._create_state()
        # It may have been built before the user froze some layers.
        self.narrow(variables)

    def _create_state(self):
        rule = self.rule
        if not isinstance(self.policy.monitor, str):
            taken = {*rule.rule_specs, *checkpoint.NAMES}
            try_out(rule.monitor, rule.monitor_specs, taken, self.components)
        self._state = State(
            rule.rule_specs,
            rule.monitor_specs,
            self.components,
            self.add_variable,
        )

    def apply(self, grads, trainable_variables=None):
        """Takes one step: measures, updates, puts back, decides.

        Args:
            grads: List of gradients, one a variable.
            trainable_variables: List of `keras.Variable`. Defaults to those
                that the optimizer was built with.
        """
        rule = self.rule
        variables = self._variables_to_train(trainable_variables)
        is_summed = optimizers.sums_as_given(self.inner_optimizer)
        grads = list(grads)
        if is_summed:
            grads = backend.sum_over_replicas(grads)
        gradients, tracked = self._tracked(grads, variables)
        if not is_summed:
            gradients = backend.sum_over_replicas(gradients)
        # Before the update, which counts the batches that it accumulates.
        is_update = optimizers.is_update_step(self.inner_optimizer)
        step = ops.cast(self.own_iterations, "int32") + 1
        state = {**self._state.tensors(tracked), "step": step}

        carry = rule.before(state, gradients, tracked)
        share = rule.action.share(state, step)
        held, grads = masking.hold(
            grads,
            variables,
            self._groups,
            frozen=self._groups.frozen(state["frozen_at"] > 0),
            share=None if share is None else self._groups.share(share),
            zero=optimizers.gradients_reach_others(self.inner_optimizer),
        )
        rate = rule.action.rate(state, step)
        with (
            optimizers.scaled_learning_rate(self.inner_optimizer, rate),
            optimizers.summed_already(self.inner_optimizer, is_summed),
        ):
            self.inner_optimizer.apply(grads, variables)
        if held is not None:
            # Frozen ones are measured, too, so before they are put back.
            measured = rule.after(state, carry, tracked)
            masking.put_back(held)
            new = rule.decide(
                state, *measured, has_gradient(gradients, tracked)
            )
            self._state.assign(new, tracked, is_update)
            self._keep_averages(held)
        self._count_step(is_update)

    def _variables_to_train(self, variables):
        if variables is None and not self.built:
            raise ValueError(
                "`apply` needs the variables, or an optimizer that was built "
                "with them: call `optimizer.build(variables)` first. "
                "Received: trainable_variables=None"
            )
        variables = list(self._trained if variables is None else variables)
        if not self.built:
            self.build(variables)
        return variables

    def _tracked(self, gradients, variables):
        """Gradients and variables by component; what has no gradient is out."""
        gradients, tracked = self._groups.split(gradients, variables)
        # Unscaled, and averaged over accumulated batches.
        gradients = [
            tuple(optimizers.inner_gradients(self.inner_optimizer, g, v))
            for g, v in zip(gradients, tracked)
        ]
        return gradients, tracked

    def _keep_averages(self, held):
        """The moving average of what does not move is its value."""
        averages = optimizers.averages(self.inner_optimizer, held.variables)
        if averages:
            frozen = ops.convert_to_tensor(self.frozen_at) > 0
            frozen = self._groups.spread(
                self._groups.frozen(frozen), held.variables
            )
            for i, average in averages:
                value = ops.convert_to_tensor(held.variables[i])
                masking.assign(average, value, frozen[i])

    def frozen_variables(self):
        """What is frozen by now, structurally or only logically."""
        # Compared on the host: there nothing is compiled for it.
        frozen = ops.convert_to_numpy(self.frozen_at) > 0
        return frozen_variables(self.components, self.followers, frozen)

    def _count_step(self, is_update):
        # True, and known only when the step has been decided: where data of
        # unknown length ends, TensorFlow still runs what needs no data.
        is_decided = ops.min(self.frozen_at) >= 0
        steps = self.own_iterations
        steps_after = steps + ops.cast(is_decided, steps.dtype)
        masking.assign(steps, steps_after, is_update)

    @property
    def state(self):
        """Dict of the `keras.Variable`s of the state, as they are saved."""
        return {
            checkpoint.STEP: self.own_iterations,
            **self._state.by_name(self._place),
        }

    @property
    def observed(self):
        """Dict of the `keras.Variable`s that the host looks at."""
        return {
            "step": self.own_iterations,
            "converged_at": self._state["converged_at"],
            "frozen_at": self._state["frozen_at"],
            "statistic": self._state["statistic"],
            "trace": self._state["trace"],
        }

    @property
    def frozen_at(self):
        """`keras.Variable` of shape `(n,)`: the step, or 0."""
        return self._state["frozen_at"]

    @property
    def frozen_ratio(self):
        """Scalar tensor, the share of the components that are frozen."""
        return self.logs(self.observed)["frozen_ratio"]

    def logs(self, observed):
        """What a train step adds to its logs.

        Args:
            observed: Dict of the values of `observed`.

        Returns:
            Dict of scalar tensors: `"frozen_ratio"`, and `"statistic"`, the
            mean over the components of what was last measured of each, 0
            before that.
        """
        is_frozen = ops.cast(observed["frozen_at"] > 0, "float32")
        return {
            "frozen_ratio": ops.mean(is_frozen),
            "statistic": ops.mean(observed["statistic"]),
        }

    @property
    def variables(self):
        kept = self._state.kept if self.built else []
        # Those of the wrapped one first: what goes by their number, as the
        # HDF5 format does, finds them.
        return self.inner_optimizer.variables + super().variables + kept

    @optimizers.no_automatic_dependency_tracking
    def narrow(self, variables):
        """Also frees what a monitor keeps of other variables."""
        super().narrow(variables)
        self._state.keep_only(variables)

    @contextlib.contextmanager
    def narrowed_to(self, variables):
        with super().narrowed_to(variables), self._state.kept_only(variables):
            yield

    def freeze_structurally(self) -> bool:
        """Sets what is frozen non-trainable, in a training loop of your own.

        `GradES` does so by itself when that pays. From then on gradients of
        frozen variables are neither computed nor, with several devices, sent.
        A step that was compiled must be traced again, with the
        `model.trainable_variables` that are left, and on PyTorch a
        `DistributedDataParallel` must be made again:

        ```python
        if step % 100 == 0 and optimizer.freeze_structurally():
            replicas = DistributedDataParallel(model)
        ```

        Returns:
            Boolean, whether anything was set.
        """
        frozen = self.frozen_variables()
        newly_frozen = [v for v in frozen if v.trainable]
        for variable in newly_frozen:
            variable.trainable = False
        if newly_frozen:
            self.narrow([v for v in self._trained if v.trainable])
        return bool(newly_frozen)

    def finalize_variable_values(self, var_list):
        """Overwrites weights with their averages, but none that is frozen."""
        has_averages = optimizers.uses_averages(self.inner_optimizer)
        # After an error there may be no values to read.
        frozen = self.frozen_variables() if has_averages else []
        # Not on the host, which may not have all of them.
        values = backend.snapshot(frozen)
        self.inner_optimizer.finalize_variable_values(var_list)
        for variable, value in zip(frozen, values):
            variable.assign(value)


def _plan_of(rule):
    """What a step has of the plan, once it is compiled."""
    return rule.grace_steps, rule.criterion.deadline, rule.action.end


def _bind(group, variables):
    """Gives a group its variables, where a config gave their places."""
    group.variables = tuple(
        variables[v] if isinstance(v, int) else v for v in group.variables
    )
