"""Characterization: what designs cost on FPGAs and in standard cells.

From bottom to top: ``store`` (results by content), ``units`` and ``targets`` (what is measured, on
what), ``mapping`` (the ways to map it), ``fpga`` (Yosys and nextpnr), ``asic`` with ``liberty``,
``netlist``, ``activity`` and ``energy`` (standard cells), ``hierarchy`` (large arrays of their
definitions), ``characterize`` (one point), ``sweep`` (many), ``table``, ``compare``, ``plots`` and
``report``, ``exports``. ``docs/characterize.md`` says what the figures mean.
"""
