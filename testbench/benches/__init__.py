"""Cocotb test modules; they run inside the simulator, started by ``testbench.cocotb_lane``."""
