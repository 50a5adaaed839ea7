"""Loading a bitstream into a board, with openFPGALoader where it is installed."""

import shlex
import shutil
import subprocess
from pathlib import Path

from hwgen.errors import UserError

from .build import read_build

__all__ = ["LOADER_BOARDS", "load_bitstream", "loader_command"]

#: What openFPGALoader calls the boards (its doc/boards.yml); the others are left to the cable that
#: it finds.
LOADER_BOARDS = {
    "icebreaker": "ice40_generic",
    "icebreaker_bitsy": "icebreaker-bitsy",
    "ice40_hx8k_b_evn": "ice40_generic",
    "icestick": "ice40_generic",
    "ice40_up5k_b_evn": "ice40_generic",
    "fomu_pvt": "fomu",
    "ulx3s_12f": "ulx3s", "ulx3s_25f": "ulx3s", "ulx3s_45f": "ulx3s", "ulx3s_85f": "ulx3s",
    "orangecrab_r0_2": "orangeCrab",
    "orangecrab_r0_2_25f": "orangeCrab",
    "orangecrab_r0_2_85f": "orangeCrab",
    "colorlight_5a75b_r7_0": "colorlight",
    "ecp5_5g_evn": "ecp5_evn",
    "ecpix5_45": "ecpix5", "ecpix5_85": "ecpix5",
    "arty_a7_35": "arty_a7_35t", "arty_a7_100": "arty_a7_100t",
    "arty_s7_25": "arty_s7_25", "arty_s7_50": "arty_s7_50",
    "cmod_a7_35": "cmoda7_35t", "cmod_s7": "cmod_s7",
    "genesys2": "genesys2", "kc705": "kc705",
    "tang_nano": "tangnano",
    "tang_nano_9k": "tangnano9k",
    "tang_primer_20k": "tangprimer20k",
    "tang_primer_20k_dock": "tangprimer20k",
    "tang_primer_20k_lite": "tangprimer20k",
}  # fmt: skip


def loader_command(folder: Path) -> list[str]:
    """Return the command that loads a build.

    Raises
    ------
    UserError
        If the folder holds no build.
    """
    description = read_build(folder)
    board = LOADER_BOARDS.get(description["board"])
    options = ["-b", board] if board else []
    return ["openFPGALoader", *options, str(folder / description["bitstream"])]


def load_bitstream(folder: Path) -> str:
    """Load a build with openFPGALoader; return the command.

    Raises
    ------
    UserError
        If the folder holds no build, openFPGALoader is not installed (it names the command), or
        it fails.
    """
    command = loader_command(folder)
    text = shlex.join(command)
    if shutil.which(command[0]) is None:
        raise UserError(
            f"openFPGALoader must be installed (for example apt install openfpgaloader) to run: "
            f"{text}"
        )
    run = subprocess.run(command, check=False)
    if run.returncode:
        raise UserError(f"{text} failed with exit status {run.returncode}")
    return text
