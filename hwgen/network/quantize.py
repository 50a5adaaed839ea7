"""Quantizing a float ONNX model after training, for the number formats of a PE.

Integer and power-of-two weights give a model in QDQ form (QCDQ where a format has other than 8 or
16 bits), ONNX operator set 21; bipolar ones a QONNX model (:mod:`.binarize`). Batch normalization
is folded into weights before these are quantized, ReLU and clipping into the quantizer after them.
Ranges of activations come from calibration data; every range holds 0.

Source of the arithmetic: ONNX ``QuantizeLinear`` and ``DequantizeLinear``; of the choice of ranges
and scales: Jacob et al., CVPR 2018 (arXiv 1712.05877).
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hwgen.errors import UserError
from pe_library import Bipolar, Integer, NumberFormat, ProcessingElement

from .float_model import (
    AVERAGES,
    NOTES,
    VIEWS,
    Array,
    FloatArray,
    Layer,
    ModelWriter,
    average_count,
    read_layers,
    run_each,
)
from .onnx_file import Node, OnnxGraph
from .onnx_qdq import read_qdq
from .requantize import SUM_BITS, IntArray
from .unsupported import Unsupported

__all__ = ["notes_of", "project", "quantize_model"]

#: Sums of products get so much of their 32 bits, the bias the rest.
PRODUCTS_LIMIT = 0.75 * 2.0 ** (SUM_BITS - 1)
BIAS_LIMIT = 0.2 * 2.0 ** (SUM_BITS - 1)

#: Scales are at least this, so that products of two keep all bits in float32.
LEAST_SCALE = 2.0**-50

#: Bits of weights' magnitudes below which activations are narrowed to leave more of the 32.
ENOUGH_BITS = 8

#: Scales that are tried, relative to that at which the greatest weight is the greatest value.
_FACTORS = 2.0 ** (np.arange(-36, 37) / 24)
_FINE_FACTORS = 2.0 ** (np.arange(-7, 8) / 192)
_POWERS = 2.0 ** np.arange(-2, 3)

#: Bins into which a range is divided to find percentiles.
_BINS = 2048


def quantize_model(
    model: Path,
    pe: ProcessingElement,
    calibration: Array,
    *,
    per_channel: bool = False,
    power_of_two: bool = False,
    percentile: float = 100.0,
) -> Any:
    """Return a quantized ``onnx.ModelProto`` whose integers are values of the PE's formats.

    Parameters
    ----------
    model : Path
        A float32 ONNX model of one input and one output, whose batch is 1 or open.
    pe : ProcessingElement
        Activations signed integers of 2 to 16 bits, or bipolar.
    calibration : float array
        A batch of the model's own input: typical samples, some hundred if possible.
    per_channel : bool
        Whether each output channel has weights of its own scale; bipolar ones always have.
    power_of_two : bool
        Whether all scales are powers of two, so that shifts requantize; bipolar tensors, which
        thresholds requantize, need none.
    percentile : float
        Above 50, to 100: how much of each activation's values its range is to hold, at either end;
        bipolar tensors have no range.

    Raises
    ------
    UserError
        If the model or the calibration is bad or the model has nodes that are not supported, all of
        which are listed.
    """
    if not 50 < percentile <= 100:
        raise UserError(f"percentile must be above 50 and at most 100, not {percentile:g}")
    _check_formats(pe)
    graph = OnnxGraph.load(model)
    unsupported = Unsupported(graph.name)
    bipolar = isinstance(pe.activation, Bipolar)
    steps = read_layers(graph, unsupported, pool_inside=bipolar)
    if bipolar:
        from .binarize import Binarizer

        binarizer = Binarizer(graph, steps, unsupported)
        unsupported.check()
        return binarizer.quantize(_check_calibration(graph, calibration))
    if power_of_two:
        _check_averages(graph, steps, unsupported)
    unsupported.check()
    batch = _check_calibration(graph, calibration)
    quantizer = _Quantizer(graph, steps, pe, per_channel, power_of_two)
    found = quantizer.quantize(find_ranges(graph, quantizer.measured(), batch, percentile))
    read_qdq(OnnxGraph(found, graph.name))  # names what else is not supported
    return found


def notes_of(model: Any) -> list[str]:
    """Return what a user is to know of a model that :func:`quantize_model` has made."""
    found = {entry.key: entry.value for entry in model.metadata_props}
    return found.get(NOTES, "").splitlines()


# ---- checks --------------------------------------------------------------------------------------


def _check_formats(pe: ProcessingElement) -> None:
    activation, weight = pe.activation, pe.weight
    if isinstance(activation, Bipolar) != isinstance(weight, Bipolar):
        raise UserError("a PE for quantization must have both operands bipolar, or none")
    signed = isinstance(activation, Integer) and activation.signed and activation.width > 1
    if not signed and not isinstance(activation, Bipolar):
        raise UserError(
            f"a PE for quantization must have signed activations of 2 to 16 bits, or bipolar ones, "
            f"not {activation}"
        )
    if weight.maximum < 1:
        raise UserError(f"a PE for quantization must have a weight of 1, and {weight} has none")


def _check_averages(graph: OnnxGraph, steps: list[Layer | Node], unsupported: Unsupported) -> None:
    for step in steps:
        if isinstance(step, Layer) and step.node.op in AVERAGES:
            count = average_count(step, graph)
            if count & (count - 1):
                reason = f"it averages {count} elements, which is no power of two"
                unsupported.add(step.node, reason)


def _check_calibration(graph: OnnxGraph, calibration: Array) -> Array:
    (entry,) = graph.inputs
    shape = graph.shape(entry)
    batch = np.asarray(calibration)
    wanted = f"({', '.join(('n', *map(str, shape[1:])))})"
    if batch.ndim != len(shape) or batch.shape[1:] != shape[1:]:
        raise UserError(f"calibration for {entry!r} must have shape {wanted}, not {batch.shape}")
    if not len(batch):
        raise UserError(f"calibration for {entry!r} must have at least one sample")
    if batch.dtype.kind != "f":
        raise UserError(f"calibration for {entry!r} must be float32, not {batch.dtype}")
    with np.errstate(over="ignore"):
        batch = batch.astype(np.float32)
    if not np.isfinite(batch).all():
        raise UserError(f"calibration for {entry!r} must be finite numbers")
    return batch


# ---- ranges and scales ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Range:
    """The least and the greatest value of a tensor, 0 among them."""

    low: float
    high: float


def find_ranges(
    graph: OnnxGraph, names: list[str], batch: Array, percentile: float
) -> dict[str, Range]:
    """Return the range of each tensor over a batch.

    Raises
    ------
    UserError
        If a tensor is not finite.
    """
    low, high = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for found in run_each(graph, names, batch):
        for name in names:
            ends = float(found[name].min()), float(found[name].max())
            if not np.isfinite(ends).all():
                raise UserError(f"tensor {name!r} must be finite for the calibration, and is not")
            low[name], high[name] = min(low[name], ends[0]), max(high[name], ends[1])
    if percentile < 100:
        counts = {name: np.zeros(_BINS) for name in names}
        for found in run_each(graph, names, batch):
            for name in names:
                ends = low[name], max(high[name], low[name] + 1e-30)
                counts[name] += np.histogram(found[name].astype(np.float64), _BINS, ends)[0]
        for name in names:
            share = np.cumsum(counts[name]) / counts[name].sum()
            edges = np.linspace(low[name], high[name], _BINS + 1)
            first, last = np.searchsorted(share, [1 - percentile / 100, percentile / 100])
            low[name] = min(float(edges[first]), 0.0)
            high[name] = max(float(edges[min(int(last) + 1, _BINS)]), 0.0)
    return {name: Range(low[name], high[name]) for name in names}


@dataclass(frozen=True)
class Grid:
    """``scale * (integer - zero)`` of an activation's integers, ``low`` to ``high``."""

    scale: np.float32
    zero: int
    low: int
    high: int

    @property
    def reach(self) -> int:
        """Greatest distance of an integer from the zero point."""
        return max(self.high - self.zero, self.zero - self.low)


