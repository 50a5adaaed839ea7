"""hwgen: quantization-aware systolic arrays, from parameters to verified Verilog.

Read in this order: ``config`` (what an array is), ``array`` (its streams), ``dataflow`` and the two
dataflows, ``grid``, ``skew``, ``verilog`` (emission), ``generate`` (files), ``tiling`` (the host's
side of a GEMM). The processing elements are in ``pe_library``, simulation is in ``testbench``.

Import from the modules; this one imports nothing, so that ``hwgen --help`` answers at once.
"""
