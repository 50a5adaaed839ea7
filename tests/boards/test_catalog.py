"""The boards: every one of amaranth-boards that open tools can build for, and nothing else."""

import importlib
import inspect
import json
import pkgutil

import amaranth_boards
import pytest

import boards.catalog
from boards.catalog import BOARDS, find_board, list_boards
from boards.flow import CAPACITIES
from boards.measured import read_rows, write_rows
from hwgen.cli import main
from hwgen.errors import UserError

FIRST_CLASS = {
    "icebreaker", "ice40_hx8k_b_evn", "ulx3s_25f", "ulx3s_85f", "orangecrab_r0_2_25f",
    "colorlight_5a75b_r7_0", "tang_nano_9k",
}  # fmt: skip


def open_platforms() -> set[str]:
    """Return module and class of each platform whose tools are IceStorm, Trellis or Apicula."""
    found = set()
    for module in pkgutil.iter_modules(amaranth_boards.__path__):
        if module.ispkg:
            continue
        code = importlib.import_module(f"amaranth_boards.{module.name}")
        for name, kind in inspect.getmembers(code, inspect.isclass):
            if kind.__module__ != code.__name__ or name.startswith("_"):
                continue
            try:
                toolchain = getattr(kind(), "toolchain", None)
            except (TypeError, ValueError):  # a resource, or a part that Amaranth does not know
                continue
            if toolchain in ("IceStorm", "Trellis", "Apicula"):
                found.add(f"{module.name}:{name}")
    return found


def test_every_board_with_open_tools_is_listed() -> None:
    assert {board.platform_path for board in BOARDS.values()} == open_platforms()


def test_first_class_boards() -> None:
    assert {board.name for board in BOARDS.values() if board.first_class} == FIRST_CLASS


@pytest.mark.parametrize("board", BOARDS.values(), ids=str)
def test_a_board_describes_itself(board) -> None:
    assert board.family in ("ice40", "ecp5", "gowin")
    assert board.clock_hz > 1e6
    assert board.size in CAPACITIES
    assert board.target.router is not None
    assert board.complete({"pe": "bnn64"})["requantize"] == "threshold"


def test_the_largest_that_was_measured_is_listed(tmp_path, monkeypatch, capsys) -> None:
    fits, designs = tmp_path / "fits.csv", tmp_path / "designs.csv"
    head = "board,pe,rows,cols,clock_mhz"
    fits.write_text(
        f"{head}\nulx3s_25f,int8,8,4,25\nulx3s_25f,bnn64,4,4,25\nicestick,int8,0,0,12\n"
    )
    designs.write_text(f"{head}\norangecrab_r0_2_25f,int8,8,4,50\nulx3s_25f,bnn64,2,2,100\n")
    monkeypatch.setattr(boards.catalog, "FITS", fits)
    monkeypatch.setattr(boards.catalog, "DESIGNS", designs)
    found = {board["name"]: board["fits"] for board in list_boards()}
    for name in ("ulx3s_25f", "colorlight_5a75b_r7_0"):
        assert [(f["pe"], f["rows"], f["cols"], f["clock_mhz"]) for f in found[name]] == [
            ("bnn64", 4, 4, 25), ("int8", 8, 4, 50)]  # fmt: skip
    assert found["ulx3s_85f"] == []
    assert main(["boards"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["icestick"].endswith("no int8")
    assert lines["ulx3s_85f"].endswith(" -")


def test_a_row_that_is_measured_again_replaces_one_and_no_other(tmp_path) -> None:
    table = tmp_path / "table.csv"
    rows = [{"board": board, "pe": pe, "rows": 1} for board in ("b", "a") for pe in ("y", "x")]
    assert read_rows(table) == []
    write_rows(table, rows, "ab")
    write_rows(table, [*read_rows(table), {"board": "a", "pe": "y", "rows": 2}], "ab")
    found = [(row["board"], row["pe"], row["rows"]) for row in read_rows(table)]
    assert found == [("a", "y", "2"), ("a", "x", "1"), ("b", "y", "1"), ("b", "x", "1")]


def test_unknown_board() -> None:
    with pytest.raises(UserError, match=r"not 'ulx3s'; did you mean ulx3s_"):
        find_board("ulx3s")


def test_list(capsys) -> None:
    assert main(["boards", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in entries] == list(BOARDS)
    assert entries == list_boards()
    assert main(["boards"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(BOARDS) + 1
    assert "arty_a7_35" in lines[-1]
