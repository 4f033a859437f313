"""Every private name of Keras that GradES needs, once.

Each has a test in `tests/test_keras_internals_*.py` that fails when Keras
renames it or changes its meaning.
"""
