"""Bitstreams: what is written, what is refused, and with which words."""

import json
import re
import tomllib
from pathlib import Path

import pytest

import boards.build
from boards.build import Build, build_auto, read_build, to_toml
from boards.catalog import BOARDS, XILINX_BOARDS, find_board
from boards.designs import all_designs, designs_of
from boards.flow import check_capacity, kit_of
from boards.pll import settings
from boards.program import LOADER_BOARDS, loader_command
from boards.top import make_top
from hwgen.accelerator.config import AcceleratorConfig
from hwgen.cli import main
from hwgen.errors import UserError
from testbench.tools import JobFailed

SMALL = {
    "pe": "lightpe1", "rows": 1, "cols": 1, "activation_buffer": 512, "weight_buffer": 512,
    "accumulator_buffer": 256, "parameter_buffer": 256, "requantize": "shift", "loop_bits": 8,
}  # fmt: skip


def flags(options: dict) -> list[str]:
    return [word for name, value in options.items()
            for word in (f"--{name.replace('_', '-')}", str(value))]  # fmt: skip


def small_build(board: str = "ice40_hx8k_b_evn", **parameters) -> Build:
    config = AcceleratorConfig.from_options(SMALL)
    return Build(board=find_board(board), config=config, options=SMALL, **parameters)


# ---- real tools ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A bitstream of the smallest accelerator for a board."""
    folder = tmp_path_factory.mktemp("board")
    words = ["build", "--board", "ice40_hx8k_b_evn", *flags(SMALL), "--seeds", "1", "--clock", "24"]
    assert main([*words, "--store", str(folder / "store"), "--output", str(folder / "out")]) == 0
    return folder / "out"


def test_what_is_written(built: Path) -> None:
    found = read_build(built)
    assert {path.name for path in built.iterdir()} == {
        "ice40_hx8k_b_evn.bin", "board.json", "core.v", "top.v", "top.pcf", "accelerator.toml"
    }  # fmt: skip
    assert (built / found["bitstream"]).read_bytes()[:4] == b"\xff\x00\x00\xff"  # as IceStorm's
    assert found["clock_hz"] == 24e6 <= found["fmax_hz"]
    used, available = found["utilization"]["lut"]
    assert 500 < used < available == 7680
    assert found["resources"]["bram"] >= 4
    config = AcceleratorConfig.from_options(tomllib.loads((built / "accelerator.toml").read_text()))
    assert config.digest == found["configuration_sha256"]
    assert re.search(r"\w+ -> \w+", found["slowest_path"])
    assert "link" in found["slowest_path"] or "accelerator" in found["slowest_path"]


def test_program_names_the_command(built: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("PATH", "")
    assert main(["program", str(built)]) == 2
    bitstream = built / "ice40_hx8k_b_evn.bin"
    assert f"openFPGALoader -b ice40_generic {bitstream}" in capsys.readouterr().err


def test_a_damaged_build(built: Path, tmp_path: Path, capsys) -> None:
    assert main(["program", str(tmp_path)]) == 2
    assert "must be a folder that `hwgen build` wrote" in capsys.readouterr().err
    (tmp_path / "board.json").write_text((built / "board.json").read_text())
    assert main(["virtual-board", str(tmp_path)]) == 2
    assert "lacks ice40_hx8k_b_evn.bin, core.v, top.v" in capsys.readouterr().err


# ---- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (["--board", "ulx3"], "board must be one that `hwgen boards` lists, not 'ulx3'"),
        (["--board", "fomu_pvt"], "board fomu_pvt has no UART of its own"),
        (["--clock", "13"], "clock must be one that the PLL can make of 12 MHz, not 13 MHz"),
        (["--clock", "900"], "clock must be from 1 to 400 MHz, not 900"),
        (["--clock", "24", "--baud", "11000000"], "baud must be within 2 % of the core clock"),
        (["--baud", "1"], "baud must be an integer from 300 to 12000000, not 1"),
        (["--seeds", "0"], "seeds must be an integer from 1 to 100, not 0"),
        (["--uart-pins", "A1"], "--uart-pins must be 2 pins of the FPGA, RX,TX, not 'A1'"),
        (["--spi-pins", "A1,A2,A1,A3"], "--spi-pins must be 4 pins of the FPGA, SCK,MOSI,MISO,CS"),
        (["--uart-pins", "A1,A2", "--spi-pins", "B1,B2,B3,B4"], "--uart-pins must be left out"),
        (["--auto-clock", "--clock", "24"], "--auto-clock must be given without --clock"),
        (["--pe", "int9"], "int9"),
        (["--rows", "0"], "rows must be an integer from 1 to 1024, not 0"),
    ],
)
def test_bad_input(changed: list[str], sentence: str, tmp_path: Path, capsys) -> None:
    words = ["build", "--board", "ice40_hx8k_b_evn", *flags(SMALL), *changed]
    words += ["--store", str(tmp_path / "store"), "--output", str(tmp_path / "out")]
    assert main(words) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_does_not_fit_says_by_how_much() -> None:
    with pytest.raises(JobFailed, match=r"it needs 9,000 LUT of 7,680, 40 BRAM of 32$") as error:
        check_capacity({"lut": 9000, "ff": 10, "bram": 40, "dsp": 0}, BOARDS["ice40_hx8k_b_evn"])
    assert error.value.status == "does-not-fit"


