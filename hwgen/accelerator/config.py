"""The configuration of an accelerator, and the sizes that follow from it."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hwgen.config import ArrayConfig
from hwgen.network.requantize import LONG_SUM_BITS, SUM_BITS
from pe_library.checks import check_choice, check_integer
from pe_library.formats import Bipolar, Integer

__all__ = ["REQUANTIZE", "AcceleratorConfig"]

REQUANTIZE = ("multiplier", "shift", "threshold")
#: Widths of the stream of commands, data and results.
STREAM_BITS = (64, 128, 256, 512)
LAYOUTS = ("packed", "aligned")


@dataclass(frozen=True, kw_only=True)
class AcceleratorConfig:
    """An accelerator: an array between buffers, with post-processing and a sequencer.

    Parameters
    ----------
    array : ArrayConfig
        The array, of either dataflow. Its activations are integers or bipolar.
    activation_buffer, weight_buffer, accumulator_buffer, parameter_buffer : int
        Capacity in bytes, rounded up to whole words: activations of all layers that live at the
        same time; weights in the order in which the array takes them; sums of ``cols`` channels,
        ``sum_bits`` each; bias and requantization of ``cols`` channels.
    requantize : str
        ``"multiplier"`` (TFLite), ``"shift"`` (power-of-two scales, ties to even) or
        ``"threshold"`` (FINN's MultiThreshold).
    thresholds : int
        Thresholds of each channel, 1 to 255; with ``requantize="threshold"`` only.
    stream_bits : int
        Width of the streams outside: 64, 128, 256 or 512.
    layout : str
        ``"packed"``: a pixel takes a whole number of vectors of ``cols`` codes. ``"aligned"``: of
        ``rows * lanes`` codes, too, so that no vector is rotated; for more activation memory
        in layers of few channels, far less logic in front of an array that takes wide vectors. One
        of the two lengths must be a power of two times the other.
    loop_bits : int
        Width of loop counters and of places in a tensor, 6 to 16: a tensor has less than
        ``2**(loop_bits - 1)`` rows and columns, a kernel at most ``2**loop_bits`` channel blocks.
    sum_bits : int
        Width of sums with their bias, and of thresholds, 8 to 48; 0 stands for 32, or 48 with
        activations of more than 8 bits. A network whose sums might be wider is refused.
    register_sets : int
        2, so that registers of a run are set while the one before goes on, or 1, so that they wait.
    weight_ports : int
        2, so that weights are loaded while a run reads others, or 1, so that loads of weights wait
        and the memory needs one port only, as the SPRAM of an iCE40 UltraPlus has it.
    register_slices : int
        1, so that registers end the long ways (from the buffers to the array, from there to
        accumulation and into it, into the activation buffer, to the host), which wide arrays need
        to be fast; or 0, for less logic and a few cycles less of each run.

    Raises
    ------
    TypeError, ValueError
        With a sentence that names the parameter, the value and what is allowed.
    """

    array: ArrayConfig
    activation_buffer: int = 65536
    weight_buffer: int = 65536
    accumulator_buffer: int = 65536
    parameter_buffer: int = 16384
    requantize: Literal["multiplier", "shift", "threshold"] = "multiplier"
    thresholds: int = 0
    stream_bits: int = 64
    layout: Literal["packed", "aligned"] = "packed"
    loop_bits: int = 16
    sum_bits: int = 0
    register_sets: int = 2
    weight_ports: int = 2
    register_slices: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.array, ArrayConfig):
            raise TypeError(f"array must be an ArrayConfig, not {self.array!r}")
        if self.array.overflow != "error":
            raise ValueError(
                f"overflow must be 'error' in an accelerator, not {self.array.overflow!r}"
            )
        activation = self.array.pe.activation
        if not isinstance(activation, Integer | Bipolar):
            raise ValueError(
                "pe must have integer or bipolar activations in an accelerator, not "
                f"{activation!r} of {self.array.name!r}"
            )
        check_integer("loop_bits", self.loop_bits, 6, 16)
        if self.array.rows > 1 << self.loop_bits:
            raise ValueError(
                f"loop_bits must be at least {(self.array.rows - 1).bit_length()} with "
                f"{self.array.rows} rows, not {self.loop_bits}"
            )
        if self.sum_bits == 0:
            default = SUM_BITS if activation.bits <= 8 else LONG_SUM_BITS
            object.__setattr__(self, "sum_bits", default)
        check_integer("sum_bits", self.sum_bits, 8, 48)
        if self.array.accumulator.bits > self.sum_bits:
            raise ValueError(
                f"accumulator_bits must be at most {self.sum_bits} in an accelerator, not "
                f"{self.array.accumulator.bits}"
            )
        check_choice("requantize", self.requantize, REQUANTIZE)
        if self.requantize == "threshold":
            check_integer("thresholds", self.thresholds, 1, 255)
        elif self.thresholds:
            raise ValueError(
                f"thresholds must be left out with requantize {self.requantize!r}, not "
                f"{self.thresholds}"
            )
        if isinstance(activation, Bipolar) and self.requantize != "threshold":
            raise ValueError(
                f"requantize must be 'threshold' with bipolar activations, not {self.requantize!r}"
            )
        check_choice("stream_bits", self.stream_bits, STREAM_BITS)
        check_integer("register_sets", self.register_sets, 1, 2)
        check_integer("weight_ports", self.weight_ports, 1, 2)
        check_integer("register_slices", self.register_slices, 0, 1)
        check_choice("layout", self.layout, LAYOUTS)
        if self.layout == "aligned" and not self.aligned:
            raise ValueError(
                "layout must be 'packed' unless one of rows * lanes and cols is a power of two "
                f"times the other, not 'aligned' with {self.read_codes} and {self.array.cols}"
            )
        for name in ("activation", "weight", "accumulator", "parameter"):
            field = f"{name}_buffer"
            check_integer(field, getattr(self, field), 1, 1 << 27)
        for name, words in (
            ("activation_buffer", self.activation_words),
            ("weight_buffer", self.weight_words),
            ("accumulator_buffer", self.accumulator_words),
            ("parameter_buffer", self.parameter_words),
        ):
            if not 2 <= words <= 1 << 24:
                raise ValueError(
                    f"{name} must hold 2 to {1 << 24} words, not {words} "
                    f"({getattr(self, name)} bytes)"
                )

    # ---- words -------------------------------------------------------------------------------

    @property
    def read_codes(self) -> int:
        """Codes that enter the array in a cycle, and that are read: ``rows * lanes``."""
        return self.array.rows * self.array.pe.lanes

    @property
    def value_bits(self) -> int:
        """Width of what an activation's code stands for, signed: also of zero points and bounds."""
        return self.array.pe.activation.bits + 1

    @property
    def pads(self) -> bool:
        """Whether places outside of a tensor are read: bipolar codes have none for them."""
        return not isinstance(self.array.pe.activation, Bipolar)

    @property
    def granule(self) -> int:
        """Codes between the addresses of the activation buffer."""
        return math.gcd(self.read_codes, self.array.cols)

    @property
    def granule_bits(self) -> int:
        """Bits between them."""
        return self.granule * self.array.pe.activation.bits

    @property
    def vector(self) -> int:
        """Granules that are read at once: for the array, or for ``cols`` channels past it."""
        return max(self.read_codes, self.array.cols) // self.granule

    @property
    def aligned(self) -> bool:
        """Whether all vectors begin at multiples of their length.

        They do so in either layout if the array takes ``cols`` codes or a part of them.
        """
        multiple = self.granule == min(self.read_codes, self.array.cols)
        power = self.vector & (self.vector - 1) == 0
        free = self.layout == "aligned" or self.read_codes <= self.array.cols
        return multiple and power and free

    @property
    def word(self) -> int:
        """Granules in a word of the activation buffer: what LOAD and STORE move."""
        return self.vector if self.aligned else 1

    @property
    def activation_bits(self) -> int:
        """Width of that word."""
        return self.word * self.granule_bits

    @property
    def weight_bits(self) -> int:
        """Width of a word of the weight buffer: what enters the array in a cycle."""
        return self.array.cols * self.array.pe.lanes * self.array.pe.weight.bits

    @property
    def channel_bits(self) -> int:
        """Width of the parameters of one channel: bias first, then what requantization needs."""
        if self.requantize == "multiplier":
            return self.sum_bits + 31 + 6
        if self.requantize == "shift":
            return self.sum_bits + 6
        # The bias has the first threshold in it, which is 0.
        return self.thresholds * self.sum_bits + self.array.pe.activation.bits + 1

    @property
    def parameter_bits(self) -> int:
        """Width of a word of the parameter buffer: all columns of the array."""
        return self.array.cols * self.channel_bits

    @property
    def activation_words(self) -> int:
        """Words in the activation buffer."""
        return -(-8 * self.activation_buffer // self.activation_bits)

    @property
    def granules(self) -> int:
        """Granules in the activation buffer."""
        return self.activation_words * self.word

    @property
    def weight_words(self) -> int:
        """Words in the weight buffer."""
        return -(-8 * self.weight_buffer // self.weight_bits)

    @property
    def accumulator_words(self) -> int:
        """Vectors of ``cols`` sums in the accumulator buffer."""
        return -(-8 * self.accumulator_buffer // (self.array.cols * self.sum_bits))

    @property
    def parameter_words(self) -> int:
        """Words in the parameter buffer."""
        return -(-8 * self.parameter_buffer // self.parameter_bits)

    @property
    def buffers(self) -> dict[str, tuple[int, int]]:
        """Width of a word in bits and number of words, of each buffer."""
        return {
            "activation": (self.activation_bits, self.activation_words),
            "weight": (self.weight_bits, self.weight_words),
            "parameter": (self.parameter_bits, self.parameter_words),
            "accumulator": (self.array.cols * self.sum_bits, self.accumulator_words),
        }

    @property
    def slice_domain(self) -> Literal["sync", "comb"]:
        """Domain of what is a register slice, or a wire."""
        return "sync" if self.register_slices else "comb"

    # ---- plain data --------------------------------------------------------------------------

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> "AcceleratorConfig":
        """Make a configuration of plain options, those of the array among them."""
        own = {name: options[name] for name in cls.__dataclass_fields__ if name in options}
        rest = {name: value for name, value in options.items() if name not in own}
        if "array" in own:
            raise ValueError("array must be given by its own options, such as rows and cols")
        try:
            return cls(array=ArrayConfig.from_options(rest), **own)
        except ValueError as error:
            text = str(error)
            if text.startswith("option must be one of "):
                allowed = ", ".join(n for n in cls.__dataclass_fields__ if n != "array")
                text = text.replace("option must be one of ", f"option must be one of {allowed}, ")
            raise ValueError(text) from None

    @property
    def name(self) -> str:
        """Verilog name of the accelerator: that of its array."""
        return self.array.name

    def as_dict(self) -> dict[str, Any]:
        """Describe the configuration as plain data."""
        own = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "array"}
        return {"array": self.array.as_dict(), **own}

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form, 64 hexadecimal digits."""
        canonical = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()
