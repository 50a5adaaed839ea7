"""Random networks within the formats of an accelerator, to try it with."""

import numpy as np
import numpy.typing as npt

from hwgen.accelerator.config import AcceleratorConfig
from hwgen.network.graph import Add, Conv, Network, Operation, Pool, Rescale, Tensor
from hwgen.network.requantize import FixedPoint, Requantization, RoundingShift, Thresholds

__all__ = ["random_network"]

IntArray = npt.NDArray[np.int64]


def random_network(
    config: AcceleratorConfig, rng: np.random.Generator, *, layers: int = 4, size: int = 8
) -> Network:
    """Return a network of convolutions, pooling and additions of random shapes and parameters.

    Parameters
    ----------
    config : AcceleratorConfig
        Whose formats, and way of requantizing, it keeps to.
    rng : Generator
    layers : int
        Operations, at most; the last may leave sums.
    size : int
        Height and width of the input, at most; twice as many channels, at most.
    """
    return _Maker(config, rng).network(layers, size)


class _Maker:
    def __init__(self, config: AcceleratorConfig, rng: np.random.Generator) -> None:
        self.config = config
        self.rng = rng
        pe = config.array.pe
        self.weights = pe.weight
        self.low, self.high = pe.activation.minimum, pe.activation.maximum
        self.bipolar = (self.low, self.high) == (-1, 1)
        if config.requantize == "threshold" and not self.bipolar:
            self.low, self.high = 0, min(self.high, config.thresholds)

    def tensor(self, name: str, shape: tuple[int, int, int]) -> Tensor:
        zero = 0 if self.bipolar else int(self.rng.integers(self.low, self.high + 1))
        return Tensor(name, shape, self.low, self.high, zero)

    def network(self, layers: int, size: int) -> Network:
        rng = self.rng
        height, width = (int(n) for n in rng.integers(1, size + 1, 2))
        tensors = [self.tensor("t0", (height, width, int(rng.integers(1, 2 * size + 1))))]
        operations: list[Operation] = []
        count = int(rng.integers(1, layers + 1))
        for i in range(count):
            operation, tensor = self.operation(f"layer{i}", tensors, f"t{i + 1}")
            if i == count - 1 and isinstance(operation, Conv) and rng.integers(2):
                operation = Conv(**{**vars(operation), "requantize": None})
            operations.append(operation)
            tensors.append(tensor)
        return Network(
            "random", {tensor.name: tensor for tensor in tensors}, operations, "t0",
            tensors[-1].name, lambda x: x, lambda x: x,
        )  # fmt: skip

    def operation(self, name: str, tensors: list[Tensor], output: str) -> tuple[Operation, Tensor]:
        rng = self.rng
        tensor = tensors[-1]
        twins = [t for t in tensors[:-1] if t.shape == tensor.shape]
        kind = rng.choice(["conv", "conv", "conv", "pool", "add"])
        if kind == "add" and not self.bipolar:
            pair = [tensor, *([twins[int(rng.integers(len(twins)))]] if twins else [])]
            made = self.tensor(output, tensor.shape)
            ways = tuple(self.rescale() for _ in pair)
            requantize = self.requantize(made, 22 if ways[0].left == 20 else 6)
            return Add(name, tuple(t.name for t in pair), output, requantize, ways), made
        if kind == "pool":
            return self.pool(name, tensor, output)
        return self.conv(name, tensor, output)

    def rescale(self) -> Rescale:
        if self.config.requantize == "multiplier" and self.rng.integers(2):
            low, high = 1 << 30, 1 << 31
            return Rescale(20, int(self.rng.integers(low, high)), -int(self.rng.integers(0, 3)))
        return Rescale(int(self.rng.integers(0, 4)))

    def window(self, tensor: Tensor) -> tuple[list[int], list[int], list[int], list[int]]:
        """Return kernel, stride, padding and dilation that leave at least one place."""
        rng = self.rng
        kernel, stride, padding, dilation = [], [], [], []
        for size in tensor.shape[:2]:
            k, d = int(rng.integers(1, 4)), int(rng.integers(1, 3))
            before, after = (0, 0) if self.bipolar else (int(n) for n in rng.integers(0, 3, 2))
            before, after = min(before, k - 1), min(after, k - 1)
            if d * (k - 1) + 1 > size + before + after:
                k, d, before, after = 1, 1, 0, 0
            kernel.append(k)
            stride.append(int(rng.integers(1, 3)))
            padding += [before, after]
            dilation.append(d)
        return kernel, stride, [padding[0], padding[2], padding[1], padding[3]], dilation

    def shape(
        self, tensor: Tensor, kernel: list[int], stride: list[int], padding: list[int],
        dilation: list[int],
    ) -> tuple[int, int]:  # fmt: skip
        height, width = (
            (tensor.shape[i] + padding[i] + padding[i + 2] - dilation[i] * (kernel[i] - 1) - 1)
            // stride[i] + 1
            for i in range(2)
        )  # fmt: skip
        return height, width

    def conv(self, name: str, tensor: Tensor, output: str) -> tuple[Operation, Tensor]:
        rng = self.rng
        kernel, stride, padding, dilation = self.window(tensor)
        channels = tensor.shape[2]
        divisors = [n for n in range(1, channels + 1) if channels % n == 0]
        groups = 1
        if not self.weights.padding and rng.integers(3) == 0:
            groups = int(rng.choice(divisors))
        out = groups * int(rng.integers(1, max(2, 16 // groups)))
        shape = (out, *kernel, channels // groups)
        weights = rng.choice(self.weights.values, shape).astype(np.int64)
        made = self.tensor(output, (*self.shape(tensor, kernel, stride, padding, dilation), out))
        reach = np.prod(shape[1:]) * np.abs(self.weights.values).max() * (self.high - self.low)
        bits = max(1, int(reach).bit_length() - 1)
        bias = rng.integers(-(1 << bits), 1 << bits, out) >> 2
        conv = Conv(
            name, (tensor.name,), output, self.requantize(made, bits), weights, bias,
            (stride[0], stride[1]), (padding[0], padding[1], padding[2], padding[3]),
            (dilation[0], dilation[1]), groups,
        )  # fmt: skip
        return conv, made

    def pool(self, name: str, tensor: Tensor, output: str) -> tuple[Operation, Tensor]:
        kernel, stride, padding, _ = self.window(tensor)
        shape = (*self.shape(tensor, kernel, stride, padding, [1, 1]), tensor.shape[2])
        kind = "max" if self.bipolar or self.rng.integers(2) else "sum"
        made = self.tensor(output, shape)
        requantize: Requantization | None = None
        bias = 0
        if kind == "max":
            made = Tensor(output, shape, self.low, self.high, tensor.zero_point)
        else:
            bias = int(self.rng.integers(-100, 100))
            requantize = self.requantize(made, 10)
        window = (kernel[0], kernel[1]), (stride[0], stride[1])
        pad = (padding[0], padding[1], padding[2], padding[3])
        return Pool(name, (tensor.name,), output, requantize, kind, *window, pad, bias), made

    def requantize(self, tensor: Tensor, bits: int) -> Requantization:
        """Return a requantization of sums of about so many bits, for each channel its own."""
        rng, channels = self.rng, tensor.shape[2]
        low, high = sorted(int(n) for n in rng.choice(range(self.low, self.high + 1), 2))
        if rng.integers(2):
            low, high = self.low, self.high
        low, high = min(low, tensor.zero_point), max(high, tensor.zero_point)
        if self.config.requantize == "multiplier":
            multiplier = rng.integers(1 << 30, 1 << 31, channels)
            shift = -rng.integers(bits - 10, bits - 4, channels).clip(0, 31)
            return FixedPoint(multiplier, shift, tensor.zero_point, low, high)
        if self.config.requantize == "shift":
            shift = rng.integers(max(-3, bits - 10), max(-2, bits - 4), channels).clip(-31, 31)
            return RoundingShift(shift, tensor.zero_point, low, high)
        count = 1 if self.bipolar else self.high - self.low
        reach = 1 << max(1, bits - 1)
        thresholds = np.sort(rng.integers(-reach, reach, (channels, count)), axis=1)
        falling = rng.integers(0, 2, channels).astype(bool)
        step = np.where(falling, -1, 1) * (2 if self.bipolar else 1)
        return Thresholds(thresholds, np.where(falling, self.high, self.low), step)
