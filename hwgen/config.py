"""The configuration of an array: everything that decides its RTL, in one frozen object.

The same names serve in Python, in TOML files and as command-line flags
(:meth:`ArrayConfig.from_options`).
"""

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pe_library import Accumulator, ProcessingElement, get_pe
from pe_library.accumulator import OVERFLOWS
from pe_library.checks import check_choice, check_integer

from .keywords import RESERVED

__all__ = ["ArrayConfig"]

#: The longest reduction an output-stationary array holds unless told otherwise: ResNet's 512·3·3.
DEFAULT_MAX_K = 4608
#: Widest bus at an edge, in bits; beyond it neither Amaranth nor a simulator stays usable.
MAX_EDGE_BITS = 1 << 16


@dataclass(frozen=True, kw_only=True)
class ArrayConfig:
    """A systolic array.

    Parameters
    ----------
    pe : ProcessingElement
        The processing element, with its own parameters (``lanes`` and ``pipeline`` among them).
    rows, cols : int
        Shape, each 1 to 1024.
    dataflow : str
        ``"ws"`` (weight-stationary) or ``"os"`` (output-stationary).
    accumulator_bits : int, optional
        Width of the sums, 2 to 64; if None, :attr:`exact_bits`.
    overflow : str
        ``"error"``: refuse a width that is not exact. ``"wrap"`` or ``"saturate"``: accept it, with
        that meaning (:class:`~pe_library.accumulator.Accumulator`).
    max_k : int, optional
        Output-stationary: the longest reduction of one pass, 1 to 2**20 (4608 if None); a longer
        one is split into passes. Weight-stationary: None, a pass always sums ``rows * lanes``.
    name : str
        Verilog name of the array, and of its files.

    Raises
    ------
    TypeError, ValueError
        With a sentence that names the parameter, the value and what is allowed.
    """

    pe: ProcessingElement
    rows: int
    cols: int
    dataflow: Literal["ws", "os"] = "ws"
    accumulator_bits: int | None = None
    overflow: Literal["error", "wrap", "saturate"] = "error"
    max_k: int | None = None
    name: str = "array"

    def __post_init__(self) -> None:
        if not isinstance(self.pe, ProcessingElement):
            raise TypeError(f"pe must be a ProcessingElement, not {self.pe!r}")
        check_integer("rows", self.rows, 1, 1024)
        check_integer("cols", self.cols, 1, 1024)
        check_choice("dataflow", self.dataflow, ("ws", "os"))
        check_choice("overflow", self.overflow, OVERFLOWS)
        if self.max_k is not None:
            check_integer("max_k", self.max_k, 1, 1 << 20)
            if self.dataflow == "ws":
                raise ValueError(
                    "max_k must be left out with dataflow 'ws', where a pass sums rows * lanes "
                    f"products, not {self.max_k}"
                )
        if (
            not isinstance(self.name, str)
            or not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", self.name)
            or self.name in RESERVED
        ):
            raise ValueError(
                "name must be a Verilog identifier of lower-case letters, digits and underscores "
                f"that begins with a letter and is not reserved, not {self.name!r}"
            )
        bits = self.accumulator.bits  # checks accumulator_bits
        if self.overflow == "error" and bits < self.exact_bits:
            raise ValueError(
                f"accumulator_bits must be at least {self.exact_bits} to hold a sum of "
                f"{self.pass_depth} products exactly, not {bits} (or choose overflow 'wrap' or "
                "'saturate')"
            )
        pe = self.pe
        for what, width in (
            ("rows * lanes * activation bits", self.rows * pe.lanes * pe.activation.bits),
            ("cols * lanes * weight bits", self.cols * pe.lanes * pe.weight.bits),
            ("cols * accumulator bits", self.cols * bits),
        ):
            if width > MAX_EDGE_BITS:
                raise ValueError(f"{what} must be at most {MAX_EDGE_BITS}, not {width}")

    # ---- derived -----------------------------------------------------------------------------

    @property
    def pass_depth(self) -> int:
        """Products summed in one pass of the array, padding included."""
        if self.dataflow == "ws":
            return self.rows * self.pe.lanes
        return -(-(self.max_k or DEFAULT_MAX_K) // self.pe.lanes) * self.pe.lanes

    @property
    def exact_bits(self) -> int:
        """The least width that holds every sum of :attr:`pass_depth` products."""
        return max(2, self.pe.accumulator_bits(self.pass_depth))

    @property
    def accumulator(self) -> Accumulator:
        """Width and overflow of the sums."""
        bits = self.exact_bits if self.accumulator_bits is None else self.accumulator_bits
        return Accumulator(bits, self.overflow)

    @property
    def latency(self) -> int:
        """Cycles from a beat of activations (output-stationary: a pass's last) to its first sums.

        One register at the operands, ``pipeline`` inside the PE and one at the sum; one more for
        each further row and column on the way to the far corner.
        """
        return self.rows + self.cols + self.pe.pipeline

    @property
    def macs_per_cycle(self) -> int:
        """Products the array makes in one cycle."""
        return self.rows * self.cols * self.pe.lanes

    # ---- plain data --------------------------------------------------------------------------

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "ArrayConfig":
        """Make a configuration of plain options, as a TOML file or the command line has them.

        ``pe`` is a registered name; ``lanes``, ``pipeline`` and the table ``pe_options`` replace
        its fields. All other options are the parameters of this class; ``name`` is the PE's
        unless given.
        """
        options = dict(options)
        allowed = (*cls.__dataclass_fields__, "lanes", "pipeline", "pe_options")
        for option in options:
            if option not in allowed:
                raise ValueError(f"option must be one of {', '.join(allowed)}, not {option!r}")
        for option in ("pe", "rows", "cols"):
            if option not in options:
                raise ValueError(f"{option} must be given")
        pe_name = options.pop("pe")
        if not isinstance(pe_name, str):
            raise TypeError(f"pe must be the name of a registered PE, not {pe_name!r}")
        pe_options = options.pop("pe_options", {})
        if not isinstance(pe_options, Mapping):
            raise TypeError(f"pe_options must be a table of names and values, not {pe_options!r}")
        pe_options = dict(pe_options)
        for option in ("lanes", "pipeline"):
            if option in options and option in pe_options:
                raise ValueError(f"{option} must be given once, not in pe_options too")
            if option in options:
                pe_options[option] = options.pop(option)
        return cls(**{"name": pe_name, **options}, pe=get_pe(pe_name, **pe_options))

    @staticmethod
    def read_options(path: Path) -> dict[str, Any]:
        """Read the options of a TOML file.

        Raises
        ------
        ValueError
            If the file cannot be read or is not TOML.
        """
        try:
            return tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise ValueError(f"config file {path} must be readable TOML: {error}") from error

    def as_dict(self) -> dict[str, Any]:
        """Describe the configuration as plain data, derived values resolved."""
        return {
            "name": self.name,
            "pe": self.pe.as_dict(),
            "rows": self.rows,
            "cols": self.cols,
            "dataflow": self.dataflow,
            "accumulator_bits": self.accumulator.bits,
            "overflow": self.overflow,
            "pass_depth": self.pass_depth,
        }

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form, 64 hexadecimal digits."""
        canonical = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()