def make_grid(
    found: Range, bits: int, power_of_two: bool, symmetric: bool, least: float = 0.0
) -> Grid:
    """Return the grid of an activation.

    A grid with a power of two as its scale has 0 in the middle, or at its lower end where nothing
    is negative.

    Parameters
    ----------
    found : Range
    bits : int
    power_of_two : bool
        Whether the scale is one.
    symmetric : bool
        Whether the zero point is 0.
    least : float
        Of the scale.
    """
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    middle = max(found.high / high, found.low / low)
    if power_of_two and found.low >= 0 and not symmetric:
        scale, zero = found.high / (high - low), low
    elif power_of_two or symmetric:
        scale, zero = middle, 0
    else:
        scale = max((found.high - found.low) / (high - low), least, LEAST_SCALE)
        zero = int(np.clip(np.rint(low - found.low / scale), low, high))
    scale = max(scale, least, LEAST_SCALE)
    if power_of_two:
        scale = 2.0 ** math.ceil(math.log2(scale))
    return Grid(np.float32(scale), zero, low, high)


def project(
    number_format: NumberFormat, weights: FloatArray, floor: FloatArray, power_of_two: bool
) -> tuple[IntArray, npt.NDArray[np.float32]]:
    """Return values of a format for each row, and the row's scale of the least squared error.

    Scales are searched over three octaves, in steps of a 24th, then around the best in steps
    of a 192nd; at last scale and values are fitted to each other in turn.

    Parameters
    ----------
    number_format : NumberFormat
    weights : float64 array (rows, columns)
    floor : float64 array (rows)
        Least scale of each row.
    power_of_two : bool
        Whether scales are powers of two.
    """
    base = abs(weights).max(axis=1) / number_format.maximum
    # A row that hardly counts beside the others may be rounded coarsely.
    floor = np.maximum(floor, max(base.max() * 2.0**-16, LEAST_SCALE))

    def usable(scale: FloatArray) -> npt.NDArray[np.float32]:
        scale = np.maximum(scale, floor)
        if power_of_two:
            scale = np.exp2(np.ceil(np.log2(scale)))
        return scale.astype(np.float32)

    def attempt(scale: npt.NDArray[np.float32]) -> tuple[IntArray, FloatArray]:
        wide = scale.astype(np.float64)[:, None]
        values = number_format.quantize(weights, wide)
        return values, ((values * wide - weights) ** 2).sum(axis=1)

    best = usable(base)
    values, error = attempt(best)

    def improve(scale: npt.NDArray[np.float32]) -> None:
        found, distance = attempt(scale)
        better = distance < error
        values[better], error[better], best[better] = found[better], distance[better], scale[better]

    for factor in _POWERS if power_of_two else _FACTORS:
        improve(usable(base * factor))
    if not power_of_two:
        coarse = best.astype(np.float64)
        for factor in _FINE_FACTORS:
            improve(usable(coarse * factor))
        for _ in range(3):
            squares = (values**2).sum(axis=1)
            fitted = (values * weights).sum(axis=1) / np.maximum(squares, 1)
            improve(usable(np.where(fitted > 0, fitted, best)))
    return values, best


