"""Settings of the tests, and the networks that others made.

Property tests are the same on every run, and show what they tried.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "hwgen",
    derandomize=True,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("hwgen")

ROOT = Path(__file__).resolve().parents[1]


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
