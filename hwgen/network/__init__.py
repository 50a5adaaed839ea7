"""Quantized networks: what they mean in integers, and the files that carry them."""
