"""Binarizing a float ONNX model after training: a QONNX model of signs.

Weights become ``mean(|w|) * sign(w)`` as in XNOR-Net (arXiv 1603.05279, section 3.1). An activation
becomes one of two values in each channel, ``center + half * sign(x - threshold)``: the threshold is
its mean over the calibration, the two values are the means above and below. Centers go into the
next layer's bias and halves into its weights before these are binarized, so that what is left is
signs alone; batch normalization, ReLU and pooling are all within the threshold.

Layers are binarized in order. The threshold of a layer's sums is put where as many of them lie
above it as lay above the mean in the float model, given what the layers before have become; the
last layer's answers are fitted to the float model's by a line in each channel.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from hwgen.errors import UserError

from .float_model import VIEWS, Array, FloatArray, Layer, run, run_each
from .onnx_file import Node, OnnxGraph
from .qonnx import read_qonnx
from .quantize_writer import OPSET, ModelWriter
from .unsupported import Unsupported

__all__ = ["Binarizer"]

DOMAIN = "qonnx.custom_op.general"

NOTE = (
    "binarized after training, which loses accuracy: compare with the float model on data that are "
    "not the calibration's; a network trained with binary weights and activations does far better"
)


@dataclass(frozen=True, eq=False)
class _Signs:
    """A binarized tensor: ``center + half * signs``.

    ``signs`` are those of the calibration, with the batch; ``center`` and ``half`` have the shape
    of a sample. ``name`` is that in the new model.
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
        As :func:`~.float_model.read_layers` returns them, pools inside.
    unsupported : Unsupported
        Receives the layers that have no bipolar form.
    per_channel : bool
        Whether each output channel has weights of its own scale.
    """

    def __init__(
        self,
        graph: OnnxGraph,
        steps: list[Layer | Node],
        unsupported: Unsupported,
        per_channel: bool,
    ) -> None:
        self.graph, self.steps, self.per_channel = graph, steps, per_channel
        self.writer = ModelWriter(graph)
        self.signs: dict[str, _Signs] = {}
        self.batch: Array = np.zeros(0)
        layers = [step for step in steps if isinstance(step, Layer)]
        for layer in layers:
            for reason in _reasons(layer):
                unsupported.add(layer.node, reason)
        made = {layer.output for layer in layers}
        self.before = set(graph.inputs)
        for step in steps:
            if isinstance(step, Node):
                known = made if made.intersection(step.inputs) else self.before
                known.update(step.outputs)
        self.last = layers[-1] if layers else None

    def quantize(self, batch: Array) -> Any:
        """Return the model, after a batch of the float model's inputs."""
        if self.last is None:
            raise UserError(f"model {self.graph.name!r} must have a layer to binarize")
        self.batch = batch
        for step in self.steps:
            if isinstance(step, Layer):
                self._layer(step)
            elif step.inputs[0] in self.signs:
                self._view(step)
            else:
                source = next(n for n in step.inputs if n and n not in self.graph.constants)
                self.writer.copy(step, source, step.outputs[0])
        self.writer.notes.append(NOTE)
        found = self.writer.finish({DOMAIN: 1})
        read_qonnx(OnnxGraph(found, self.graph.name))  # names what else is not supported
        return found

    def _view(self, node: Node) -> None:
        source = self.signs[node.inputs[0]]
        output = self.writer.copy(node, source.name, node.outputs[0])
        shape = self.graph.shape(output)[1:]

        def move(x: Array) -> Array:
            batched = x.shape[1:] != source.center.shape[1:]
            if node.op == "Transpose":
                order = node.get("perm")
                return x.transpose(order if x.ndim == len(order) else [a - 1 for a in order[1:]])
            return x.reshape((len(x), *shape) if batched else shape)

        moved = [move(x) for x in (source.signs, source.center, source.half)]
        self.signs[output] = _Signs(output, *moved)

    def _input(self, name: str) -> _Signs:
        """Return a layer's input; what enters the first one is binarized here."""
        if name not in self.signs:
            writer = self.writer
            found = self._float(name)
            threshold = _channels(found, found.mean(axis=_others(found), dtype=np.float64))
            offset = writer.constant(f"{name}_threshold", threshold[None].astype(np.float32))
            moved = writer.add("Sub", [name, offset], writer.name(f"{name}_centered"))
            self._sign(name, moved, found, found - threshold.astype(np.float32))
        return self.signs[name]

    def _float(self, name: str) -> Array:
        """Return a tensor of the float model for the whole calibration."""
        found = np.concatenate([x[name] for x in run_each(self.graph, [name], self.batch)])
        if not np.isfinite(found).all():
            raise UserError(f"tensor {name!r} must be finite for the calibration, and is not")
        return found

    def _sign(self, name: str, source: str, wanted: Array, compared: Array) -> None:
        """Binarize a tensor: signs of what is compared with 0, and the values they stand for."""
        writer = self.writer
        one = writer.constant(f"{name}_one", np.ones((), np.float32))
        output = writer.name(f"{name}_signs")
        writer.add("BipolarQuant", [source, one], output, domain=DOMAIN)
        signs = np.where(compared >= 0, np.float32(1), np.float32(-1))
        axes = _others(wanted)
        above = (signs > 0).mean(axis=axes)
        mean = wanted.mean(axis=axes, dtype=np.float64)
        high = (wanted * (signs > 0)).mean(axis=axes, dtype=np.float64) / np.maximum(above, 1e-12)
        low = (mean - high * above) / np.maximum(1 - above, 1e-12)
        both = (above > 0) & (above < 1)
        center = np.where(both, (high + low) / 2, mean)
        half = np.where(both, np.maximum(high - low, 0) / 2, 0.0)
        self.signs[name] = _Signs(
            output, signs, _channels(wanted, center), _channels(wanted, half)
        )

    def _layer(self, layer: Layer) -> None:
        writer, node = self.writer, layer.node
        source = self._input(layer.inputs[0])
        last = layer is self.last
        output = layer.output if last and not layer.after else writer.name(f"{layer.output}_real")
        if layer.weights is None:
            if last:
                raise UserError(f"the last layer must have weights, and {node} has none")
            self._pool(layer, source)
            return
        weights, center, bias = _absorbed(layer, source)
        signs = np.where(weights >= 0, 1.0, -1.0)
        flat = abs(weights).reshape(len(weights), -1)
        scale = flat.mean(axis=1) if self.per_channel else np.full(len(flat), flat.mean())
        scale = np.maximum(scale, np.finfo(np.float32).tiny)
        bias = bias + center
        found = self._sums(layer, source, signs * _columns(scale, signs.ndim), bias)
        wanted = self._float(layer.output)
        axes = _others(found)
        if last:
            if not layer.after:
                slope, offset = _line(found, wanted)
                scale, bias = scale * slope, bias * slope + offset
            moved = bias
        else:
            threshold = _quantiles(found, wanted) - scale  # between two sums, which are 2 apart
            found = found - _columns(threshold, found.ndim - 1)[None] if axes else found
            moved = bias - threshold
        names = [
            self._binary_weights(layer, weights, scale),
            writer.constant(f"{output}_bias", moved.astype(np.float32)),
        ]
        final = output
        pools = layer.after if last else [n for n in layer.after if n.op == "MaxPool"]
        first = writer.name(f"{output}_sums") if pools else output
        attributes = node.attributes if node.op == "Conv" else {"transB": 1}
        op = "Conv" if node.op == "Conv" else "Gemm"
        writer.add(op, [source.name, *names], first, name=node.name, **attributes)
        for place, pool in enumerate(pools):
            target = (layer.output if last else final) if place == len(pools) - 1 else (
                writer.name(f"{output}_{place}")
            )
            first = writer.copy(pool, first, target)
        if not last:
            self._sign(layer.output, first, wanted, found)
