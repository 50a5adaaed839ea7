"""The accelerator: buffers, streamers, array, post-processing and sequencer."""
