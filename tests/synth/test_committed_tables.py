"""The tables in the repository are what their sweeps say, and canonical to the byte."""

from pathlib import Path

import pytest

from synth.sweep import read_sweep
from synth.table import identity, read_table, table_text, units_text

SYNTH = Path(__file__).resolve().parents[2] / "synth"


def test_units():
    assert (SYNTH / "tables" / "units.csv").read_text(encoding="utf-8") == units_text()


@pytest.mark.parametrize("name", ["ci", "presets"])
def test_canonical(name):
    path = SYNTH / "tables" / f"{name}.csv"
    rows = read_table(path)
    assert path.read_text(encoding="utf-8") == table_text(rows)
    for row in rows:
        assert row["flow__tools"]
        assert row["flow__command"].startswith("hwgen characterize ")
        assert len(row["flow__inputs_sha256"]) == 64
        assert row["flow__source"] == "measured"
        if row["design__pe"].startswith(("lightpe", "bnn")):
            assert row["design__dsp__count"] in (None, 0)


def test_ci_table_is_of_its_sweep():
    points = read_sweep(SYNTH / "sweeps" / "ci.toml", {})
    rows = read_table(SYNTH / "tables" / "ci.csv")
    assert {identity(row) for row in rows} == {tuple(p.identity().values()) for p in points}
    assert {row["flow__status"] for row in rows} == {"ok"}
