"""Standard-cell libraries: a Liberty file, and what the ASIC flow needs to know of its cells.

Yosys reads the file: it is needed anyway, takes half a second for 13 MB, and gives areas, pin
capacitances and functions as gates, which is more than a reader of groups and attributes would.
Two things it does not pass on are looked up in the text: the unit of capacitance, and which cells
are marked ``dont_use``.
"""

import functools
import gzip
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwgen.errors import UserError
from testbench.tools import run_yosys

__all__ = ["LIBRARIES", "Cell", "Library", "load_library", "resolve_library"]

#: What Yosys calls the storage elements of the cells that it reads.
_FLIP_FLOP = re.compile(r"\$_(DFF|SDFF|ALDFF)")
_LATCH = re.compile(r"\$_(DLATCH|SR)")
#: Cells that look like logic and are none: delay lines, probes, cells of clock trees or between
#: power domains, holders of a bus, ties, and what fills a row.
_ODD_NAME = re.compile(
    r"dly|delay|probe|clk|lpflow|iso|hold|tie|conb|logic[01]|fill|decap|tap|antenna|diode", re.I
)

#: Libraries that are known by a name: where they are, below ``$PDK_ROOT`` or ``/``, and the command
#: that brings them.
LIBRARIES: Mapping[str, tuple[str, str]] = {
    "sky130": (
        "sky130A/libs.ref/sky130_fd_sc_hd/lib/sky130_fd_sc_hd__tt_025C_1v80.lib",
        "ciel enable --pdk-family sky130 VERSION",
    ),
    "gf180mcu": (
        "gf180mcuD/libs.ref/gf180mcu_fd_sc_mcu7t5v0/lib/gf180mcu_fd_sc_mcu7t5v0__tt_025C_5v00.lib",
        "ciel enable --pdk-family gf180mcu VERSION",
    ),
    "ihp-sg13g2": (
        "ihp-sg13g2/libs.ref/sg13g2_stdcell/lib/sg13g2_stdcell_typ_1p20V_25C.lib",
        "ciel enable --pdk-family ihp-sg13g2 VERSION",
    ),
    "osu018": (
        "/usr/share/qflow/tech/osu018/osu018_stdcells.lib",
        "apt install qflow-tech-osu018",
    ),
}


@dataclass(frozen=True)
class Cell:
    """A cell of a library.

    Attributes
    ----------
    area : float
        In the library's unit, µm² in all libraries we know.
    inputs : mapping
        Capacitance of each input pin, in fF.
    outputs : tuple of str
        Output pins.
    clocks : tuple of str
        Clock pins of a flip-flop.
    flip_flop, buffer : bool
        Whether it stores on a clock edge; whether it is one input and one output that equals it.
    usable : bool
        Whether synthesis may use it.
    """

    area: float
    inputs: Mapping[str, float]
    outputs: tuple[str, ...]
    clocks: tuple[str, ...]
    flip_flop: bool
    buffer: bool
    usable: bool


@dataclass(frozen=True, eq=False)
class Library:
    """A Liberty file.

    Attributes
    ----------
    name : str
        As the file names it.
    text : str
        The file, uncompressed.
    sha256 : str
        Of the text, whatever the file is packed in.
    femtofarads, nanoseconds : float
        Its units of capacitance and time. Its unit of internal energy is that of capacitance, times
        1 V².
    voltage : float
        Nominal, in V.
    cells : mapping
        All cells by name.
    """

    name: str
    text: str
    sha256: str
    femtofarads: float
    nanoseconds: float
    voltage: float
    cells: Mapping[str, Cell]

    @property
    def dont_use(self) -> tuple[str, ...]:
        """Names of the cells that synthesis must not use."""
        return tuple(name for name, cell in self.cells.items() if not cell.usable)

    @property
    def flip_flops(self) -> tuple[str, ...]:
        """Names of the cells that store on a clock edge and may be used."""
        return tuple(n for n, cell in self.cells.items() if cell.flip_flop and cell.usable)

    @property
    def buffers(self) -> tuple[str, ...]:
        """Names of the buffers that may be used, by area, which grows with the drive."""
        found = [(cell.area, n) for n, cell in self.cells.items() if cell.buffer and cell.usable]
        return tuple(name for _, name in sorted(found))

    @property
    def tree_buffer(self) -> str:
        """The buffer that trees are built of, and that stands for what drives a unit's inputs.

        The one nearest to twice the area of the smallest: that is drive 4 in NanGate45, sky130 and
        SG13G2, and the greater of OSU018's two.
        """
        size = 2 * self.cells[self.buffers[0]].area
        return min(self.buffers, key=lambda name: abs(self.cells[name].area - size))


def resolve_library(name: str) -> Path | None:
    """Return where a library of :data:`LIBRARIES` is on this machine; None if it is not.

    ``$PDK_ROOT`` (``~/.ciel`` if it is not set, as for ``ciel``) is laid out as ``ciel`` does it.

    Raises
    ------
    UserError
        If the name is not known.
    """
    if name not in LIBRARIES:
        known = ", ".join(LIBRARIES)
        raise UserError(f"library must be the path of a Liberty file or one of {known}, not {name}")
    place = Path(os.environ.get("PDK_ROOT") or Path.home() / ".ciel") / LIBRARIES[name][0]
    return place if place.is_file() else None


