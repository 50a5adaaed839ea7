"""Imports go one way: pe_library <- hwgen <- testbench <- synth <- boards; the CLI may use all."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = ["pe_library", "hwgen", "testbench", "synth", "boards"]
FILES = [path for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Return the top-level packages that a file imports, relative imports resolved."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert "*" not in [alias.name for alias in node.names], f"{path}: star import"
            if node.level == 0:
                found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_import_points_up(path):
    floor = FLOORS.index(path.relative_to(ROOT).parts[0])
    above = set(FLOORS[floor + 1 :]) | {"tests"}
    if path.is_relative_to(ROOT / "hwgen" / "cli"):
        above = {"tests"}
    assert not imported(path) & above


def test_pe_library_needs_amaranth_and_numpy_only():
    import sys

    allowed = {"amaranth", "numpy", *sys.stdlib_module_names, ""}
    for path in FILES:
        if path.is_relative_to(ROOT / "pe_library"):
            assert imported(path) <= allowed, path
