"""What a run of the accelerator is told: registers, written by SET and taken over by RUN.

The loops of a run, innermost first, are: pixels of a row of the output, rows of the output (these
two are one *pass* of the array), channel blocks of the input, kernel columns, kernel rows (these
three are summed), channel blocks of the output.
"""

from amaranth.lib import data

from .config import AcceleratorConfig
from .nest import EXTENT_BITS

__all__ = ["LOOPS", "MODES", "OUT_LOOPS", "SUMMED_LOOPS", "register_widths", "registers_layout"]

#: Number of loops; which of them move the place of a result, and which are summed over.
LOOPS = 6
OUT_LOOPS = (0, 1, 5)
SUMMED_LOOPS = (2, 3, 4)
#: Bits of the register ``mode``: sums come past the array; are maxima; results go to the host, as
#: sums.
MODES = {"direct": 0, "maximum": 1, "to_host": 2, "raw": 3}


def register_widths(config: AcceleratorConfig) -> dict[str, int]:
    """Return the width of each register, in the order of their numbers.

    ``act_*``, ``out_*``: addresses in the activation buffer, of what is read and written; ``y_*``,
    ``x_*``: the place in the input, and ``height``, ``width``: where it ends; outside of it, and in
    the granules from ``tail`` on of the last channel block, the code ``pad`` is read. ``direct_*``:
    zero point, shifts and multiplier of the two inputs of an addition (of pooling: the first).
    """
    address = (config.activation_words - 1).bit_length()
    code = config.array.pe.activation.bits
    widths = {f"extent_{i}": EXTENT_BITS for i in range(LOOPS)}
    for name, width in (("act", address), ("y", 16), ("x", 16)):
        widths[f"{name}_base"] = width
        widths |= {f"{name}_step_{i}": width for i in range(LOOPS)}
    widths |= {"height": 16, "width": 16, "tail": 8, "pad": code}
    widths["out_base"] = address
    widths |= {f"out_step_{i}": address for i in range(len(OUT_LOOPS))}
    widths["weight_base"] = (config.weight_words - 1).bit_length()
    widths["parameter_base"] = (config.parameter_words - 1).bit_length()
    widths |= {"mode": len(MODES), "zero_point": 17, "low": 17, "high": 17}
    for i in range(2):
        widths |= {f"direct_zero_{i}": 17, f"direct_left_{i}": 5}
        if config.requantize == "multiplier":
            widths |= {f"direct_multiplier_{i}": 31, f"direct_right_{i}": 5}
    return widths


def registers_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Return the registers as one structure."""
    return data.StructLayout(dict(register_widths(config)))
