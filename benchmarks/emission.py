"""Emission: hwgen against plain Amaranth conversion of the very same array, in one run.

    python benchmarks/emission.py [--pe int8] [--sizes 8 16 32 64] [--alone 256]

Plain conversion is `amaranth.back.verilog.convert` of the same component, which writes a module for
each instance. Sizes after `--alone` are emitted by hwgen only.
"""

import argparse

from amaranth.back import verilog
from common import conditions, cpu_seconds

from hwgen.array import SystolicArray
from hwgen.config import ArrayConfig
from hwgen.generate import generate


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pe", default="int8")
    parser.add_argument("--sizes", type=int, nargs="*", default=[8, 16, 32, 64])
    parser.add_argument("--alone", type=int, nargs="*", default=[256])
    arguments = parser.parse_args()
    print(conditions(pe=arguments.pe), "\n")
    print("| array | hwgen s | modules | kB | plain Amaranth s | modules | kB | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for size in arguments.sizes + arguments.alone:
        config = ArrayConfig.from_options({"pe": arguments.pe, "rows": size, "cols": size})
        with cpu_seconds() as used:
            ours = generate(config).verilog
            our_seconds = used()
        row = f"| {size}×{size} | {our_seconds:.2f} | {ours.count('endmodule')} "
        row += f"| {len(ours) / 1000:.0f} "
        if size in arguments.alone:
            print(row + "| | | | |", flush=True)
            continue
        with cpu_seconds() as used:
            plain = verilog.convert(SystolicArray(config), name="top", emit_src=False,
                                    strip_internal_attrs=True)  # fmt: skip
            seconds = used()
        print(
            f"{row}| {seconds:.2f} | {plain.count('endmodule')} | {len(plain) / 1000:.0f} "
            f"| {seconds / our_seconds:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
