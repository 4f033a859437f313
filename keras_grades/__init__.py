"""GradES for Keras 3: stop each matrix of a Transformer when it converges."""

from keras_grades.callback import GradES
from keras_grades.component import Component
from keras_grades.discovery import find_components
from keras_grades.optimizer import GradESOptimizer
from keras_grades.report import FreezeReport
from keras_grades.train_step import GradESMixin
from keras_grades.version import __version__

__all__ = [
    "Component",
    "FreezeReport",
    "GradES",
    "GradESMixin",
    "GradESOptimizer",
    "__version__",
    "find_components",
]
