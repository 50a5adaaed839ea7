"""What a run of the accelerator is told: registers, written by SET and taken over by RUN.

A run has six loops. Two go over pixels of the output; three are summed over: channel blocks of the
input, kernel columns, kernel rows; the last goes over channel blocks of the output. How they are
nested depends on the dataflow (:class:`Loops`).
"""

from dataclasses import dataclass

from amaranth.lib import data

from .config import AcceleratorConfig

__all__ = [
    "BLOCK_LOOP",
    "LOOPS",
    "MODES",
    "Loops",
    "loops_of",
    "register_widths",
    "registers_layout",
]

#: Number of loops, and the outermost: channel blocks of the output.
LOOPS = 6
BLOCK_LOOP = 5
#: Bits of the register ``mode``: sums come past the array; are maxima; results go to the host, as
#: sums.
MODES = {"direct": 0, "maximum": 1, "to_host": 2, "raw": 3}


@dataclass(frozen=True)
class Loops:
    """Which loop is what; loop 0 is innermost.

    Attributes
    ----------
    pixels : (inner, outer)
        Over pixels of the output.
    summed : (channel blocks, kernel columns, kernel rows)
        Summed over.
    """

    pixels: tuple[int, int]
    summed: tuple[int, int, int]

    @property
    def out(self) -> tuple[int, ...]:
        """Loops that move the place of a result."""
        return (*self.pixels, BLOCK_LOOP)

    @property
    def inside(self) -> tuple[int, ...]:
        """Loops over results of which each has one sum in a pass."""
        return tuple(loop for loop in self.out if loop < self.summed[0])

    @property
    def outside(self) -> tuple[int, ...]:
        """Loops over results that are made one after the other."""
        return tuple(loop for loop in self.out if loop > self.summed[0])


#: Weight-stationary: a pass goes over all pixels of the run, and passes are summed outside the
#: array. Output-stationary: a pass goes over the sums of as many pixels as the array has rows.
_LOOPS = {"ws": Loops((0, 1), (2, 3, 4)), "os": Loops((0, 4), (1, 2, 3))}


def loops_of(config: AcceleratorConfig) -> Loops:
    """Return the order of the loops."""
    return _LOOPS[config.array.dataflow]


def register_widths(config: AcceleratorConfig) -> dict[str, int]:
    """Return the width of each register, in the order of their numbers.

    ``act_*``, ``out_*``: addresses in the activation buffer, of what is read and written; ``y_*``,
    ``x_*``: the place in the input, and ``height``, ``width``: where it ends; outside of it, and in
    the granules from ``tail`` on of the last channel block, the code ``pad`` is read (bipolar
    tensors have no outside, and no such places). ``direct_*``:
    zero point, shifts and multiplier of the two inputs of an addition (of pooling: the first);
    bipolar activations have none, and thresholds need no ``zero_point``, ``low`` and ``high``.
    ``weight_back``, output-stationary only: what the weights' address changes by when a block of
    them is read again.

    A pass of an output-stationary array has ``rows`` pixels, of which the first
    ``extent_0 + 1`` are results.
    """
    address = (config.granules - 1).bit_length()
    code = config.array.pe.activation.bits
    loop = config.loop_bits
    widths = {f"extent_{i}": loop for i in range(LOOPS)}
    values = {"act": address} | ({"y": loop, "x": loop} if config.pads else {})
    for name, width in values.items():
        widths[f"{name}_base"] = width
        widths |= {f"{name}_step_{i}": width for i in range(LOOPS)}
    if config.pads:
        widths |= {"height": loop, "width": loop}
    widths |= {"tail": config.vector.bit_length(), "pad": code}
    widths["out_base"] = address
    widths |= {f"out_step_{i}": address for i in range(len(loops_of(config).out))}
    widths["weight_base"] = (config.weight_words - 1).bit_length()
    if config.array.dataflow == "os":
        widths["weight_back"] = widths["weight_base"]
    widths["parameter_base"] = (config.parameter_words - 1).bit_length()
    widths["mode"] = len(MODES)
    if config.requantize != "threshold":
        widths |= dict.fromkeys(("zero_point", "low", "high"), config.value_bits)
    if not config.pads:
        return widths
    for i in range(2):
        widths |= {f"direct_zero_{i}": config.value_bits, f"direct_left_{i}": 5}
        if config.requantize == "multiplier":
            widths |= {f"direct_multiplier_{i}": 31, f"direct_right_{i}": 5}
    return widths


def registers_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Return the registers as one structure."""
    return data.StructLayout(dict(register_widths(config)))
