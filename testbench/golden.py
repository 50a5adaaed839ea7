"""The golden model: what an array must answer, in NumPy integers.

``A @ W`` over the integers, folded as the accumulator says. It knows formats' values, never codes
or circuits.
"""

import numpy as np
import numpy.typing as npt

from hwgen.config import ArrayConfig
from hwgen.tiling import Tiling

__all__ = ["exact_matmul", "golden_gemm", "golden_pass"]

IntArray = npt.NDArray[np.int64]


def exact_matmul(a: IntArray, w: IntArray) -> IntArray:
    """Return the exact integer product of (M, K) and (K, N), for sums below 2**63.

    Below 2**53 float64 holds every partial sum exactly, in whatever order they are added, and is
    many times faster than NumPy's integer product.
    """
    bound = a.shape[1] * int(np.abs(a).max(initial=0)) * int(np.abs(w).max(initial=0))
    if bound < 1 << 53:
        return (a.astype(np.float64) @ w.astype(np.float64)).astype(np.int64)
    return a @ w


def golden_pass(config: ArrayConfig, a: IntArray, w: IntArray) -> IntArray:
    """Return the sums of one pass: (M, k) times (k, N), folded.

    With a saturating accumulator the products are added ``lanes`` at a time, in the order of k, and
    the sum is clamped after each addition; otherwise the order does not matter.
    """
    accumulator, lanes = config.accumulator, config.pe.lanes
    if accumulator.overflow != "saturate":
        return accumulator.fold(exact_matmul(a, w))
    sums = np.zeros((a.shape[0], w.shape[1]), dtype=np.int64)
    for k in range(0, a.shape[1], lanes):
        sums = accumulator.fold(sums + a[:, k : k + lanes] @ w[k : k + lanes])
    return sums


def golden_gemm(config: ArrayConfig, a: IntArray, w: IntArray) -> IntArray:
    """Return what the array and its host answer for ``A`` (M, K) times ``W`` (K, N).

    The sum over K is taken in passes (``Tiling`` says how long one is), each folded, and so is
    their sum; where the accumulator is exact this is the product of the matrices and nothing else.
    """
    if config.overflow == "error":
        return exact_matmul(a, w)
    depth = Tiling(config, a.shape[0], a.shape[1], w.shape[1]).depth
    total = np.zeros((a.shape[0], w.shape[1]), dtype=np.int64)
    for k in range(0, a.shape[1], depth):
        part = golden_pass(config, a[:, k : k + depth], w[k : k + depth])
        total = config.accumulator.fold(total + part)
    return total
