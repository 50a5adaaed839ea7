"""Where tensors lie in the activation buffer.

A pixel's channels lie side by side, pixels in the order of rows; a pixel begins at a whole word
and takes ``pitch`` granules. Places that hold no channel hold :func:`fill_of` its tensor.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hwgen.accelerator.config import AcceleratorConfig
from hwgen.errors import UserError
from hwgen.network.graph import Network, Tensor

from .program import words_of_bits

__all__ = ["Place", "allocate", "fill_of", "tensor_of", "words_of"]

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: first granule, granules of a pixel, pixels in a row, rows."""

    base: int
    pitch: int
    width: int
    height: int

    @property
    def granules(self) -> int:
        """Granules in all."""
        return self.pitch * self.width * self.height


def fill_of(tensor: Tensor) -> int:
    """Return the integer that unused channels of a tensor hold."""
    return -1 if tensor.bipolar else tensor.zero_point


def pitch_of(tensor: Tensor, config: AcceleratorConfig) -> int:
    """Return the granules of a pixel: results come in vectors of ``cols`` channels."""
    cols, channels = config.array.cols, tensor.shape[2]
    if config.aligned:
        codes = config.word * config.granule
        return -(-channels // codes) * config.word
    whole = -(-channels // cols) * cols
    block = min(config.read_codes, cols)  # what a block-diagonal layer takes and makes at once
    overlapping = (-(-channels // block) - 1) * block + cols
    return max(whole, overlapping) // config.granule


def allocate(network: Network, config: AcceleratorConfig) -> dict[str, Place]:
    """Place all tensors but the output, each as long as it is needed; first fit.

    Raises
    ------
    UserError
        If they do not fit; it names the layer and what it needs.
    """
    last_use = {network.input: -1}
    made = {network.input: -1}
    for i, operation in enumerate(network.operations):
        made[operation.output] = i
        for name in operation.inputs:
            last_use[name] = i
    places: dict[str, Place] = {}
    live: list[tuple[int, int, str]] = []  # first granule, end, name
    for name in sorted(made, key=lambda name: made[name]):
        if name == network.output:
            continue
        step = made[name]
        live = [entry for entry in live if last_use.get(entry[2], -1) >= step]
        tensor = network.tensors[name]
        height, width, _ = tensor.shape
        place = Place(0, pitch_of(tensor, config), width, height)
        base = 0
        for start, end, _ in sorted(live):
            if start - base >= place.granules:
                break
            base = max(base, end)
        if base + place.granules > config.granules:
            needed = -(-(base + place.granules) * config.granule_bits // 8)
            layer = network.operations[max(step, 0)].name
            raise UserError(
                f"activation_buffer must be at least {needed} bytes for layer {layer!r}, not "
                f"{config.activation_buffer}"
            )
        places[name] = Place(base, place.pitch, width, height)
        live.append((base, base + place.granules, name))
    return places


def words_of(
    values: IntArray, tensor: Tensor, place: Place, config: AcceleratorConfig
) -> npt.NDArray[np.uint8]:
    """Return the words of one sample of a tensor.

    Parameters
    ----------
    values : int64 array (height, width, channels)
        Integers.
    """
    pe = config.array.pe
    height, width, channels = tensor.shape
    padded = np.full((height, width, place.pitch * config.granule), fill_of(tensor), np.int64)
    padded[:, :, :channels] = values
    codes = pe.activation.encode(padded).reshape(-1, config.word * config.granule)
    return words_of_bits([(codes, pe.activation.bits)])


def tensor_of(words: IntArray, tensor: Tensor, place: Place, config: AcceleratorConfig) -> IntArray:
    """Return the integers (height, width, channels) of words of codes."""
    height, width, channels = tensor.shape
    values = config.array.pe.activation.decode(words)
    return values.reshape(height, width, place.pitch * config.granule)[:, :, :channels]
