"""The tables in the pages are those that the code writes."""

import inspect

import argument_table
import pages
import pytest
import support_table

from keras_grades import GradES


@pytest.mark.parametrize(
    ("path", "name", "module"),
    [
        (pages.SUPPORT, "support table", support_table),
        (pages.README, "argument table", argument_table),
    ],
)
def test_up_to_date(path, name, module):
    text = path.read_text(encoding="utf-8")
    command = f"python tests/{module.__name__}.py"
    new = pages.replaced(path, name, module.table())
    assert new == text, f"Run: {command}"


def test_the_readme_stays_short():
    assert len(pages.README.read_text(encoding="utf-8").split()) < 1000


def test_every_argument_is_documented():
    parameters = list(inspect.signature(GradES).parameters)
    assert parameters.pop() == "retired"
    assert list(argument_table.documented()) == parameters
