"""What a run did, as data, as text and as a picture."""

from keras_grades.report.report import FreezeReport

__all__ = ["FreezeReport"]
