"""Boards: descriptions, tops, host link. Nothing stands here yet."""
