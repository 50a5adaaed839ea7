"""Verification: golden models, the two simulation lanes, conformance, proofs and mutants.

- ``golden``: what an array must answer. ``simulate``: a GEMM on the emitted Verilog, every sum
  checked.
- ``compiled`` (with ``harness.cpp`` and ``verilator``): the compiled lane, for bulk numerics.
- ``cocotb_lane`` (with ``benches`` and ``streams``): the cocotb lane, for protocol.
- ``conformance``: what every PE and array must pass. ``formal``: proofs of a PE's arithmetic.
- ``quickstart``: a trained, quantized layer through each PE.
"""
