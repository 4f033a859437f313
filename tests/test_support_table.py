"""What the README says is supported is what is tested."""

import support_table


def test_readme_is_up_to_date():
    readme = support_table.README.read_text(encoding="utf-8")
    assert support_table.replaced(readme) == readme, (
        "Run `python tests/support_table.py`."
    )
