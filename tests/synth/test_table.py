"""Tables: canonical text, read back; what is wrong in a file is a sentence with line and column."""

import csv
import io
import random
import sys

import numpy as np
import pytest

from hwgen.errors import UserError
from synth.table import (
    COLUMNS,
    canonical,
    identity,
    label,
    labels,
    read_table,
    table_text,
    units_text,
    write_parquet,
    write_table,
)


def test_columns():
    names = [column.name for column in COLUMNS]
    assert len(set(names)) == len(names)
    assert {column.kind for column in COLUMNS} == {"identity", "result", "provenance"}
    assert all(column.meaning for column in COLUMNS)
    assert [c.name for c in COLUMNS if c.type is float and not c.unit] == []
    # Every number of the rows is told in the table's words.
    assert "energy__mac__trained__glitch" in names
    assert names.index("flow__objective") < names.index("flow__status") < names.index("flow__seeds")


def test_units_file():
    lines = list(csv.reader(io.StringIO(units_text())))
    assert lines[0] == ["column", "unit", "meaning"]
    assert [line[0] for line in lines[1:]] == [column.name for column in COLUMNS]
    assert ["timing__fmax", "MHz"] in [line[:2] for line in lines]


def test_round_trip(tmp_path, samples):
    rows = samples.table()
    path = tmp_path / "new" / "table.csv"
    write_table(path, rows)
    assert read_table(path) == rows
    first = path.read_bytes()
    write_table(path, read_table(path))
    assert path.read_bytes() == first
    assert b"\r" not in first
    assert [file.name for file in path.parent.iterdir()] == ["table.csv"]


def test_order_of_rows_does_not_matter(samples):
    rows = samples.table()
    shuffled = [dict(reversed(row.items())) for row in rows]
    random.Random(1).shuffle(shuffled)
    assert table_text(shuffled) == table_text(rows)


def test_order_is_natural(samples):
    rows = canonical(
        [samples.fpga(pe, (size, size)) for pe in ("int16", "int8") for size in (16, 2, 8)]
    )
    assert [(row["design__pe"], row["design__rows"]) for row in rows] == [
        ("int8", 2), ("int8", 8), ("int8", 16), ("int16", 2), ("int16", 8), ("int16", 16)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1 + 0.2, "0.3"), (123456.0, "123460"), (100.0, "100"), (1.23456e-7, "1.2346e-07"),
        (-0.0, "0"), (5, "5"), (np.float32(0.1), "0.1"), (None, ""), (1e22, "1e+22"),
    ],
)  # fmt: skip
def test_floats(value, text, samples):
    (_, line) = csv.reader(io.StringIO(table_text([samples.fpga("int8", flow__area_error=value)])))
    names = [column.name for column in COLUMNS]
    assert line[names.index("flow__area_error")] == text


def test_text_stays_on_one_line(tmp_path, samples):
    message = 'nextpnr says:\n\t"no, \r\nnever"; see place.log'
    row = samples.failed(flow__message=message)
    write_table(tmp_path / "t.csv", [row])
    assert (tmp_path / "t.csv").read_text().count("\n") == 2
    (found,) = read_table(tmp_path / "t.csv")
    assert found["flow__message"] == 'nextpnr says: "no, never"; see place.log'


def test_not_measured_is_not_zero(samples):
    (row,) = canonical([samples.asic("int8")])
    assert row["design__dsp__count"] is None
    (row,) = canonical([samples.fpga("int8")])
    assert row["design__dsp__count"] == 0
    assert row["power__leakage"] is None


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"power": 1}, ValueError, "column must be one of COLUMNS, not 'power'"),
        ({"timing__fmax": float("nan")}, ValueError, "timing__fmax must be finite, not nan"),
        ({"timing__fmax": "fast"}, TypeError, "timing__fmax must be a finite number, not 'fast'"),
        ({"timing__fmax": True}, TypeError, "timing__fmax must be a finite number, not True"),
        ({"design__lut__count": 2.5}, TypeError, "design__lut__count must be an integer, not 2.5"),
        ({"design__rows": None}, ValueError, "design__rows must be given"),
        ({"design__pe": ""}, ValueError, "design__pe must be given"),
        ({"flow__target": 4}, TypeError, "flow__target must be text, not 4"),
        ({"flow__status": ""}, ValueError, "flow__status must be one of ok, .*, not ''"),
    ],
)  # fmt: skip
def test_rows_that_are_refused(change, error, message, samples):
    with pytest.raises(error, match=f"^{message}$"):
        table_text([samples.fpga("int8", **change)])


def test_same_point_twice(samples):
    with pytest.raises(ValueError, match="identity column, not be twice int8 4×4 ws ecp5-85k"):
        table_text([samples.fpga("int8"), samples.fpga("int8", timing__fmax=1.0)])


