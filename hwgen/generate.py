"""From a configuration to files: Verilog, a JSON sidecar and a FuseSoC core."""

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from pe_library.shared import SharedComponent

from .accelerator.axi import REGISTERS, AxiAccelerator
from .accelerator.config import AcceleratorConfig
from .accelerator.registers import register_widths
from .array import SystolicArray
from .config import ArrayConfig
from .errors import UserError
from .verilog import emit_verilog, list_ports, tool_versions

__all__ = [
    "Generated",
    "check_output",
    "generate",
    "generate_accelerator",
    "save_array",
    "write_files",
]

Config = TypeVar("Config", ArrayConfig, AcceleratorConfig)
_DATAFLOW_WORDS = {"ws": "weight-stationary", "os": "output-stationary"}


@dataclass(frozen=True)
class Generated(Generic[Config]):
    """An emitted array or accelerator.

    Attributes
    ----------
    config : ArrayConfig or AcceleratorConfig
        What was asked for.
    verilog : str
        The text; the same to the byte for the same configuration and tool versions.
    sidecar : dict
        Plain data about it: configuration, ports, streams, latency, versions, hashes.
    """

    config: Config
    verilog: str
    sidecar: dict[str, Any]

    @property
    def files(self) -> dict[str, str]:
        """Name and text of each file: ``NAME.v``, ``NAME.json``, ``NAME.core``."""
        name = self.config.name
        return {
            f"{name}.v": self.verilog,
            f"{name}.json": json.dumps(self.sidecar, indent=2) + "\n",
            f"{name}.core": _fusesoc_core(name, self.sidecar.get("top", name)),
        }

    def write(self, directory: Path | str, *, force: bool = False) -> list[Path]:
        """Write the files, all or none; see :func:`write_files`."""
        return write_files(Path(directory), self.files, force=force)


def generate(config: ArrayConfig) -> Generated[ArrayConfig]:
    """Emit the array of a configuration."""
    array = SystolicArray(config)
    title = (
        f"{config.name}: {config.rows} rows x {config.cols} cols, "
        f"{_DATAFLOW_WORDS[config.dataflow]}, {config.accumulator.bits}-bit sums"
    )
    facts = {
        "latency_cycles": array.latency,
        "macs_per_cycle": config.macs_per_cycle,
        "ports": list_ports(array),
        "streams": array.layout(),
    }
    return _emitted(config, config, array, title, facts)


def generate_accelerator(config: AcceleratorConfig) -> Generated[AcceleratorConfig]:
    """Emit the accelerator of a configuration, on AXI; its module is ``NAME_axi``."""
    accelerator = AxiAccelerator(config)
    array = config.array
    title = (
        f"{config.name}: accelerator around {array.rows} rows x {array.cols} cols, "
        f"{_DATAFLOW_WORDS[array.dataflow]}, requantization by {config.requantize}"
    )
    facts = {
        "macs_per_cycle": array.macs_per_cycle,
        "top": accelerator.definition,
        "ports": list_ports(accelerator),
        "buffers": {
            name: {"words": words, "bits": bits} for name, (bits, words) in config.buffers.items()
        },
        "axi_lite": [
            {"name": r.name, "offset": r.offset, "access": r.access, "meaning": r.meaning}
            for r in REGISTERS
        ],
        "registers": [
            {"number": i, "name": name, "bits": bits}
            for i, (name, bits) in enumerate(register_widths(config).items())
        ],
    }
    return _emitted(config, array, accelerator, title, facts)


def _emitted(
    config: Config, array: ArrayConfig, top: SharedComponent, title: str, facts: dict[str, Any]
) -> Generated[Config]:
    """Return the Verilog of a component with a header, and a sidecar with what holds of all."""
    text = emit_verilog(top)
    versions = tool_versions()
    header = [
        title,
        f"PE: {array.pe!r}",
        "made by " + ", ".join(f"{tool} {number}" for tool, number in versions.items()),
        f"configuration sha256 {config.digest}",
        f"text below this header sha256 {hashlib.sha256(text.encode()).hexdigest()}",
    ]
    verilog = "".join(f"// {line}\n" for line in header) + text
    sidecar = {
        "name": config.name,
        "configuration": config.as_dict(),
        "configuration_sha256": config.digest,
        "verilog_sha256": hashlib.sha256(verilog.encode()).hexdigest(),
        "versions": versions,
        **facts,
    }
    return Generated(config, verilog, sidecar)


def _fusesoc_core(name: str, top: str) -> str:
    """Return a FuseSoC core description (CAPI2) of one Verilog file."""
    return f"""CAPI=2:
name: "hwgen:arrays:{name}:{version("hwgen")}"
description: "{name}, made by hwgen; {name}.json describes it"

filesets:
  rtl:
    files:
      - {name}.v
    file_type: verilogSource

targets:
  default: &default
    filesets: [rtl]
    toplevel: {top}
  lint:
    <<: *default
    default_tool: verilator
    tools:
      verilator:
        mode: lint-only
        verilator_options: [-Wall]
"""


def check_output(directory: Path, names: Sequence[str], *, force: bool) -> None:
    """Refuse, before any work is done, to replace what exists or to write where nobody may.

    Raises
    ------
    UserError
        If a file exists and ``force`` is not set, or the directory cannot be written.
    """
    existing = [str(directory / name) for name in names if (directory / name).exists()]
    if existing and not force:
        raise UserError(f"output {', '.join(existing)} exists; use --force to replace it")
    ancestor = directory
    while not ancestor.exists() and ancestor != ancestor.parent:
        ancestor = ancestor.parent
    if not ancestor.is_dir():
        raise UserError(f"output folder {directory} must be a folder; {ancestor} is a file")
    if not os.access(ancestor, os.W_OK | os.X_OK):
        raise UserError(f"output folder {directory} must be writable; {ancestor} is not")
    folders = [str(directory / name) for name in names if (directory / name).is_dir()]
    if folders:
        raise UserError(f"output {', '.join(folders)} must be a file, not a folder")


def write_files(
    directory: Path, files: Mapping[str, str | bytes], *, force: bool = False
) -> list[Path]:
    """Write files into a directory, made if need be.

    Everything is written aside first and renamed at the end, so an interruption leaves no half
    file. Files of these names that exist are refused, untouched, unless ``force``.

    Raises
    ------
    UserError
        If a file exists, or the directory cannot be made or written.
    """
    check_output(directory, list(files), force=force)
    paths = [directory / name for name in files]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory, prefix=".hwgen-") as aside:
            for name, content in files.items():
                data = content.encode() if isinstance(content, str) else content
                (Path(aside) / name).write_bytes(data)
            for path in paths:
                (Path(aside) / path.name).replace(path)
    except OSError as error:
        raise UserError(f"output folder {directory} must be writable: {error}") from error
    return paths


def save_array(path: Path, values: npt.NDArray[Any]) -> None:
    """Write an array as ``.npy`` at exactly this path, replacing what is there."""
    buffer = io.BytesIO()
    np.save(buffer, values)
    write_files(path.parent, {path.name: buffer.getvalue()}, force=True)