def test_does_not_fit_names_what_finds_what_does(tmp_path: Path, monkeypatch, capsys) -> None:
    def too_large(*_):
        raise JobFailed("does-not-fit", "it needs 9,000 LUT of 7,680")

    monkeypatch.setattr(boards.build, "map_build", too_large)
    words = ["build", "--board", "ice40_hx8k_b_evn", *flags(SMALL)]
    assert main([*words, "--store", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "1×1 lightpe1 cannot be built for ice40_hx8k_b_evn: it needs 9,000 LUT of 7,680" in said
    assert "`hwgen fit --board ice40_hx8k_b_evn --pe lightpe1`" in said
    assert not (tmp_path / "out").exists()


# ---- the highest clock -----------------------------------------------------------------------


class Routed:
    """What a design reaches, by a formula in place of the tools."""

    def __init__(self, megahertz: float) -> None:
        self.result = {"fmax": megahertz, "path": ["a", "b"], "logic_levels": 3}


def test_a_clock_that_is_missed_writes_nothing(tmp_path: Path, monkeypatch, capsys) -> None:
    def attempt(build, _store, setting, _say):
        assert build.divisor(setting)
        return boards.build.Built(setting, "", None, 1, {}, Routed(23.9))

    monkeypatch.setattr(boards.build, "attempt", attempt)
    words = ["build", "--board", "ice40_hx8k_b_evn", *flags(SMALL), "--clock", "24"]
    assert main([*words, "--store", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "clock of 24 MHz is not met: the best of 3 seeds reaches 23.9 MHz" in said
    assert "its slowest path is a -> b (3 levels of logic)" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("reaches", [lambda _: 61.0, lambda hz: 61.0 - hz / 1e8])
def test_auto_clock_is_the_highest_that_is_met(reaches, monkeypatch) -> None:
    tried = []

    def attempt(build, _store, setting, _say):
        tried.append(setting.hz)
        assert build.divisor(setting)
        return boards.build.Built(setting, "", None, 1, {}, Routed(reaches(setting.hz)))

    monkeypatch.setattr(boards.build, "attempt", attempt)
    build = small_build("ulx3s_25f")
    built = build_auto(build, None, lambda _: None)
    assert built.met
    better = [s.hz for s in settings("ecp5", 25e6)
              if built.setting.hz < s.hz <= reaches(s.hz) * 1e6]  # fmt: skip
    assert not better
    assert len(tried) == len(set(tried)) <= 6


def test_auto_clock_of_what_meets_none(monkeypatch) -> None:
    def attempt(build, _store, setting, _say):
        assert build.divisor(setting)
        return boards.build.Built(setting, "", None, 1, {}, Routed(1.0))

    monkeypatch.setattr(boards.build, "attempt", attempt)
    with pytest.raises(UserError, match=r"^no clock of the PLL is met; the design reaches 1.0 MHz"):
        build_auto(small_build("ulx3s_25f"), None, lambda _: None)


# ---- tops and files --------------------------------------------------------------------------


@pytest.mark.parametrize("board", [b for b in BOARDS.values() if b.link != "none"], ids=str)
def test_a_top_has_its_pins(board) -> None:
    if board.platform().default_clk == "OSC":
        with pytest.raises(UserError, match="must have a clock pin"):
            make_top(board, settings(board.family, board.clock_hz)[0], "core")
        return
    for setting in (settings(board.family, board.clock_hz)[0],
                    settings(board.family, board.clock_hz)[-1]):  # fmt: skip
        top = make_top(board, setting, "core")
        for name in ("rx", "tx"):
            assert top.pins[name] in top.constraints
            assert top.pins[name] in top.verilog
        assert ("pll" in top.verilog) == bool(setting.parameters)
    assert kit_of(board).bitstream.startswith("top.")


def test_a_build_without_a_configuration_is_our_own_design(tmp_path: Path, monkeypatch) -> None:
    built = []
    monkeypatch.setattr(boards.build, "write_build", lambda build, *_, **__: built.append(build))
    with pytest.raises(TypeError):  # nothing was built that could be printed
        main(["build", "--board", "icebreaker", "--output", str(tmp_path / "out")])
    design = designs_of(BOARDS["icebreaker"])[0]
    assert built[0].hz == design.clock_mhz * 1e6
    assert design.options.items() <= built[0].options.items()


def test_designs_are_of_first_class_boards_and_valid() -> None:
    assert {d.board for d in all_designs()} == {b for b in BOARDS.values() if b.first_class}
    for design in all_designs():
        build = Build.of(design.board, design.options, hz=design.clock_mhz * 1e6)
        assert build.setting().hz == pytest.approx(design.clock_mhz * 1e6, rel=1e-3)
        assert build.divisor(build.setting()) >= 4


def test_toml_is_read_back() -> None:
    options = {"pe": "int8", "rows": 4, "pe_options": {"multiplier": "logic", "lanes": 2}}
    assert tomllib.loads(to_toml(options)) == options


def test_loader_knows_only_boards_that_are() -> None:
    assert set(LOADER_BOARDS) <= set(BOARDS | XILINX_BOARDS)


def test_loader_command_without_a_name(tmp_path: Path) -> None:
    for name in ("a.bin", "core.v", "top.v"):
        (tmp_path / name).write_text("")
    described = {"board": "nandland_go", "bitstream": "a.bin"}
    (tmp_path / "board.json").write_text(json.dumps(described))
    assert loader_command(tmp_path) == ["openFPGALoader", str(tmp_path / "a.bin")]
