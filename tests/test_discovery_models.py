"""What is found in models written in every usual way."""

import pytest
from discovered import found_parts
from discovered import noted_parts
from discovered import roles
from user_models import USER_MODELS

from keras_grades import find_components

pytestmark = pytest.mark.alike


@pytest.mark.parametrize("kind", USER_MODELS)
def test_model_of_a_user(kind):
    model, parts = USER_MODELS[kind]()
    components = find_components(model)
    assert found_parts(components) == noted_parts(parts)
    names = [c.name for c in components]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "kind", ["sequential_feed_forward", "all_in_lists", "graph_of_models"]
)
def test_names_of_a_second_model(kind):
    """The names that Keras gives are numbered on; these are not."""
    first, second = (find_components(USER_MODELS[kind]()[0]) for _ in "12")
    assert roles(first) == roles(second)
