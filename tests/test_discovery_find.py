"""`find_components`: selections, errors, and the table that it prints."""

import keras
import numpy as np
import pytest
from discovered import describe
from markers import marks_long_on
from small import transformer
from written_models import Classifier
from written_models import FlatBlock

from keras_grades import Component
from keras_grades import find_components
from keras_grades.component import ROLES
from keras_grades.component import ComponentList

# What is found does not depend on the backend.
pytestmark = marks_long_on("jax", "tensorflow")


def test_include_and_exclude():
    model = transformer()
    everything = find_components(model)
    for selection in ("attention", lambda c: not c.role.startswith("ffn")):
        chosen = find_components(model, include=selection)
        assert describe(chosen) == describe(
            c for c in everything if "attention" in c.name
        )
        rest = find_components(model, exclude=selection)
        assert describe(rest) == describe(
            c for c in everything if "attention" not in c.name
        )
    both = find_components(model, include="block_1", exclude="attention")
    assert [c.name for c in both] == ["block_1_up", "block_1_down"]


@pytest.mark.parametrize(
    "selection",
    [{"include": "nothing_like_it"}, {"exclude": "."}],
    ids=["include", "exclude"],
)
def test_selection_that_leaves_nothing(selection):
    with pytest.raises(ValueError, match="block_0_attention/query"):
        find_components(transformer(), **selection)


@pytest.mark.parametrize("argument", ["include", "exclude"])
def test_selection_of_another_type(argument):
    with pytest.raises(TypeError, match=f"{argument}=3"):
        find_components(transformer(), **{argument: 3})
    with pytest.raises(ValueError, match=argument):
        find_components(transformer(), **{argument: "("})


def test_model_that_is_frozen():
    model = transformer()
    model.trainable = False
    with pytest.raises(ValueError, match="trainable"):
        find_components(model)


@pytest.mark.parametrize("model", [None, "bert", keras.layers.Dense])
def test_what_is_no_model(model):
    with pytest.raises(TypeError, match="model"):
        find_components(model)


@pytest.mark.parametrize(
    "model",
    [
        lambda: Classifier([FlatBlock()]),
        lambda: keras.Sequential([FlatBlock()]),
    ],
    ids=["subclassed", "sequential"],
)
def test_model_that_is_not_built(model):
    with pytest.raises(ValueError, match="build"):
        find_components(model())


def test_components_print_as_a_table():
    components = find_components(transformer())
    assert isinstance(components, ComponentList)
    assert all(type(c) is Component and c.role in ROLES for c in components)
    assert all(c.frozen_at is None for c in components)
    header, _, *rows, total = str(components).splitlines()
    assert header.split() == ["name", "role", "block", "shape", "parameters"]
    assert rows[0].split() == [
        "block_0_attention/query",
        "query",
        "block_0",
        "(8,",
        "2,",
        "4)",
        "64",
    ]
    assert len(rows) == 12
    size = sum(int(np.prod(v.shape)) for c in components for v in c.variables)
    assert total == f"12 components in 2 blocks, {size:,} parameters"
