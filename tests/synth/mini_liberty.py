"""A library of five cells, small enough to compute with by hand."""

import os
from pathlib import Path

import pytest

_TABLE = """(energy) {{ values ("{}, {}", "{}, {}"); }}"""


def _power(related, rise, fall):
    """Internal power that grows with the load, from RISE or FALL at 0 fF by 1 a 10 fF."""
    table = _TABLE.format
    return f"""internal_power () {{ {related}
      rise_power {table(rise, rise + 1, rise, rise + 1)}
      fall_power {table(fall, fall + 1, fall, fall + 1)} }}"""


def _gate(name, area, function, inputs="A", capacitance=2.0, extra=""):
    pins = "".join(
        f"pin ({pin}) {{ direction : input; capacitance : {capacitance}; }}" for pin in inputs
    )
    power = "".join(_power(f'related_pin : "{pin}";', 3, 1) for pin in inputs)
    return f"""cell ({name}) {{ area : {area}; {extra} {pins}
    pin (Y) {{ direction : output; function : "{function}"; {power} }} }}"""


MINI = f"""/* a comment with a brace {{ and cell (GHOST) {{ */
library (mini) {{
  time_unit : "1ns"; voltage_unit : "1V"; nom_voltage : 2.0;
  capacitive_load_unit (1, ff);
  power_lut_template (energy) {{
    variable_1 : input_transition_time; variable_2 : total_output_net_capacitance;
    index_1 ("0, 1"); index_2 ("0, 10"); }}
  {_gate("INVX1", 1.0, "!A")}
  {_gate("BUFX4", 4.0, "A", capacitance=4.0)}
  {_gate("BUFX1", 2.0, "A")}
  {_gate("NAND2", 1.5, "!(A B)", "AB")}
  {_gate("OLD", 0.5, "!(A B)", "AB", extra="dont_use : true;")}
  {_gate("DLY1", 2.0, "A")}
  cell (TRI) {{ area : 3; pin (A) {{ direction : input; capacitance : 1; }}
    pin (E) {{ direction : input; capacitance : 1; }}
    pin (Y) {{ direction : output; function : "A"; three_state : "!E"; }} }}
  cell (DFF) {{ area : 6.0; ff (IQ, IQN) {{ clocked_on : "C"; next_state : "D"; }}
    pin (C) {{ direction : input; clock : true; capacitance : 1.0; {_power("", 5, 3)} }}
    pin (D) {{ direction : input; capacitance : 1.0; {_power("", 2, 0)} }}
    pin (Q) {{ direction : output; function : "IQ"; {_power('related_pin : "C";', 7, 5)} }} }}
}}
"""


def real_library():
    """Return the path of a whole library; skip the test where there is none."""
    folder = os.environ.get("HWGEN_LIBERTY")
    places = [Path("/usr/share/qflow/tech/osu018/osu018_stdcells.lib")]
    if folder:
        places.insert(0, Path(folder) / "nangate45_typ.lib.gz")
    for place in places:
        if place.is_file():
            return place
    pytest.skip("needs a library: qflow-tech-osu018, or a folder named by HWGEN_LIBERTY")
