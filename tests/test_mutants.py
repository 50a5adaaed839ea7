"""Mutants fit the sources that they break; that they are caught is seen by running them."""

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]
MUTANTS = runpy.run_path(str(ROOT / "tests" / "mutants.py"))["MUTANTS"]


def test_each_edit_stands_once_in_its_source() -> None:
    sources = {m.file: Path(ROOT, m.file).read_text(encoding="utf-8") for m in MUTANTS}
    assert [m.name for m in MUTANTS if sources[m.file].count(m.old) != 1] == []
    assert len({m.name for m in MUTANTS}) == len(MUTANTS)


def test_the_readme_counts_them() -> None:
    readme = Path(ROOT, "README.md").read_text(encoding="utf-8")
    assert re.findall(r"breaks the RTL in (\d+) ways", readme) == [str(len(MUTANTS))]
