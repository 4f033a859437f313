"""Where the backward pass may end: what may be frozen below frozen blocks."""

from keras_grades.truncation.followers import find_followers

__all__ = ["find_followers"]
