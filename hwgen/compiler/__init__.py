"""From a quantized network to a program of the accelerator."""
