"""Networks that others made, for the tests of the front ends."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def find_model(name: str) -> Path:
    """Return a file of the models' folder, or skip the test.

    The folder is named by the environment variable HWGEN_MODELS; without it, `../shared/models`
    beside the repository is tried.
    """
    folder = Path(os.environ.get("HWGEN_MODELS", ROOT.parent / "shared" / "models"))
    path = folder / name
    if not path.is_file():
        pytest.skip(f"no {path}: set HWGEN_MODELS to a folder that holds {name}")
    return path


@pytest.fixture
def model_path() -> Callable[[str], Path]:
    """Return :func:`find_model`: `model_path(name)` in a test."""
    return find_model
