"""Fair mapping: the ways a design can be mapped to a target, of which the best one counts.

What a synthesis makes of ``*`` by itself may need more than twice the LUTs of the best way, so a
baseline that was not mapped every way we know is none. The choice is made on one PE (the unit
``pe``) and then holds for arrays of it.
"""

from dataclasses import dataclass, fields
from typing import Any

from pe_library import ProcessingElement

from .targets import FpgaTarget

__all__ = ["MULTIPLIERS", "ROWS", "FpgaMapping", "fpga_mappings", "multiplier_options"]

#: Row adders: a ``*`` becomes one row for each bit of the second operand, added one after the other
#: on the carry chain. The top bit of a signed operand weighs less than nothing: its row is
#: subtracted. It replaces Yosys's cell ``$mul``, whose parameters it has.
ROWS = """(* techmap_celltype = "$mul" *)
module rows_of_mul(A, B, Y);
  parameter A_SIGNED = 0, B_SIGNED = 0, A_WIDTH = 1, B_WIDTH = 1, Y_WIDTH = 1;
  input [A_WIDTH-1:0] A;
  input [B_WIDTH-1:0] B;
  output [Y_WIDTH-1:0] Y;
  wire [Y_WIDTH-1:0] multiplicand = {{Y_WIDTH{A_SIGNED && A[A_WIDTH-1]}}, A};
  genvar i;
  generate
    for (i = 0; i < B_WIDTH; i = i + 1) begin : row
      wire [Y_WIDTH-1:0] sum;
      wire [Y_WIDTH-1:0] addend = B[i] ? multiplicand << i : {Y_WIDTH{1'b0}};
      if (i == 0 && !(B_SIGNED && B_WIDTH == 1)) assign sum = addend;
      else if (i == 0) assign sum = -addend;
      else if (B_SIGNED && i == B_WIDTH - 1) assign sum = row[i-1].sum - addend;
      else assign sum = row[i-1].sum + addend;
    end
  endgenerate
  assign Y = row[B_WIDTH-1].sum;
endmodule
"""

#: The ways of a multiplier: what the PE's own ``multiplier`` field is, and the Yosys commands ahead
#: of the target's. ``booth-rtl`` are the Booth rows of :mod:`pe_library.integer`, ``booth`` is
#: Yosys's own, ``default`` whatever the target's synthesis does without DSP blocks.
MULTIPLIERS: dict[str, tuple[str, str]] = {
    "dsp": ("dsp", ""),
    "booth-rtl": ("logic", ""),
    "booth": ("dsp", "proc; flatten; opt -full; wreduce; booth; "),
    "rows": ("dsp", "proc; flatten; opt -full; wreduce; techmap -map rows.v; opt -full; "),
    "default": ("dsp", ""),
}


@dataclass(frozen=True)
class FpgaMapping:
    """One way to map a PE to an FPGA.

    Attributes
    ----------
    multiplier : str
        One of :data:`MULTIPLIERS`; empty for a PE that has no multiplier to choose.
    recipe : str
        What optimizes the LUTs: a name in the family's ``recipes``.
    """

    multiplier: str
    recipe: str

    @property
    def name(self) -> str:
        """How tables call it, e.g. ``booth-rtl/abc9``."""
        return f"{self.multiplier}/{self.recipe}" if self.multiplier else self.recipe

    @property
    def pe_options(self) -> dict[str, Any]:
        """The fields of the PE that the mapping decides."""
        return {"multiplier": MULTIPLIERS[self.multiplier][0]} if self.multiplier else {}

    def script(self, target: FpgaTarget, top: str, *, pads: bool = False) -> str:
        """Return the Yosys commands that map the module ``top``, flat, with its pads or without."""
        family = target.family
        before = MULTIPLIERS[self.multiplier][1] if self.multiplier else ""
        if target.dsp and self.multiplier == "dsp":
            before = family.before_dsp
        dsp = family.use_dsp if target.dsp and self.multiplier in ("", "dsp") else family.no_dsp
        no_pads = "" if pads else family.no_pads
        words = [family.synth, family.recipes[self.recipe], dsp, no_pads, f"-top {top}"]
        hierarchy = f"hierarchy -check -top {top}; " if before else ""
        return hierarchy + before + " ".join(word for word in words if word)


def multiplier_options(pe: ProcessingElement) -> list[str]:
    """Return which of :data:`MULTIPLIERS` a PE can be mapped with; [""] if it has no multiplier.

    A PE whose ``multiplier`` is ``"logic"`` was asked to be so, and stays.
    """
    if "multiplier" not in {field.name for field in fields(pe)}:
        return [""]
    return ["booth-rtl"] if getattr(pe, "multiplier") == "logic" else list(MULTIPLIERS)  # noqa: B009


def fpga_mappings(pe: ProcessingElement, target: FpgaTarget) -> list[FpgaMapping]:
    """Return the ways of a PE on a target, the likeliest best first."""
    multipliers = [m for m in multiplier_options(pe) if m != "dsp" or target.dsp]
    return [FpgaMapping(m, recipe) for m in multipliers for recipe in target.family.recipes]
