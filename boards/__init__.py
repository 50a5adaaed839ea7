"""Boards: what they are, their bitstreams, the host link and its driver (docs/boards.md)."""
