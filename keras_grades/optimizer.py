"""The optimizer that measures, decides and leaves alone what has converged."""

import zlib
from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from keras_grades import backend
from keras_grades.backend import private
from keras_grades.backend.masking import assign
from keras_grades.component import Component
from keras_grades.component import Followers
from keras_grades.relative_change import RelativeChange
from keras_grades.rule import Rule
from keras_grades.rule import decide
from keras_grades.rule import release
from keras_grades.rule import share_of_update

# The statistics of so many steps are kept on the device, so that the host can
# have all of them and look at few steps only.
TRACE_ROWS = 64


@keras.saving.register_keras_serializable(package="keras_grades")
class GradESOptimizer(keras.optimizers.Optimizer):
    """Wraps an optimizer so that each component stops when it has converged.

    In every update it measures each component, lets the wrapped optimizer
    update the weights, and decides by the rule of GradES which components
    are frozen from the next step on. All of it happens inside the compiled
    step. A frozen component keeps its value bit for bit; everything else
    moves as if the frozen variables had been set non-trainable, unless a
    `cooldown` holds it back. What the wrapped optimizer keeps of a frozen
    component, such as its momentum, goes on with its gradients, or with zeros
    where these would reach others (`global_clipnorm`, accumulated gradients,
    optimizers that are not of Keras), until it is frozen structurally.

    Its state is one entry a component: `statistic`, `below` (the measured
    steps in a row below tau), `converged_at` and `frozen_at` (the step, or 0).
    It belongs to `variables`, with that of the wrapped optimizer.

    `keras_grades.GradES` puts it on a model for one `fit()` and takes it off.
    Use it by itself in a custom training loop. On TensorFlow:

    ```python
    model.build(...)
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
    `optimizer.stateless_apply(optimizer_variables, gradients, variables)`.

    Args:
        inner_optimizer: The `keras.optimizers.Optimizer` to wrap.
        components: List of `Component`, as `find_components` returns it.
        tau: `"auto"`, which needs no tuning (see `GradES`), or a float, or a
            dict from a regular expression on component names to a float
            (first match wins; a component that none matches is not tracked),
            or a list of one float a component. Defaults to `"auto"`.
        alpha: Float in [0, 1), the share of `total_steps` in which nothing
            freezes, or an integer, a number of steps. Defaults to `0`, with a
            tau of your own to `0.5`.
        total_steps: Integer, the planned number of updates. Needed when
            `alpha` is a float, as it is by default with a tau of your own.
            Defaults to `None`.
        monitor: `"gradient"`, `"gradient_change"`, `"weight_change"` or
            `"relative_change"`. Defaults to `"relative_change"`, with a tau of
            your own to `"gradient"`. `"gradient_change"` keeps the last
            gradient of each component, as much memory as their weights, until
            the component is structurally frozen.
        norm: `"l1"` (the sum of absolute values), `"mean_l1"` (their mean) or
            `"l2"` (the Frobenius norm). Defaults to `"l1"`.
        patience: Integer, how many more measured steps in a row the
            statistic must be below tau. Defaults to `9`, with a tau of your
            own to `0`.
        interval: Integer, every how many steps is measured. Defaults to `1`.
        followers: List of `keras_grades.component.Followers`, variables that
            are frozen with components that lie above them. Defaults to `()`.
        cooldown: How long a component is annealed before it is frozen: an
            integer, a number of steps, or a float, a multiple of the step at
            which it has converged. From there on its updates are scaled by a
            factor that falls linearly to 0; those of all that is not
            tracked, by the mean of the components' factors. From the first
            convergence on, each step copies all trainable variables on
            TensorFlow and PyTorch. Refused with `use_ema`, constraints and
            float8. Defaults to `0`.
        thaw: Boolean, whether a component is released that froze too early
            (see `GradES`). Defaults to `False`.
        name: String. Defaults to `"grades"`.

    Raises:
        ValueError, TypeError: If an argument is not as described.

    Reference: [GradES, arXiv 2509.01842](https://arxiv.org/abs/2509.01842)
    """

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer,
        components: Sequence[Component],
        tau: float | dict[str, float] | Sequence[float] | str = "auto",
        alpha: float | int | None = None,
        total_steps: int | None = None,
        monitor: str | None = None,
        norm: str = "l1",
        patience: int | None = None,
        interval: int = 1,
        followers: Sequence[Followers] = (),
        cooldown: float | int = 0,
        thaw: bool = False,
        name: str = "grades",
    ) -> None:
        _check_inner_optimizer(inner_optimizer)
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = inner_optimizer
        self.rule = Rule(
            tau, alpha, monitor, norm, patience, interval, cooldown, thaw
        )
        self.plan(total_steps)
        components, self.tau = self.rule.thresholds(list(components))
        if not components:
            raise ValueError(
                "`components` must have at least one component. Received an "
                "empty list."
            )
        # A tuple: Keras must not take the components for state of its own.
        self.components = tuple(components)
        self.followers = tuple(followers)
        self._undo_narrow = None

    def plan(self, total_steps):
        """Sets the planned number of updates, before the first one."""
        self.total_steps = total_steps
        self.grace_steps = self.rule.grace_steps(total_steps)

    @private.no_automatic_dependency_tracking
    def build(self, variables):
        """Creates the state.

        Args:
            variables: List of `keras.Variable`, the model's trainable ones.
        """
        if self.built:
            return
        for group in self.components + self.followers:
            _bind(group, variables)
        if self.rule.cooldown:
            _check_can_cool_down(self.inner_optimizer, variables)
        if self.rule.thaw and self.inner_optimizer.gradient_accumulation_steps:
            raise ValueError(
                "`thaw` does not go together with accumulated gradients: "
                "those of what is frozen are not kept. Use `thaw=False`, or "
                "an optimizer without `gradient_accumulation_steps`. "
                "Received: gradient_accumulation_steps="
                f"{self.inner_optimizer.gradient_accumulation_steps}"
            )
        if self.inner_optimizer.built:
            _check_knows(self.inner_optimizer, variables)
        else:
            self.inner_optimizer.build(variables)
        super().build(variables)
        self._index_components()
        self._add_state()
        # It may have been built before the user froze some layers.
        self.narrow(variables)

    @private.no_automatic_dependency_tracking
    def _index_components(self):
        groups = self.components + self.followers
        # All that is in none of them is held back only by a cooldown.
        self._others = len(groups) if self.rule.cooldown else None
        # The place of each variable's component, or after all components, of
        # its followers.
        self._group_index = {
            self._var_key(v): i
            for i, group in enumerate(groups)
            for v in group.variables
        }
        missing = [
            v.path
            for group in groups
            for v in group.variables
            if self._var_key(v) not in self._trainable_variables_indices
        ]
        if missing:
            raise ValueError(
                "The optimizer must be built with all variables of its "
                "components. Pass `model.trainable_variables` to `build()`. "
                f"Not among the variables received: {missing}"
            )

    @private.no_automatic_dependency_tracking
    def _add_state(self):
        n = (len(self.components),)
        self.statistic = self.add_variable(
            n, "zeros", "float32", name="statistic"
        )
        self.below = self.add_variable(n, "zeros", "int32", name="below")
        self.converged_at = self.add_variable(
            n, "zeros", "int32", name="converged_at"
        )
        self.frozen_at = self.add_variable(
            n, "zeros", "int32", name="frozen_at"
        )
        # Only with `thaw`: measured steps in a row on which the statistic of
        # what is frozen was high again, and how often it was released.
        self._released = {}
        if self.rule.thaw:
            self._released = {
                name: self.add_variable(n, "zeros", "int32", name=name)
                for name in ("above", "thaws")
            }
        self.trace = self.add_variable(
            (TRACE_ROWS, *n), "zeros", "float32", name="trace"
        )
        # Not among `_variables`, so that those of frozen components can go.
        # NaN until there is one: a change from it is not below tau.
        self._previous = {}
        if self.rule.monitor == "gradient_change":
            self._previous = {
                self._var_key(v): private.nan_like(v, "previous_gradient")
                for component in self.components
                for v in component.variables
            }
        self._relative_change = None
        if self.rule.monitor == "relative_change":
            self._relative_change = RelativeChange(
                self.components, self.add_variable
            )
        self._previous_shapes = {k: v.shape for k, v in self._previous.items()}

    @property
    def variables(self):
        own = self._variables + list(self._previous.values())
        return own + self.inner_optimizer.variables

    def values_as_built(self):
        """The values of all variables, NaN for gradients no longer kept."""
        kept = {k: v.numpy() for k, v in self._previous.items()}
        previous = [
            kept.get(key, np.full(shape, np.nan, "float32"))
            for key, shape in self._previous_shapes.items()
        ]
        own = [v.numpy() for v in self._variables]
        return (
            own + previous + [v.numpy() for v in self.inner_optimizer.variables]
        )

    def __getattr__(self, name):
        # Callbacks of Keras look for averages, and for the optimizers in a
        # `MultiOptimizer`, in the model's optimizer or that in loss scaling.
        if name in ("_model_variables_moving_average", "optimizers"):
            return getattr(self.inner_optimizer, name)
        return super().__getattribute__(name)  # Raises as it did.

    @property
    def state(self):
        """Dict of the `keras.Variable`s that say what was decided."""
        return {
            "step": self._iterations,
            "frozen_at": self.frozen_at,
            "trace": self.trace,
            **({"thaws": self._released["thaws"]} if self._released else {}),
        }

    @property
    def frozen_ratio(self):
        """Scalar tensor, the share of the components that are frozen."""
        return ops.mean(ops.cast(self.frozen_at > 0, "float32"))

    @property
    def iterations(self):
        return self.inner_optimizer.iterations

    @property
    def learning_rate(self):
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.inner_optimizer.learning_rate = learning_rate

    def scale_loss(self, loss):
        return self.inner_optimizer.scale_loss(loss)

    def apply(self, grads, trainable_variables=None):
        """Takes one step of the rule.

        Args:
            grads: List of gradients, one a variable.
            trainable_variables: List of `keras.Variable`. Defaults to those
                that the optimizer was built with.
        """
        grads = list(grads)
        if trainable_variables is None:
            trainable_variables = self._trainable_variables
        variables = list(trainable_variables)
        if not self.built:
            self.build(variables)

        # Where the variables are that may not take all of their update, those
        # with a gradient, and which component or followers each belongs to.
        groups = [
            self._group_index.get(self._var_key(v), self._others)
            for v in variables
        ]
        at = [
            i
            for i, group in enumerate(groups)
            if group is not None and grads[i] is not None
        ]
        is_update = private.is_update_step(self.inner_optimizer)
        if not at:
            self.inner_optimizer.apply(grads, variables)
            self._count_step(is_update)
            return

        def update(some_grads):
            all_grads = list(grads)
            for i, gradient in zip(at, some_grads):
                all_grads[i] = gradient
            self.inner_optimizer.apply(all_grads, variables)
            # Before anything is put back: what is frozen is measured, too.
            statistics.append(statistic())

        # 1. Measure; what is not a change of the weights, before the update.
        measured = [i for i in at if groups[i] < len(self.components)]
        tracked = [variables[i] for i in measured]
        statistics = []
        statistic = self._measure(
            private.inner_gradients(
                self.inner_optimizer, [grads[i] for i in measured], tracked
            ),
            tracked,
            np.array([groups[i] for i in measured], "int32"),
            is_update,
        )
        # 2. The update of this step is applied, to all that is still active.
        held = [variables[i] for i in at]
        of_group = np.array([groups[i] for i in at])
        frozen = self._frozen()
        backend.update_active(
            update,
            [grads[i] for i in at],
            held,
            ops.take(frozen, of_group),
            self._share_of_update(of_group),
            zero=private.gradients_reach_others(self.inner_optimizer),
        )
        # 3. Decide.
        self._decide(statistics.pop(), is_update)
        self._keep_averages(held, of_group, frozen)
        self._count_step(is_update)

    def _keep_averages(self, variables, of_group, was_frozen):
        """The moving average of what does not move is what it is."""
        averages = private.averages(self.inner_optimizer, variables)
        if averages:
            # What is released in this step has not moved in it either.
            frozen = ops.logical_or(was_frozen, self._frozen())
            frozen = ops.take(frozen, of_group)
            for i, average in averages:
                value = ops.convert_to_tensor(variables[i])
                assign(average, value, frozen[i])

    def _frozen(self):
        """Whether frozen: components, then followers, then all others."""
        components = ops.convert_to_tensor(self.frozen_at) > 0
        frozen = [components]
        if self.followers:
            places = np.arange(len(self.components))
            leads = np.stack(
                [np.isin(places, f.components) for f in self.followers]
            )
            frozen.append(ops.all(ops.logical_or(components, ~leads), axis=-1))
        if self.rule.cooldown:
            frozen.append(ops.zeros((1,), "bool"))
        return ops.concatenate(frozen) if len(frozen) > 1 else components

    def _share_of_update(self, of_group):
        """The share of its update that each variable takes, None if all."""
        if not self.rule.cooldown:
            return None
        step = ops.cast(self._iterations, "int32") + 1
        share = share_of_update(
            ops.convert_to_tensor(self.converged_at),
            ops.convert_to_tensor(self.frozen_at),
            step,
            self.rule.cooldown,
        )
        # What is not tracked settles down with what is.
        mean = ops.repeat(ops.mean(share), len(self.followers) + 1)
        return ops.take(ops.concatenate([share, mean]), of_group)

    def _measure(self, gradients, variables, of, is_update):
        """Returns a function for the statistic, once the update is applied.

        Changes are made one by one: to hold all of them at a time would take
        as much memory as the weights.
        """
        norm = self.rule.norm
        if not variables:
            return lambda: self._only(np.float32("nan"), of)
        if self._relative_change is not None:
            change = self._relative_change.watch(variables, is_update)
            return lambda: self._only(change(), of)
        if self.rule.monitor == "weight_change":
            before = backend.snapshot(variables)
            return lambda: self._sums(
                backend.norms((v - w for v, w in zip(variables, before)), norm),
                of,
            )
        if self.rule.monitor == "gradient_change":
            previous = [self._previous[self._var_key(v)] for v in variables]
            norms = backend.norms(
                (g - p for g, p in zip(gradients, previous)), norm
            )
            for p, g in zip(previous, gradients):
                assign(p, g, is_update)
        else:
            norms = backend.norms(gradients, norm)
        return lambda: self._sums(norms, of)

    def _sums(self, norms, of):
        """The norm of each component, the sum of those of its variables."""
        n = len(self.components)
        statistic = ops.segment_sum(norms, of, num_segments=n)
        if self.rule.norm == "mean_l1":
            # Nothing at all has converged.
            sizes = [max(1, c.size) for c in self.components]
            sizes = np.array(sizes, "float32")
            statistic = ops.divide(statistic, sizes)
        return self._only(statistic, of)

    def _only(self, statistic, of):
        """What has no gradient has no statistic."""
        n = len(self.components)
        measured = ops.convert_to_tensor(np.isin(np.arange(n), of))
        return ops.where(measured, statistic, np.float32("nan"))

    def _decide(self, statistic, is_update):
        rule = self.rule
        step = ops.cast(self._iterations, "int32") + 1
        active = ops.equal(self.frozen_at, 0)
        below, converged_at, frozen_at = decide(
            statistic,
            ops.convert_to_tensor(self.below),
            ops.convert_to_tensor(self.converged_at),
            ops.convert_to_tensor(self.frozen_at),
            step,
            ops.convert_to_tensor(self.tau),
            grace_steps=self.grace_steps,
            patience=rule.patience,
            interval=rule.interval,
            cooldown=rule.cooldown,
        )
        if rule.thaw:
            above, thaws, converged_at, frozen_at = release(
                statistic,
                *map(ops.convert_to_tensor, self._released.values()),
                converged_at,
                frozen_at,
                step,
                ops.convert_to_tensor(self.tau),
                patience=rule.patience,
                interval=rule.interval,
            )
            assign(self._released["above"], above, is_update)
            assign(self._released["thaws"], thaws, is_update)
        row = ops.equal(
            np.arange(TRACE_ROWS, dtype="int32")[:, None],
            (step - 1) % TRACE_ROWS,
        )
        recorded = ops.where(active, statistic, np.float32("nan"))
        assign(
            self.trace,
            ops.where(row, recorded, ops.convert_to_tensor(self.trace)),
            is_update,
        )
        assign(
            self.statistic,
            ops.where(active, statistic, ops.convert_to_tensor(self.statistic)),
            is_update,
        )
        assign(self.below, below, is_update)
        assign(self.converged_at, converged_at, is_update)
        assign(self.frozen_at, frozen_at, is_update)

    def _count_step(self, is_update):
        # True, and known only when the step has been decided: where data of
        # unknown length ends, TensorFlow still runs what needs no data.
        is_decided = ops.min(self.frozen_at) >= 0
        step = self._iterations + ops.cast(is_decided, self._iterations.dtype)
        assign(self._iterations, step, is_update)

    @private.no_automatic_dependency_tracking
    def narrow(self, variables):
        """Makes this the optimizer of the given variables alone.

        For structural freezing: the next gradients are of these variables.

        Args:
            variables: List of `keras.Variable`, some of those it was built
                with. What is kept of the others' last gradients is freed.
        """
        self.widen()
        keys = {self._var_key(v) for v in variables}
        gone = [
            v for v in self._trainable_variables if self._var_key(v) not in keys
        ]
        for i, average in private.averages(self.inner_optimizer, gone):
            # A copy: JAX gives no buffer away twice.
            average.assign(ops.copy(gone[i]))
        self._previous = {k: v for k, v in self._previous.items() if k in keys}
        self._undo_narrow = (
            private.narrow(self, variables),
            private.narrow(self.inner_optimizer, variables),
        )

    @private.no_automatic_dependency_tracking
    def widen(self):
        """Makes this the optimizer of all that it was built with again."""
        if self._undo_narrow is not None:
            own, inner = self._undo_narrow
            private.widen(self, own)
            private.widen(self.inner_optimizer, inner)
            self._undo_narrow = None

    def finalize_variable_values(self, var_list):
        """Overwrites weights with their averages, but none that is frozen."""
        groups = self.components + self.followers
        frozen = [
            v
            for group, is_frozen in zip(
                groups, ops.convert_to_numpy(self._frozen())
            )
            if is_frozen
            for v in group.variables
        ]
        values = [ops.convert_to_numpy(v).copy() for v in frozen]
        self.inner_optimizer.finalize_variable_values(var_list)
        for variable, value in zip(frozen, values):
            variable.assign(value)

    def save_own_variables(self, store):
        """Saves what GradES adds; Keras saves `inner_optimizer` itself."""
        for name, variable in self._saved().items():
            store[name] = variable.numpy()
        store[private.FINGERPRINT] = self._fingerprint()
        if len(store.keys()) == len(self.inner_optimizer.variables):
            # An optimizer like the wrapped one would take it for its own.
            store["not_of_the_inner_optimizer"] = np.zeros(1)

    def load_own_variables(self, store):
        """Loads what `save_own_variables` has saved, on any backend.

        Args:
            store: Mapping from a name to an array.

        Raises:
            ValueError: If it was saved for other components, or by another
                optimizer.
        """
        _check_fits(store, self._fingerprint(), self.components)
        for name, variable in self._saved().items():
            if name in store:
                variable.assign(store[name])

    def _saved(self):
        """The state by name. Last gradients go when their component goes."""
        previous = {
            f"previous_gradient_{self._trainable_variables_indices[key]}": v
            for key, v in self._previous.items()
        }
        return {
            **self.state,
            "statistic": self.statistic,
            "below": self.below,
            "converged_at": self.converged_at,
            **(self._relative_change.state if self._relative_change else {}),
            **self._released,
            **previous,
        }

    def _fingerprint(self):
        """One integer a component, by which a checkpoint's are compared.

        Not of names: those that Keras makes up differ between processes.
        """
        groups = [
            (c.role, c.shape, self._places(c.variables))
            for c in self.components
        ]
        return np.array(
            [zlib.crc32(repr(group).encode()) for group in groups], "int64"
        )

    def get_config(self):
        return {
            "inner_optimizer": keras.saving.serialize_keras_object(
                self.inner_optimizer
            ),
            "components": [self._component_config(c) for c in self.components],
            "tau": [float(tau) for tau in self.tau],
            "alpha": self.rule.alpha,
            "total_steps": self.total_steps,
            "monitor": self.rule.monitor,
            "norm": self.rule.norm,
            "patience": self.rule.patience,
            "interval": self.rule.interval,
            "cooldown": self.rule.cooldown,
            "thaw": self.rule.thaw,
            "followers": [
                {
                    "variables": self._places(group.variables),
                    "components": list(group.components),
                }
                for group in self.followers
            ],
            "name": self.name,
        }

    def _component_config(self, component):
        return {
            "name": component.name,
            "role": component.role,
            "block": component.block,
            "variables": self._places(component.variables),
        }

    def _places(self, variables):
        """The places of variables among those that it was built with."""
        if not self.built:
            raise ValueError(
                "A `GradESOptimizer` can be saved once it is built: its "
                "components are then known by their place among the "
                "trainable variables. Call "
                "`optimizer.build(model.trainable_variables)` first."
            )
        indices = self._trainable_variables_indices
        return [indices[self._var_key(v)] for v in variables]

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        config["inner_optimizer"] = keras.saving.deserialize_keras_object(
            config["inner_optimizer"], custom_objects=custom_objects
        )
        config["components"] = [Component(**c) for c in config["components"]]
        config["followers"] = [Followers(**f) for f in config["followers"]]
        return cls(**config)


