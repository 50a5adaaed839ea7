"""Binarizing a float ONNX model after training: a QONNX model of signs.

Weights become a scale for each output channel times signs, at first ``mean(|w|) * sign(w)`` as in
XNOR-Net (arXiv 1603.05279, section 3.1); then signs are flipped where that brings the layer's
answers to the calibration nearer to the float model's (:func:`fit_signs`). An activation becomes
one of two values in each channel, ``center + half * sign(x - threshold)``: the threshold is its
mean over the calibration, the two values are the means above and below. Centers go into the next
layer's bias, and halves into its weights before these are binarized, so that signs alone are left;
batch normalization, ReLU and maxima are all within the threshold.

Layers are binarized in order. The threshold of a layer's sums is put where as many of them lie
above it as lay above the mean in the float model; the last layer's answers are fitted to the float
model's by a line for each channel.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from hwgen.errors import UserError

from .float_model import OPSET, Array, FloatArray, Layer, ModelWriter, average_count, run, run_each
from .onnx_file import Node, OnnxGraph
from .onnx_windows import window
from .qonnx import read_qonnx
from .unsupported import Unsupported

__all__ = ["Binarizer"]

DOMAIN = "qonnx.custom_op.general"

NOTE = (
    "binarized after training, which loses accuracy: compare it with the float model's on data "
    "other than the calibration; a network trained with binary weights and activations does better"
)


#: Places of the calibration, and flips, that fitting a layer may take.
MOST_PLACES = 1 << 16
MOST_FLIPS = 512


@dataclass(frozen=True, eq=False)
class _Signs:
    """A binarized tensor, which stands for ``center + half * signs``.

    Attributes
    ----------
    name : str
        In the new model.
    signs : array
        Of the calibration; the batch comes first.
    center, half : float64 array
        Of the shape of a sample.
    """

    name: str
    signs: Array
    center: FloatArray
    half: FloatArray


class Binarizer:
    """Writes a QONNX model of bipolar weights and activations.

    Parameters
    ----------
    graph : OnnxGraph
    steps : list of Layer or Node
        As :func:`~.float_model.read_layers` returns them, maxima inside.
    unsupported : Unsupported
        Receives the layers that have no bipolar form.
    """

    def __init__(
        self,
        graph: OnnxGraph,
        steps: list[Layer | Node],
        unsupported: Unsupported,
    ) -> None:
        self.graph, self.steps = graph, steps
        self.writer = ModelWriter(graph)
        self.signs: dict[str, _Signs] = {}
        self.batch: Array = np.zeros(0)
        layers = [step for step in steps if isinstance(step, Layer)]
        for layer in layers:
            reason = _reason(layer)
            if reason:
                unsupported.add(layer.node, reason)
        self.last = layers[-1] if layers else None
        if self.last is not None and self.last.weights is None:
            unsupported.add(self.last.node, "the last layer must have weights")

    def quantize(self, batch: Array) -> Any:
        """Return the model, after a batch of the float model's inputs.

        Raises
        ------
        UserError
            If a tensor is not finite, or QONNX's reader does not know the model's structure.
        """
        self.batch = batch
        for step in self.steps:
            if isinstance(step, Node):
                if step.input(0) in self.signs:
                    self._view(step)
                else:
                    source = next(n for n in step.inputs if n and n not in self.graph.constants)
                    self.writer.copy(step, source, step.outputs[0])
            elif step is self.last:
                self._last_layer(step)
            elif step.weights is not None:
                self._product(step)
            else:
                self._pool(step)
        self.writer.notes.append(NOTE)
        self.writer.note_groups(self.steps)
        found = self.writer.finish({DOMAIN: 1})
        read_qonnx(OnnxGraph(found, self.graph.name))  # names what else is not supported
        return found

    # Signs.

    def _input(self, name: str) -> _Signs:
        """Return a layer's input; a tensor of the host is binarized here."""
        if name not in self.signs:
            found = self._float(name)
            threshold = _spread(found.mean(axis=_others(found), dtype=np.float64), found)
            threshold = threshold[None].astype(np.float32)
            offset = self.writer.constant(f"{name}_threshold", threshold)
            moved = self.writer.add("Sub", [name, offset], self.writer.name(f"{name}_centered"))
            self._sign(name, moved, found - threshold, found)
        return self.signs[name]

    def _sign(self, name: str, source: str, compared: Array, wanted: Array) -> None:
        """Binarize a tensor by comparing it with 0, and find the values that signs stand for."""
        one = self.writer.constant(f"{name}_one", np.ones((), np.float32))
        output = self.writer.name(f"{name}_signs")
        self.writer.add("BipolarQuant", [source, one], output, domain=DOMAIN)
        signs = np.where(compared >= 0, np.float32(1), np.float32(-1))
        axes = _others(wanted)
        share = (signs > 0).mean(axis=axes)
        mean = wanted.mean(axis=axes, dtype=np.float64)
        above = (wanted * (signs > 0)).mean(axis=axes, dtype=np.float64)
        high = above / np.where(share > 0, share, 1)
        low = (mean - above) / np.where(share < 1, 1 - share, 1)
        both = (share > 0) & (share < 1)
        center = np.where(both, (high + low) / 2, mean)
        half = np.where(both, np.maximum(high - low, 0) / 2, 0.0)
        self.signs[name] = _Signs(output, signs, _spread(center, wanted), _spread(half, wanted))

    def _float(self, name: str) -> Array:
        """Return a tensor of the float model for the whole calibration."""
        found = np.concatenate([x[name] for x in run_each(self.graph, [name], self.batch)])
        if not np.isfinite(found).all():
            raise UserError(f"tensor {name!r} must be finite for the calibration, and is not")
        return found

    def _view(self, node: Node) -> None:
        source = self.signs[node.input(0)]
        output = self.writer.copy(node, source.name, node.outputs[0])
        shape = self.graph.shape(output)
        axes = node.get("perm")

        def move(x: Array) -> Array:
            return x.transpose(axes) if axes else x.reshape(len(x), *shape[1:])

        center, half = (move(x[None])[0] for x in (source.center, source.half))
        self.signs[output] = _Signs(output, move(source.signs), center, half)

    # Layers.

    def _last_layer(self, layer: Layer) -> None:
        source, binary = self._binarize(layer)
        if not layer.after:
            found = self._sums(layer, source, binary)
            slope, offset = _line(found, self._float(layer.output), layer.channel_axis)
            binary = _Binary(binary.weights, binary.scale * slope, binary.bias * slope + offset)
        places = range(len(layer.after))
        names = [*(self.writer.name(f"{layer.output}_{i}") for i in places), layer.output]
        self._write(layer, source, binary, names[0])
        for node, before, after in zip(layer.after, names, names[1:], strict=False):
            self.writer.copy(node, before, after)

    def _product(self, layer: Layer) -> None:
        """Binarize a layer; what follows it rises or stays, so only maxima are left of it."""
        source, binary = self._binarize(layer)
        pools = [node for node in layer.after if node.op == "MaxPool"]
        found = self._sums(layer, source, binary)
        for pool in pools:
            found = self._run(pool, found)
        wanted = self._float(layer.output)
        # Sums are two scales apart; halfway between them no rounding decides.
        threshold = _quantiles(found, wanted) - binary.scale
        output = self.writer.name(f"{layer.output}_real")
        names = [*(self.writer.name(f"{output}_{i}") for i in range(len(pools))), output]
        moved = _Binary(binary.weights, binary.scale, binary.bias - threshold)
        self._write(layer, source, moved, names[0])
        for node, before, after in zip(pools, names, names[1:], strict=False):
            self.writer.copy(node, before, after)
        self._sign(layer.output, output, found - _spread(threshold, found), wanted)

    def _binarize(self, layer: Layer) -> tuple[_Signs, "_Binary"]:
        """Return a layer's input, and its weights and bias for it."""
        source = self._input(layer.inputs[0])
        weights, bias = _absorb(layer, source)
        wanted = self._float(layer.sums)
        step = -(-wanted[:, 0].size // MOST_PLACES)
        patches = _patches(layer, source.signs[::step])
        wanted = np.moveaxis(wanted[::step], 1, -1).reshape(-1, len(weights))
        parts = [
            fit_signs(rows.reshape(len(rows), -1), patch, targets.T)
            for rows, patch, targets in zip(
                np.split(weights, len(patches)),
                patches,
                np.split(wanted, len(patches), axis=1),
                strict=True,
            )
        ]
        signs = np.concatenate(parts).reshape(weights.shape)
        scale = abs(weights).reshape(len(weights), -1).mean(axis=1)
        return source, _Binary(signs, np.where(scale > 2.0**-60, scale, 1.0), bias)

    def _pool(self, layer: Layer) -> None:
        writer, node = self.writer, layer.node
        source = self._input(layer.inputs[0])
        found = self._run(node, source.signs)
        output = writer.name(f"{layer.output}_real")
        pooled = writer.copy(node, source.name, output)
        center, half = _channel_values(layer, source)
        if node.op == "MaxPool":
            spread = (_spread(x, found) for x in (center, half))
            self.signs[layer.output] = _Signs(output, found, *spread)
            return
        wanted = self._float(layer.output)
        real = found * _spread(half, found) + _spread(center, found)
        # As in a product: averages of signs are 2 / count apart.
        threshold = _quantiles(real, wanted) - half / average_count(layer, self.graph)
        shape = (1, -1, *[1] * (found.ndim - 2))
        for op, numbers in (("Mul", half), ("Add", center - threshold)):
            constant = writer.constant(f"{output}_{op}", numbers.reshape(shape).astype(np.float32))
            pooled = writer.add(op, [pooled, constant], writer.name(f"{pooled}_{op}"))
        self._sign(layer.output, pooled, real - _spread(threshold, real), wanted)

    def _sums(self, layer: Layer, source: _Signs, binary: "_Binary") -> Array:
        """Return the binarized layer's sums, in real numbers, for the calibration."""
        if layer.node.op != "Conv":
            return (source.signs @ binary.weights.T) * binary.scale + binary.bias
        found = self._run(layer.node, source.signs, binary.weights.astype(np.float32))
        return found * binary.scale.reshape(-1, 1, 1) + binary.bias.reshape(-1, 1, 1)

    def _run(self, node: Node, x: Array, *constants: Array) -> Array:
        """Return a node's output for a whole batch."""
        writer = ModelWriter(self.graph)
        names = [writer.constant("constant", constant) for constant in constants]
        if constants:
            writer.add(node.op, ["x", *names], "y", **node.attributes)
        else:
            writer.copy(node, "x", "y")
        known = {t.name: onnx.numpy_helper.to_array(t) for t in writer.initializers}
        x = x.astype(np.float32)
        function = run(writer.nodes, known, {"x": x.shape}, ["y"], OPSET)
        return function({"x": x})["y"]

    def _write(self, layer: Layer, source: _Signs, binary: "_Binary", output: str) -> None:
        writer, node = self.writer, layer.node
        shape = (-1, *[1] * (binary.weights.ndim - 1))
        scale = binary.scale.reshape(shape).astype(np.float32)
        signs = writer.add(
            "BipolarQuant",
            [
                writer.constant(f"{output}_weight_signs", binary.weights.astype(np.float32)),
                writer.constant(f"{output}_weights_scale", scale),
            ],
            writer.name(f"{output}_weights"),
            domain=DOMAIN,
        )
        bias = writer.constant(f"{output}_bias", binary.bias.astype(np.float32))
        inputs = [source.name, signs, bias]
        if node.op == "Conv":
            writer.add("Conv", inputs, output, name=node.name, **node.attributes)
        else:
            writer.add("Gemm", inputs, output, name=node.name, transB=1)


@dataclass(frozen=True, eq=False)
class _Binary:
    """Weights -1 and 1 of a layer, the scale of each output channel, and the bias."""

    weights: FloatArray
    scale: FloatArray
    bias: FloatArray


def fit_signs(weights: FloatArray, patches: Array, wanted: Array) -> FloatArray:
    """Return signs of weights whose products come nearest to what is wanted, but for a line.

    It begins with the weights' own signs and, in each row, flips that sign which helps most, until
    none does. So that few samples do not decide alone, as many more are imagined as there are
    weights, independent ones, of which the float weights' answers are wanted.

    Parameters
    ----------
    weights : float64 array (rows, columns)
        Of the float model, for signs.
    patches : array (samples, columns)
        Signs.
    wanted : array (rows, samples)
        Answers of the float model.
    """
    count, columns = patches.shape
    x = patches - patches.mean(axis=0, dtype=np.float64)
    y = wanted - wanted.mean(axis=1, keepdims=True, dtype=np.float64)
    share = columns / (columns + count)
    gram = x.T @ x * ((1 - share) / count) + share * np.eye(columns)
    aim = y @ x * ((1 - share) / count) + share * weights
    signs = np.where(weights >= 0, 1.0, -1.0)
    fields = signs @ gram
    rows = np.arange(len(signs))
    for _ in range(min(2 * columns, MOST_FLIPS)):
        product = (signs * aim).sum(axis=1)
        power = (signs * fields).sum(axis=1)
        products = product[:, None] - 2 * signs * aim
        powers = power[:, None] - 4 * signs * fields + 4 * np.diag(gram)
        merit = np.where(products > 0, products, 0) ** 2 / np.maximum(powers, 1e-30)
        best = merit.argmax(axis=1)
        better = merit[rows, best] > np.maximum(product, 0) ** 2 / power * (1 + 1e-9)
        if not better.any():
            break
        found, places = rows[better], best[better]
        fields[found] -= 2 * signs[found, places][:, None] * gram[places]
        signs[found, places] *= -1
    return signs


def _patches(layer: Layer, signs: Array) -> list[Array]:
    """Return what each group of filters is multiplied with: (places, columns)."""
    node = layer.node
    assert layer.weights is not None
    if node.op != "Conv":
        return [signs]
    found = window(node, layer.weights.shape[2:], signs.shape[2:])
    reach = [d * (k - 1) + 1 for k, d in zip(found.kernel, found.dilation, strict=True)]
    views = np.lib.stride_tricks.sliding_window_view(signs, reach, (2, 3))
    views = views[:, :, :: found.stride[0], :: found.stride[1]]
    views = views[..., :: found.dilation[0], :: found.dilation[1]].transpose(0, 2, 3, 1, 4, 5)
    depth = layer.weights.shape[1]
    return [
        views[:, :, :, first : first + depth].reshape(-1, depth * found.kernel[0] * found.kernel[1])
        for first in range(0, signs.shape[1], depth)
    ]


def _reason(layer: Layer) -> str:
    """Return why a layer has no bipolar form, "" if it has one."""
    node = layer.node
    padded = any(node.get("pads", ())) or "SAME" in node.get("auto_pad", "")
    if node.op == "Conv" and padded:
        return "a bipolar tensor cannot be padded with zeros"
    if node.op == "Add":
        return "a residual sum of bipolar tensors is not supported"
    if node.op in ("Relu", "Clip"):
        return f"{node.op} follows no layer of weights"
    if node.op == "MaxPool" and layer.after:
        return f"{layer.after[0]} follows it, and no layer of weights is between"
    if node.op == "MatMul" and len(layer.shape) != 2:
        return "a bipolar product must be of vectors"
    return ""


def _absorb(layer: Layer, source: _Signs) -> tuple[FloatArray, FloatArray]:
    """Return weights and bias for signs in the place of ``center + half * signs``."""
    weights, bias = layer.weights, layer.bias
    assert weights is not None
    assert bias is not None
    if layer.node.op != "Conv":
        return weights * source.half, bias + weights @ source.center
    center, half = _channel_values(layer, source)
    depth, groups = weights.shape[1], layer.node.get("group", 1)
    first = np.arange(len(weights)) // (len(weights) // groups) * depth
    places = first[:, None] + np.arange(depth)  # of each filter's input channels
    centers, halves = center[places], half[places]
    moved = bias + (weights.sum(axis=(2, 3)) * centers).sum(axis=1)
    return weights * halves[:, :, None, None], moved


def _channel_values(layer: Layer, source: _Signs) -> tuple[FloatArray, FloatArray]:
    """Return center and half of each channel of an image."""
    center, half = source.center, source.half
    if (center != center[:, :1, :1]).any() or (half != half[:, :1, :1]).any():
        raise UserError(f"the input of {layer.node} must have the channels it is binarized with")
    return center[:, 0, 0], half[:, 0, 0]


def _others(batch: Array) -> tuple[int, ...]:
    """Return all axes but that of the channels."""
    return (0, *range(2, batch.ndim))


def _spread(channels: FloatArray, batch: Array) -> FloatArray:
    """Return numbers for each channel in the shape of a sample."""
    shape = (-1, *[1] * (batch.ndim - 2))
    return np.broadcast_to(channels.reshape(shape), batch.shape[1:])


def _quantiles(found: Array, wanted: Array) -> FloatArray:
    """Return what as many of ``found`` reach as of ``wanted`` reach their mean, by channel."""
    rows = np.moveaxis(wanted, 1, 0).reshape(wanted.shape[1], -1).astype(np.float64)
    count = (rows >= rows.mean(axis=1, keepdims=True)).sum(axis=1).clip(1)
    ordered = np.sort(np.moveaxis(found, 1, 0).reshape(found.shape[1], -1), axis=1)
    return ordered[np.arange(len(rows)), rows.shape[1] - count].astype(np.float64)


def _line(found: Array, wanted: Array, axis: int) -> tuple[FloatArray, FloatArray]:
    """Return slope and offset, by channel, that bring ``found`` nearest to ``wanted``."""
    x, y = (
        np.moveaxis(part, axis, 0).reshape(part.shape[axis], -1).astype(np.float64)
        for part in (found, wanted)
    )
    moved = x - x.mean(axis=1, keepdims=True)
    variance = (moved**2).mean(axis=1)
    slope = (moved * y).mean(axis=1) / np.where(variance > 0, variance, 1)
    slope = np.where(slope > 0.01, slope, 0.01)  # signs of weights stay
    return slope, y.mean(axis=1) - slope * x.mean(axis=1)