@functools.lru_cache(maxsize=8)
def load_library(path: Path) -> Library:
    """Read a Liberty file, plain or compressed by gzip.

    Raises
    ------
    UserError
        If it cannot be read, is not Liberty, or cannot serve: no flip-flops, no buffer.
    """
    text = _read(path)
    # Comments may hold braces, and cells that are switched off.
    bare = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    head = re.search(r"\blibrary\s*\(\s*\"?([^\")]+?)\"?\s*\)\s*\{", bare)
    if head is None:
        raise UserError(f"library {path} must be a Liberty file; it holds no library group")
    opened, closed = bare.count("{"), bare.count("}")
    if opened != closed:
        raise UserError(
            f"library {path} must have balanced groups; {opened} are opened and {closed} closed"
        )
    if not re.search(r"\bff(_bank)?\s*\(", bare):
        raise UserError(f"library {path} must hold flip-flops, and it has none")
    marked = _marked(bare)
    femtofarads, nanoseconds, voltage = _units(path, bare)
    cells = {
        name: _cell(name, module, femtofarads, name in marked)
        for name, module in _modules(path, text).items()
    }
    library = Library(
        head[1],
        text,
        hashlib.sha256(text.encode()).hexdigest(),
        femtofarads,
        nanoseconds,
        voltage,
        cells,
    )
    for what, found in (("flip-flops", library.flip_flops), ("buffers", library.buffers)):
        if not found:
            raise UserError(f"library {path} must hold {what} that may be used, and it has none")
    return library


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"library {path} must be a readable file: {error.strerror}") from error
    packed = path.suffix == ".gz"
    if packed or data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, ValueError) as error:
            raise UserError(f"library {path} must be a whole gzip file: {error}") from error
    return data.decode(errors="replace")


def _marked(text: str) -> set[str]:
    """Return the cells that the library itself says not to use."""
    cell, marked = "", set()
    for head, mark in re.findall(
        r"\bcell\s*\(\s*\"?([^\")\s]+)\"?\s*\)\s*\{|\b(dont_use\s*:\s*\"?true)", text
    ):
        cell = head or cell
        if mark:
            marked.add(cell)
    return marked


def _units(path: Path, text: str) -> tuple[float, float, float]:
    """Return the units of capacitance in fF and of time in ns, and the nominal voltage in V."""
    found = []
    for name, pattern in (
        ("capacitive_load_unit", r"\(\s*\"?([\d.]+)\"?\s*,\s*\"?([fp])f"),
        ("time_unit", r":\s*\"?([\d.]+)\s*([pn])s"),
        ("nom_voltage", r":\s*\"?([\d.]+)()"),
    ):
        match = re.search(rf"\b{name}\s*{pattern}", text, re.I)
        if match is None:
            raise UserError(f"library {path} must give its {name}, in a unit that is known")
        found.append(float(match[1]) * _SCALE[name, match[2].lower()])
    return found[0], found[1], found[2]


_SCALE = {
    ("capacitive_load_unit", "f"): 1.0,
    ("capacitive_load_unit", "p"): 1000.0,
    ("time_unit", "p"): 0.001,
    ("time_unit", "n"): 1.0,
    ("nom_voltage", ""): 1.0,
}


def _modules(path: Path, text: str) -> Mapping[str, Any]:
    """Return the cells as Yosys reads them, a module each."""
    # Cells without function (clock gates, fillers) are read as boxes instead of refused.
    script = (
        "read_liberty -wb -ignore_miss_func -ignore_miss_dir -ignore_miss_data_latch "
        "library.lib; write_json cells.json"
    )
    try:
        cells = run_yosys(script, {"library.lib": text}, ["cells.json"])["cells.json"]
    except RuntimeError as error:
        said = str(error).splitlines()[0]
        raise UserError(
            f"library {path} must be a Liberty file that Yosys reads: {said}"
        ) from error
    return json.loads(cells)["modules"]


def _cell(name: str, module: Mapping[str, Any], unit: float, marked: bool) -> Cell:
    wires = module["netnames"]
    pins = {
        direction: {
            pin: p["bits"] for pin, p in module["ports"].items() if p["direction"] == direction
        }
        for direction in ("input", "output", "inout")
    }
    gates = {gate["type"] for gate in module["cells"].values()}
    driven = {bit for bits in pins["input"].values() for bit in bits} | {"0", "1"}
    for gate in module["cells"].values():
        for pin, direction in gate["port_directions"].items():
            if direction == "output":
                driven.update(gate["connections"][pin])
    functional = bool(pins["output"]) and all(
        bit in driven for bits in pins["output"].values() for bit in bits
    )
    logic = not any(_LATCH.match(gate) or gate in ("$_TBUF_", "$tribuf") for gate in gates)
    clocks = {
        bit
        for gate in module["cells"].values()
        for bit in gate["connections"].get("C", [])
        if _FLIP_FLOP.match(gate["type"])
    }
    return Cell(
        area=float(module["attributes"].get("area", 0)),
        inputs={
            pin: unit * float(wires[pin]["attributes"].get("capacitance", 0))
            for pin in pins["input"]
        },
        outputs=tuple(pins["output"]),
        clocks=tuple(pin for pin, bits in pins["input"].items() if clocks & {*bits}),
        flip_flop=any(map(_FLIP_FLOP.match, gates)),
        buffer=not gates and len(pins["input"]) == 1 and len(pins["output"]) == 1 and functional,
        usable=(
            functional and logic and not pins["inout"] and not marked and not _ODD_NAME.search(name)
        ),
    )