def _bind(group, variables):
    """Gives a group its variables, where a config gave their places."""
    group.variables = tuple(
        variables[v] if isinstance(v, int) else v for v in group.variables
    )


def _check_can_cool_down(optimizer, variables):
    obstacles = {
        "moving averages of the weights (`use_ema`)": private.uses_averages(
            optimizer
        ),
        "constraints of weights": any(v.constraint for v in variables),
        "variables that are overwritten by their gradients (float8)": any(
            v.overwrite_with_gradient for v in variables
        ),
    }
    found = [name for name, is_there in obstacles.items() if is_there]
    if found:
        raise ValueError(
            "`cooldown` takes back a part of each update, which does not go "
            f"together with {', '.join(found)}. Use `cooldown=0`, or do "
            "without."
        )


def _check_knows(optimizer, variables):
    unknown = [v.path for v in variables if not private.knows(optimizer, v)]
    if unknown:
        raise ValueError(
            "`inner_optimizer` was built for other variables than those that "
            "are trainable now. Call `model.compile()` again after a change "
            "of `trainable`, or of the model. Not known to it: "
            f"{unknown[:8]}"
        )


def _check_fits(store, fingerprint, components):
    if private.FINGERPRINT not in store:
        raise ValueError(
            "The optimizer in this file was saved without GradES, and this "
            "one is a `GradESOptimizer`. Load the file before `fit()` begins, "
            "while the model has its own optimizer."
        )
    saved = np.asarray(store[private.FINGERPRINT])
    if len(saved) != len(fingerprint):
        raise ValueError(
            "The freeze state in this file does not fit the model: it is of "
            f"{len(saved)} components, and GradES tracks {len(fingerprint)} "
            "here. Use the model, the flags and the `components` and `tau` "
            "that it was saved with."
        )
    other = [
        c.name
        for c, differs in zip(components, saved != fingerprint)
        if differs
    ]
    if other:
        raise ValueError(
            "The freeze state in this file does not fit the model: its "
            "components have other roles or shapes, or come in another order. "
            "Use the model, the flags and the `components` that it was saved "
            f"with. Different here: {other[:8]}"
        )


def _check_inner_optimizer(optimizer):
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise TypeError(
            "`inner_optimizer` must be a `keras.optimizers.Optimizer`. "
            f"Received: {optimizer!r} of type {type(optimizer).__name__}"
        )
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        raise ValueError(
            "Loss scaling goes around GradES, so that it measures unscaled "
            "gradients. Use `LossScaleOptimizer(GradESOptimizer(inner))`. "
            "Received: a `LossScaleOptimizer` as `inner_optimizer`."
        )
    if any(
        inner.gradient_accumulation_steps
        for inner in getattr(optimizer, "optimizers", [])
    ):
        raise ValueError(
            "The optimizers in a `MultiOptimizer` must not accumulate "
            "gradients: there is no one step then. Give "
            "`gradient_accumulation_steps` to none of them. Received: "
            f"inner_optimizer={optimizer!r}"
        )
    if isinstance(optimizer, GradESOptimizer):
        raise ValueError(
            "A `GradESOptimizer` cannot wrap another one. Received: "
            f"inner_optimizer={optimizer!r}"
        )
