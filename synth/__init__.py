"""Synthesis with open tools: running Yosys, and counting what a design maps to."""
