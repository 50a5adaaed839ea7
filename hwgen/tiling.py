"""Host side of an array: a GEMM of any size as passes, and operands as beats of its streams.

``A`` (M×K) times ``W`` (K×N) is cut into *passes* of what the array holds. Places left over are
filled with the formats' padding values; what padding adds to a sum (only the bipolar format has no
zero) is subtracted again. Sums of the passes of one output tile are accumulated here, with the
meaning of the array's accumulator.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .config import ArrayConfig

__all__ = ["Beats", "Pass", "Tiling", "pack_codes"]

IntArray = npt.NDArray[np.int64]


def pack_codes(
    codes: IntArray, bits: int, last: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.uint8]:
    """Pack codes into beats.

    Parameters
    ----------
    codes : array of shape (beats, codes per beat)
        Each 0 to ``2**bits - 1``; the first is lowest in its beat.
    bits : int
        Width of a code, 1 to 16.
    last : array of shape (beats,), optional
        A further bit on top of each beat.

    Returns
    -------
    array of uint8, shape (beats, bytes)
        Little-endian, padded with zeros to whole bytes.
    """
    beats, count = codes.shape
    top = None if last is None else last.astype(np.uint8)[:, None]
    if bits in (8, 16):
        packed = np.ascontiguousarray(codes.astype(f"<u{bits // 8}")).view(np.uint8)
        return packed if top is None else np.concatenate([packed, top], axis=1)
    width = count * bits + (top is not None)
    out = np.empty((beats, -(-width // 8)), dtype=np.uint8)
    step = max(1, (1 << 24) // width)  # beats at a time: bounds the one-byte-a-bit intermediate
    for start in range(0, beats, step):
        part = slice(start, start + step)
        spread = (codes[part, :, None] >> np.arange(bits)).astype(np.uint8) & 1
        spread = spread.reshape(-1, count * bits)
        if top is not None:
            spread = np.concatenate([spread, top[part]], axis=1)
        out[part] = np.packbits(spread, axis=1, bitorder="little")
    return out


@dataclass(frozen=True)
class Beats:
    """What a stream is to carry: ``segments`` of ``data``, one after the other.

    A segment is a row (first beat, number of beats); operands that are used again are packed once.
    """

    data: npt.NDArray[np.uint8]
    segments: IntArray

    @property
    def count(self) -> int:
        """Beats in all."""
        return int(self.segments[:, 1].sum())

    def __iter__(self) -> Iterator[bytes]:
        for start, count in self.segments:
            for beat in self.data[start : start + count]:
                yield beat.tobytes()


@dataclass(frozen=True)
class Pass:
    """One pass of the array: which slices of the GEMM it multiplies.

    ``m``, ``k`` and ``n`` are slices into M, K and N, cut at the matrices' edges; ``padding`` is
    the number of padded products in each sum; ``beats`` the beats of sums that come of it.
    """

    index: int
    m: slice
    k: slice
    n: slice
    padding: int
    beats: int


class Tiling:
    """The passes of a GEMM on an array.

    Parameters
    ----------
    config : ArrayConfig
        The array.
    m, k, n : int
        Shape of the GEMM, each at least 1.

    Raises
    ------
    ValueError
        If the accumulator saturates and sums would have to be padded in a format without zero
        (what is clamped cannot be corrected afterwards).
    """

    def __init__(self, config: ArrayConfig, m: int, k: int, n: int) -> None:
        self.config = config
        self.m, self.k, self.n = m, k, n
        lanes = config.pe.lanes
        if config.dataflow == "ws":
            self.depth = config.pass_depth
            self.padded_k = -(-k // self.depth) * self.depth
        else:  # a pass is as long as its reduction, in whole beats
            self.padded_k = -(-k // lanes) * lanes
            self.depth = min(config.pass_depth, self.padded_k)
        padding = self.padded_k - k
        if config.overflow == "saturate" and padding and config.pe.padding_product:
            raise ValueError(
                f"K must be a multiple of {self.depth if config.dataflow == 'ws' else lanes} with "
                f"overflow 'saturate' and a format without zero, not {k}"
            )

    def __len__(self) -> int:
        """Return the number of passes."""
        k_passes = -(-self.padded_k // self.depth)
        n_tiles = -(-self.n // self.config.cols)
        m_tiles = 1 if self.config.dataflow == "ws" else -(-self.m // self.config.rows)
        return m_tiles * n_tiles * k_passes

    def __iter__(self) -> Iterator[Pass]:
        rows, cols = self.config.rows, self.config.cols
        whole_m = self.config.dataflow == "ws"
        index = 0
        for m in [0] if whole_m else range(0, self.m, rows):
            for n in range(0, self.n, cols):
                for k in range(0, self.padded_k, self.depth):
                    end = min(k + self.depth, self.padded_k)
                    yield Pass(
                        index,
                        slice(m, self.m if whole_m else min(m + rows, self.m)),
                        slice(k, min(end, self.k)),
                        slice(n, min(n + cols, self.n)),
                        max(0, end - max(k, self.k)),
                        self.m if whole_m else rows,
                    )
                    index += 1

    # ---- operands to beats -------------------------------------------------------------------

    def activations(self, a: IntArray) -> Beats:
        """Pack the activations, values of shape (M, K)."""
        config, lanes = self.config, self.config.pe.lanes
        number_format = config.pe.activation
        if config.dataflow == "ws":
            codes = _padded(a, self.m, self.padded_k, number_format.padding, number_format.encode)
            k_passes = self.padded_k // self.depth
            # (M, pass, depth) -> (pass, M, depth): a beat is one vector of a pass.
            codes = codes.reshape(self.m, k_passes, self.depth).swapaxes(0, 1)
            last = np.zeros((k_passes, self.m), dtype=bool)
            last[:, -1] = True
            data = pack_codes(codes.reshape(-1, self.depth), number_format.bits, last.reshape(-1))
            one_tile = [(p * self.m, self.m) for p in range(k_passes)]
            return Beats(data, np.array(one_tile * -(-self.n // config.cols), dtype=np.int64))
        rows = config.rows
        tiles = -(-self.m // rows)
        steps = self.padded_k // lanes
        codes = _padded(a, tiles * rows, self.padded_k, number_format.padding, number_format.encode)
        # (tile, row, step, lane) -> (tile, step, row, lane): a beat is one step of all rows.
        codes = codes.reshape(tiles, rows, steps, lanes).swapaxes(1, 2)
        last = np.zeros((tiles, steps), dtype=bool)
        last[:, self.depth // lanes - 1 :: self.depth // lanes] = True
        last[:, -1] = True
        data = pack_codes(codes.reshape(tiles * steps, -1), number_format.bits, last.reshape(-1))
        n_tiles = -(-self.n // config.cols)
        segments = [(tile * steps, steps) for tile in range(tiles) for _ in range(n_tiles)]
        return Beats(data, np.array(segments, dtype=np.int64))

    def weights(self, w: IntArray) -> Beats:
        """Pack the weights, values of shape (K, N)."""
        config, lanes = self.config, self.config.pe.lanes
        number_format = config.pe.weight
        tiles = -(-self.n // config.cols)
        codes = _padded(
            w, self.padded_k, tiles * config.cols, number_format.padding, number_format.encode
        )
        # (step, lane, tile, col) -> (tile, step, col, lane)
        steps = self.padded_k // lanes
        codes = codes.reshape(steps, lanes, tiles, config.cols).transpose(2, 0, 3, 1)
        if config.dataflow == "ws":  # a step is a row of the array, and the bottom row goes first
            codes = codes.reshape(-1, config.rows, config.cols * lanes)[:, ::-1]
            segments = [(0, tiles * steps)]
        else:
            m_tiles = -(-self.m // config.rows)
            segments = [(tile * steps, steps) for _ in range(m_tiles) for tile in range(tiles)]
        data = pack_codes(codes.reshape(tiles * steps, -1), number_format.bits)
        return Beats(data, np.array(segments, dtype=np.int64))

    # ---- sums to results ---------------------------------------------------------------------

    def place(self, part: Pass, sums: IntArray) -> IntArray:
        """Return the sums of a pass as an output tile: padding taken off, rows in order.

        ``sums`` has the shape (beats, cols), as they left the array.
        """
        if self.config.dataflow == "os":
            sums = sums[::-1]
        tile = sums[: part.m.stop - part.m.start, : part.n.stop - part.n.start]
        correction = part.padding * self.config.pe.padding_product
        return self.config.accumulator.fold(tile - correction) if correction else tile

    def accumulate(self, result: IntArray, part: Pass, tile: IntArray) -> None:
        """Add the tile of a pass to the result (M, N), in place."""
        if part.k.start == 0:
            result[part.m, part.n] = tile
        else:
            total = result[part.m, part.n] + tile
            exact = self.config.overflow == "error"
            result[part.m, part.n] = total if exact else self.config.accumulator.fold(total)


def _padded(
    values: IntArray, rows: int, cols: int, padding: int, encode: Callable[[IntArray], IntArray]
) -> IntArray:
    """Return the codes of ``values`` in the corner of a rows × cols matrix of padding codes."""
    codes = np.full((rows, cols), encode(np.array(padding)), dtype=np.int64)
    codes[: values.shape[0], : values.shape[1]] = encode(values)
    return codes
