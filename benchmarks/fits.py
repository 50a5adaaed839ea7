"""The largest arrays that boards hold, for `hwgen boards`: one line for each FPGA and PE.

    python benchmarks/fits.py [--board B ...] [--pe P ...] [--seeds N]

Runs `hwgen fit` at the clock of the board's oscillator, with our defaults for its FPGA, and
replaces the lines of the boards that are asked for in `boards/fits.csv`.
"""

import argparse
import sys
from pathlib import Path

from boards.build import Build, describe
from boards.catalog import BOARDS, find_board
from boards.fit import fit
from boards.measured import FITS, read_rows, write_rows
from hwgen.errors import UserError
from synth.store import Store
from synth.sweep import default_store

#: A board for each FPGA, smallest first.
ONE_EACH = ("icestick", "tang_nano", "icebreaker", "ice40_hx8k_b_evn", "tang_nano_9k",
            "tang_primer_20k", "ulx3s_25f", "ulx3s_45f", "ulx3s_85f")  # fmt: skip


def main() -> int:
    """Find, and write after each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--board", action="append")
    parser.add_argument("--pe", action="append")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--store", type=Path)
    arguments = parser.parse_args()
    store = Store(arguments.store or default_store())
    for name in arguments.board or ONE_EACH:
        for pe in arguments.pe or ("lightpe1", "int8", "bnn64"):
            board = find_board(name)
            build = Build.of(board, {"pe": pe, "rows": 1, "cols": 1}, seeds=arguments.seeds)
            row = {"board": name, "device": board.device, "pe": pe, "rows": 0, "cols": 0,
                   "clock_mhz": f"{build.setting().hz / 1e6:g}", "fmax_mhz": "",
                   "seeds": arguments.seeds, "reason": ""}  # fmt: skip
            try:
                found, built = fit(
                    build, {"pe": pe}, store, lambda text: print(text, file=sys.stderr)
                )
            except UserError as error:
                row |= {"reason": str(error)}
            else:
                described = describe(found, built)
                array = found.config.array
                row |= {"rows": array.rows, "cols": array.cols,
                        "fmax_mhz": f"{described['fmax_hz'] / 1e6:.1f}"}  # fmt: skip
            write_rows(FITS, [*read_rows(FITS), row], BOARDS)
            print(f"{name} {pe}: {row['rows']}×{row['cols']} {row['reason']}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