# ---- reading -------------------------------------------------------------------------------------


def test_missing_file(tmp_path):
    with pytest.raises(
        UserError, match=r"^table .*none\.csv must be a readable CSV file: .*No such"
    ):
        read_table(tmp_path / "none.csv")


def test_folder(tmp_path):
    with pytest.raises(UserError, match="must be a readable CSV file: "):
        read_table(tmp_path)


def test_not_text(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\x80\x81PAR1\xff")
    with pytest.raises(UserError, match=r"^table .*t\.csv must be text in UTF-8: "):
        read_table(tmp_path / "t.csv")


def test_empty_file(tmp_path):
    (tmp_path / "t.csv").write_text("")
    with pytest.raises(UserError, match=r"is missing: 'design__unit', .*, \.\.\.$"):
        read_table(tmp_path / "t.csv")


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("timing__fmax,", "fmax,", "t.csv, line 1: must name .* of these is unknown: 'fmax'$"),
        ("timing__fmax,", "", "line 1: .* is missing: 'timing__fmax'$"),
        ("timing__fmax,", "timing__fmax,timing__fmax,", "line 1: .* is repeated: 'timing__fmax'$"),
        (",186.4,", ",fast,", "line 2: timing__fmax must be a finite number or empty, not 'fast'$"),
        (",186.4,", ",nan,", "line 2: timing__fmax must be a finite number or empty, not 'nan'$"),
        (",2790,", ",2790.5,", "line 2: design__lut__count must be an integer or empty, not '2790.5'$"),
        (",2790,", "," + 5000 * "9" + ",", "line 2: design__lut__count must be an integer"),
        (",ok,", ",okay,", "line 2: flow__status must be one of ok, .*, not 'okay'$"),
        ("array,int8", "array,", "line 2: design__pe must be given$"),
        (",186.4,", ",", "line 2: must have 48 fields, not 47$"),
        (",booth,", ',"booth"s,', "line 2: must be CSV: "),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(old, new, message, tmp_path, samples):
    path = tmp_path / "t.csv"
    write_table(path, [samples.fpga("int8"), samples.fpga("int16")])
    assert len(COLUMNS) == len(COLUMNS)
    edit(path, old, new)
    with pytest.raises(UserError, match=message):
        read_table(path)


def test_line_of_a_duplicate(tmp_path, samples):
    path = tmp_path / "t.csv"
    write_table(path, [samples.fpga("int8"), samples.fpga("lightpe1")])
    path.write_text(path.read_text() + path.read_text().splitlines()[1] + "\n")
    with pytest.raises(UserError, match="line 4: must be another point than line 2: int8 4×4 ws"):
        read_table(path)


def test_a_spreadsheet_may_have_saved_it(tmp_path, samples):
    path = tmp_path / "t.csv"
    write_table(path, samples.table())
    lines = [line.split(",") for line in table_text(samples.table()).splitlines()]
    assert lines
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_table(path) == samples.table()


# ---- names ---------------------------------------------------------------------------------------


def test_labels(samples):
    assert label(samples.fpga("int8")) == "int8 4×4 ws ecp5-85k"
    assert label(samples.asic("int8")) == "int8 pe ws nangate45"
    assert label(samples.asic("int8", design__pe_options="weight_bits=4")) == (
        "int8 weight_bits=4 pe ws nangate45"
    )


def test_labels_tell_rows_apart(samples):
    rows = [
        samples.fpga("int8"),
        samples.fpga("int8", flow__objective="fmax"),
        samples.fpga("int16"),
    ]
    assert list(labels(rows).values()) == [
        "int8 4×4 ws ecp5-85k objective=area_delay",
        "int8 4×4 ws ecp5-85k objective=fmax",
        "int16 4×4 ws ecp5-85k",
    ]
    assert set(labels(rows)) == {identity(row) for row in rows}
    rows = samples.table()
    assert len(set(labels(rows).values())) == len(rows)


# ---- Parquet -------------------------------------------------------------------------------------


def test_parquet(tmp_path, samples):
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = samples.table()
    write_parquet(tmp_path / "t.parquet", rows)
    found = parquet.read_table(tmp_path / "t.parquet")
    assert found.to_pylist() == rows
    field = found.schema.field("timing__fmax")
    assert field.metadata[b"unit"] == b"MHz"
    assert str(field.type) == "double"
    assert str(found.schema.field("design__lut__count").type) == "int64"


def test_parquet_without_pyarrow(tmp_path, monkeypatch, samples):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(
        UserError, match=r"^pyarrow must be installed: pip install 'hwgen\[parquet\]'$"
    ):
        write_parquet(tmp_path / "t.parquet", samples.table())
