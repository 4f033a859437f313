"""The tables in the README are those that the code writes."""

import inspect

import argument_table
import pytest
import readme
import support_table

from keras_grades import GradES


@pytest.mark.parametrize(
    ("name", "module"),
    [("support table", support_table), ("argument table", argument_table)],
)
def test_up_to_date(name, module):
    text = readme.PATH.read_text(encoding="utf-8")
    command = f"python tests/{module.__name__}.py"
    assert readme.replaced(name, module.table()) == text, f"Run: {command}"


def test_every_argument_is_documented():
    parameters = list(inspect.signature(GradES).parameters)
    assert parameters.pop() == "retired"
    assert list(argument_table.documented()) == parameters
