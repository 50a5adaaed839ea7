"""Checks of parameters, with one shape of sentence: "<what> must be <rule>, not <value>"."""

from collections.abc import Iterable
from typing import Any

import numpy as np

__all__ = ["check_choice", "check_integer"]


def check_integer(what: str, value: Any, least: int, most: int) -> None:
    """Raise TypeError unless ``value`` is an integer, ValueError unless it is in the range."""
    rule = f"{what} must be an integer from {least} to {most}, not {value!r}"
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(rule)
    if not least <= value <= most:
        raise ValueError(rule)


def check_choice(what: str, value: Any, choices: Iterable[Any]) -> None:
    """Raise ValueError unless ``value`` is one of ``choices`` (and of the same type)."""
    choices = tuple(choices)
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        allowed = ", ".join(map(repr, choices))
        raise ValueError(f"{what} must be one of {allowed}, not {value!r}")
