"""Before the first step of `fit()`: what to track, and with what optimizer."""

import dataclasses
from typing import Any

from keras_grades import checkpoint
from keras_grades import compatibility
from keras_grades import resume
from keras_grades import validation
from keras_grades.backend import backend
from keras_grades.discovery.selection import Selection
from keras_grades.discovery.selection import select
from keras_grades.installation.installation import unwrap
from keras_grades.keras_internals import optimizers
from keras_grades.optimizer import GradESOptimizer
from keras_grades.outlook import Outlook
from keras_grades.plan import Plan
from keras_grades.rebuild.costs import work_of
from keras_grades.rebuild.decision import RebuildPolicy
from keras_grades.run import Run
from keras_grades.train_step import COMPILED
from keras_grades.train_step import find_optimizer
from keras_grades.truncation import find_followers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The arguments of `GradES` that are no part of the rule."""

    components: Selection
    optimizer: str | None
    max_frozen_ratio: float
    recompile: str | int
    truncate_backward: bool
    restore_trainable: bool

    def __post_init__(self):
        validation.check_optimizer_path(self.optimizer)
        validation.check_max_frozen_ratio(self.max_frozen_ratio)
        validation.check_recompile(self.recompile)
        if self.optimizer is not None and self.truncate_backward:
            raise ValueError(
                "`truncate_backward` goes by what the model's own optimizer "
                "trains. Use it without `optimizer`. Received: optimizer="
                f"{self.optimizer!r}, truncate_backward=True"
            )

    @property
    def optimizer_path(self) -> str:
        """The attribute of the model with the optimizer to wrap."""
        return self.optimizer or COMPILED

    def settings(self) -> dict[str, Any]:
        """Those that change what is computed, for the report."""
        return {
            "max_frozen_ratio": self.max_frozen_ratio,
            "recompile": self.recompile,
            "truncate_backward": self.truncate_backward,
        }


def new_run(model, params, policy, options, clock, say):
    """Finds what to track, and wraps the optimizer.

    Args:
        model: A compiled `keras.Model`.
        params: Dict, what `fit()` tells its callbacks.
        policy: `FreezePolicy`.
        options: `Options`.
        clock: Function that returns the time in seconds.
        say: Function that prints a message for a level of verbosity.

    Returns:
        `Run`. Nothing is put on the model yet.
    """
    backend.check_model(model)
    path = options.optimizer_path
    found, among = _optimizer_and_variables(model, path)
    # Of a model that was compiled so, or saved by version 0.1.
    is_wrapped = isinstance(found, GradESOptimizer)
    optimizer, state = (
        _unwrapped(found) if is_wrapped else (found, resume.noted(found))
    )
    plan = Plan(
        params.get("steps"),
        params.get("epochs"),
        optimizer.gradient_accumulation_steps or 1,
    )
    components, _ = policy.thresholds(select(model, options.components, among))
    chosen = policy
    if state is not None and policy.monitor is None:
        step = int(state[checkpoint.STEP])
        chosen = _as_it_began(policy, optimizer, plan, step)
    followers = []
    if options.truncate_backward:
        followers = find_followers(model, components)
    with backend.scope(model):
        wrapped = GradESOptimizer(
            optimizer,
            components,
            total_steps=plan.steps(),
            steps_per_epoch=plan.steps_per_epoch,
            followers=followers,
            **vars(chosen),
        )
        wrapped.build(model.trainable_variables if among is None else among)
    if state is not None:
        wrapped.load_freeze_state(state)
    if is_wrapped:
        unwrap(model, path)
    resume.forget(optimizer)
    return Run(
        model,
        wrapped,
        plan=plan,
        policy=policy,
        options=options,
        rebuild_policy=RebuildPolicy(
            options.recompile,
            plan.steps(),
            rebuild_is_free=not backend.compiles(model),
            max_rebuilds=backend.max_rebuilds(model),
        ),
        work=work_of(model, components, followers),
        clock=clock,
        say=say,
    )


def _optimizer_and_variables(model, path):
    """The optimizer that the model has there, and what it trains, if that is
    not all."""
    found = find_optimizer(model, path)
    if path == COMPILED:
        return found, None
    compatibility.check_named(model, path, found, backend.trains_with_others)
    trainable = model.trainable_variables
    return found, [v for v in trainable if optimizers.knows(found, v)]


def _as_it_began(policy, optimizer, plan, step):
    """With the monitor that the learning rate called for when a run began.

    Args:
        policy: `FreezePolicy`.
        optimizer: The optimizer to wrap.
        plan: `Plan`.
        step: Integer, the updates that the run has taken so far.
    """
    schedules = optimizers.schedules_of(optimizer, step)
    outlook = Outlook(plan.steps(), plan.steps_per_epoch)
    return policy.chosen(outlook.with_rates(schedules))


def _unwrapped(optimizer):
    """The optimizer in a `GradESOptimizer`, and the freeze state of that."""
    inner, state = optimizer.inner_optimizer, {}
    if not optimizer.built:
        return inner, None
    optimizer.save_freeze_state(state)
    # One without a step may be of another monitor.
    return inner, state if state[checkpoint.STEP] else None
