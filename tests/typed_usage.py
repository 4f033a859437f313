"""The public API as a type checker sees it: `make lint` checks this file."""

from typing import Any
from typing import assert_type

import keras
import numpy as np
from matplotlib.figure import Figure

import keras_grades


def use_callback(model: keras.Model) -> None:
    grades = keras_grades.GradES(
        tau={"query": 1e-3, ".*": 0.02},
        alpha=100,
        monitor="weight_change",
        components=lambda component: component.role == "query",
        recompile=4,
    )
    keras_grades.GradES(cooldown=0.5)
    with grades as entered:
        assert_type(entered, keras_grades.GradES)
        model.fit(callbacks=[grades])
    grades.restore()
    assert_type(grades.components, list[keras_grades.Component])
    assert_type(grades.stopped_step, int | None)
    assert_type(grades.trace, dict[str, np.ndarray])
    assert_type(grades.report, keras_grades.FreezeReport)


def use_components(model: keras.Model) -> None:
    components = keras_grades.find_components(model, exclude="block_0")
    component = components[0]
    assert_type(component, keras_grades.Component)
    assert_type(component.name, str)
    assert_type(component.role, str)
    assert_type(component.block, str)
    assert_type(component.frozen_at, int | None)
    assert_type(component.shape, tuple[int, ...])
    optimizer = keras_grades.GradESOptimizer(
        keras.optimizers.Adam(), components, total_steps=1000
    )
    optimizer.build(model.trainable_variables)


def use_report(report: keras_grades.FreezeReport) -> None:
    assert_type(report.to_dict(), dict[str, Any])
    assert_type(report.summary(), str)
    assert_type(report.plot("report.png"), Figure)
    report.to_html("report.html")
    report.to_json("report.json")