# ---- the quantized model -------------------------------------------------------------------------


class _Quantizer:
    """Writes a model in QDQ form."""

    def __init__(
        self,
        graph: OnnxGraph,
        steps: list[Layer | Node],
        pe: ProcessingElement,
        per_channel: bool,
        power_of_two: bool,
    ) -> None:
        self.graph, self.steps, self.pe = graph, steps, pe
        self.per_channel, self.power_of_two = per_channel, power_of_two
        assert isinstance(pe.activation, Integer)
        self.bits = pe.activation.width
        self.type: npt.DTypeLike = np.int8 if self.bits <= 8 else np.int16
        self.writer = ModelWriter(graph)
        self.grids: dict[str, Grid] = {}
        #: Quantized copies of tensors of the host, by name.
        self.entered: dict[str, str] = {}
        self.made = {step.output for step in steps if isinstance(step, Layer)}
        for step in steps:
            if isinstance(step, Node) and step.input(0) in self.made:
                self.made.update(step.outputs)
        self.ranges: dict[str, Range] = {}
        self.width = self._widths()
        self.errors: list[tuple[float, str]] = []

    def measured(self) -> list[str]:
        """Return the tensors whose ranges are needed."""
        names: dict[str, None] = {}
        for step in self.steps:
            if isinstance(step, Layer):
                names |= dict.fromkeys(name for name in step.inputs if name not in self.made)
                names[step.output] = None
        return list(names)

    def quantize(self, ranges: dict[str, Range]) -> Any:
        """Return the model."""
        self.ranges = ranges
        for step in self.steps:
            if isinstance(step, Layer):
                self._layer(step)
                continue
            source = next(n for n in step.inputs if n and n not in self.graph.constants)
            output = step.outputs[0]
            if source in self.made and step.op in VIEWS:
                # Quantized again, on the same grid: runtimes fuse operators between quantizers.
                moved = self.writer.copy(step, source, self.writer.name(f"{output}_real"))
                self.grids[output] = self.grids[source]
                self._quantize(moved, output, self.grids[output])
            else:
                self.writer.copy(step, source, output)
        if self.errors:
            error, name = max(self.errors)
            self.writer.notes.append(
                f"weights are projected to {self.pe.weight.summary}: the root mean square error "
                f"is {error:.2g} of the weights' own at most (at {name!r})"
            )
        if self.pe.weight.padding:
            self.writer.note_groups(self.steps)
        return self.writer.finish({})

    def _widths(self) -> dict[str, int]:
        """Return how many bits each activation may have so that sums fit 32.

        ``bits of the weights' magnitudes + bits of the activations' reach + log2(effective number
        of products)`` is at most 31; see :data:`ENOUGH_BITS`.
        """
        width: dict[str, int] = {}
        for step in reversed(self.steps):
            if isinstance(step, Layer):
                found = self.bits
                if step.weights is not None:
                    rows = abs(step.weights.reshape(len(step.weights), -1))
                    peak = rows.max(axis=1) if self.per_channel else rows.max()
                    count = (rows.sum(axis=1) / np.where(peak > 0, peak, 1)).max()
                    room = math.log2(PRODUCTS_LIMIT / max(count, 1))
                    least = min(ENOUGH_BITS, math.log2(self.pe.weight.maximum))
                    found = min(found, 1 + int(max(room - least, room / 2)))
                elif step.node.op == "MaxPool":
                    found = min(found, width.get(step.output, found))
                names = step.inputs
            else:
                found, names = width.get(step.outputs[0], self.bits), step.inputs
            for name in names:
                width[name] = min(width.get(name, self.bits), found)
        return width

    def _layer(self, layer: Layer) -> None:
        writer, node = self.writer, layer.node
        inputs = [self._quantized(name) for name in layer.inputs]
        output = layer.output
        real = writer.name(f"{output}_real")
        names = [*(writer.name(f"{output}_{place}") for place in range(len(layer.after))), real]
        least = max(float(self.grids[name].scale) for name in layer.inputs) / 16
        if layer.weights is not None:
            least = self._product(layer, inputs[0], names[0])
        elif node.op == "Add":
            writer.add("Add", inputs, names[0], name=node.name)
        else:
            writer.copy(node, inputs[0], names[0])
        for place, after in enumerate(layer.after):
            writer.copy(after, names[place], names[place + 1])
        if node.op == "MaxPool" and not layer.after:
            grid = self.grids[layer.inputs[0]]
        else:
            grid = self._grid(output, least)
        self._quantize(real, output, grid)
        self.grids[output] = grid

    def _grid(self, name: str, least: float = 0.0) -> Grid:
        bits = self.width.get(name, self.bits)
        return make_grid(self.ranges[name], bits, self.power_of_two, self.bits > 8, least)

    def _quantized(self, name: str) -> str:
        """Return a tensor's dequantized name; a tensor of the host is quantized first."""
        if name in self.made:
            return name
        if name not in self.entered:
            self.grids[name] = self._grid(name)
            output = self.writer.name(f"{name}_dequantized")
            self.entered[name] = self._quantize(name, output, self.grids[name])
        return self.entered[name]

    def _quantize(self, source: str, output: str, grid: Grid) -> str:
        writer = self.writer
        scale = writer.constant(f"{output}_scale", grid.scale)
        zero = writer.constant(f"{output}_zero_point", np.array(grid.zero, self.type))
        found = writer.name(f"{output}_quantized")
        writer.add("QuantizeLinear", [source, scale, zero], found)
        limits = np.iinfo(self.type)
        if (grid.low, grid.high) != (limits.min, limits.max):
            ends = [
                writer.constant(f"{output}_{side}", np.array(end, self.type))
                for side, end in (("least", grid.low), ("greatest", grid.high))
            ]
            narrow = writer.name(f"{output}_narrow")
            found = writer.add("Clip", [found, *ends], narrow)
        return writer.add("DequantizeLinear", [found, scale, zero], output)

    def _product(self, layer: Layer, source: str, output: str) -> float:
        """Add a layer of weights; return a bit more than what a sum of 1 stands for at most.

        An output of a finer scale would need sums shifted to the left, out of their 32 bits.
        """
        assert layer.weights is not None
        assert layer.bias is not None
        writer, node = self.writer, layer.node
        grid = self.grids[layer.inputs[0]]
        integers, scale = self._weights(layer, grid)
        flat = node.op == "MatMul" and len(layer.shape) != 2
        axis = 1 if flat else 0
        weights = self._dequantized(
            f"{output}_weights", integers.T if flat else integers, scale, axis
        )
        unit = np.asarray(grid.scale * scale)  # float32, as runtimes multiply them
        bias = np.rint(layer.bias / unit.astype(np.float64))
        inputs = [source, weights]
        if bias.any():
            inputs.append(self._dequantized(f"{output}_bias", bias.astype(np.int32), unit, 0))
        if node.op == "Conv":
            writer.add("Conv", inputs, output, name=node.name, **node.attributes)
        elif not flat:
            writer.add("Gemm", inputs, output, name=node.name, transB=1)
        elif len(inputs) == 2:
            writer.add("MatMul", inputs, output, name=node.name)
        else:
            product = writer.name(f"{output}_product")
            writer.add("MatMul", inputs[:2], product, name=node.name)
            writer.add("Add", [product, inputs[2]], output)
        return float(unit.max()) * (1 + 2.0**-10)

    def _weights(self, layer: Layer, grid: Grid) -> tuple[IntArray, npt.NDArray[np.float32]]:
        """Return a layer's integers and their scale, () or (out channels)."""
        assert layer.weights is not None
        assert layer.bias is not None
        weights = layer.weights.reshape(len(layer.weights), -1)
        products = abs(weights).sum(axis=1) * grid.reach / PRODUCTS_LIMIT
        floor = np.maximum(products, abs(layer.bias) / (float(grid.scale) * BIAS_LIMIT))
        if self.per_channel:
            integers, scale = project(self.pe.weight, weights, floor, self.power_of_two)
        else:
            rows, least = weights.reshape(1, -1), floor.max(keepdims=True)
            integers, scale = project(self.pe.weight, rows, least, self.power_of_two)
            scale = scale.reshape(())
        integers = integers.reshape(layer.weights.shape)
        if not isinstance(self.pe.weight, Integer):
            wide = scale.astype(np.float64).reshape(-1, *[1] * (integers.ndim - 1))
            error = np.sqrt(((integers * wide - layer.weights) ** 2).sum())
            norm = np.sqrt((layer.weights**2).sum())
            self.errors.append((float(error / norm) if norm else 0.0, layer.node.name))
        return integers, scale

    def _dequantized(self, name: str, integers: Array, scale: Array, axis: int) -> str:
        """Add a constant of integers and return the name of the real numbers they stand for."""
        if integers.dtype != np.int32:
            small = integers.min() >= -128 and integers.max() <= 127
            integers = integers.astype(np.int8 if small else np.int16)
        writer = self.writer
        inputs = [
            writer.constant(f"{name}_integers", integers),
            writer.constant(f"{name}_scale", scale),
            writer.constant(f"{name}_zero_point", np.zeros(scale.shape, integers.dtype)),
        ]
        attributes: dict[str, Any] = {"axis": axis} if scale.ndim else {}
        return writer.add("DequantizeLinear", inputs, writer.name(name), **attributes)
