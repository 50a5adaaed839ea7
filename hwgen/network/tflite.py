"""From an int8 TFLite file to a network in integers, bit for bit as its reference kernels.

Source: TFLite's 8-bit quantization specification, and where that leaves a choice the reference
kernels (``OpResolverType.BUILTIN_REF``) of LiteRT 2.3: multipliers are made in the same mix of
single and double precision, and every rounding is theirs.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy.typing as npt

from hwgen.errors import UserError

from .graph import Network
from .tflite_border import DTYPES, Step, check_batch, check_type, host_step
from .tflite_file import TfliteFile, TfliteOperator, read_file
from .tflite_layers import HEAD, RESHAPES, TAIL, Layers
from .tflite_options import check_same_size, sample_shape
from .unsupported import Unsupported

__all__ = ["read_tflite"]

Array = npt.NDArray[Any]
#: An operator and its place in the file.
Numbered = tuple[int, TfliteOperator]

#: Operators that only compute the shapes of others, which are known.
SHAPES = frozenset(("SHAPE", "STRIDED_SLICE", "PACK"))


def read_tflite(path: Path) -> Network:
    """Return the network of an int8 TFLite file.

    Quantizing a float or uint8 input, and what follows the last layer (softmax, dequantizing), stay
    on the host. Reshapes vanish: a fully connected layer over a flattened image becomes a
    convolution as large as the image. Operations are called after the operator and its place in the
    file, e.g. ``conv_2d_0``.

    Raises
    ------
    UserError
        If the file cannot be read or is corrupt; or with a list of all that is not supported.
    """
    return _Importer(read_file(path), path.stem).network()


class _Importer:
    """Takes one file apart: what the host does before, the layers, and what it does after."""

    def __init__(self, file: TfliteFile, name: str):
        self.file = file
        self.name = name
        self.unsupported = Unsupported(name)
        self.layers = Layers(file, self.unsupported)
        self.operators = [
            node for node in enumerate(file.operators) if not self.computes_shape(node[1])
        ]

    def network(self) -> Network:
        source, target = (
            self.single(kind, indices)
            for kind, indices in (("input", self.file.inputs), ("output", self.file.outputs))
        )
        head = self.head(source)
        first = head[-1][1].outputs[0] if head else source
        tail = self.tail(target, first)
        last = tail[0][1].inputs[0] if tail else target
        before, after = self.steps(head), self.steps(tail)
        border = {index for index, _ in head + tail}

        layers, tensors = self.layers, self.file.tensors
        self.attempt("input", lambda: before.insert(0, check_batch(tensors[source])))
        self.attempt("input", lambda: layers.enter(first))
        self.attempt("output", lambda: check_type(tensors[target]))
        for index, operator in self.operators:
            if index not in border:
                layers.lower(index, operator)
        self.unsupported.check()
        output = layers.values.get(last)
        if output is None or not layers.operations:
            raise UserError(f"model {self.name!r} must have a layer that leads to its output")
        self.attempt("output", output.bare)
        self.unsupported.check()

        image, inner = layers.tensors[layers.names[first]].shape, tensors[last].shape[1:]
        outer = DTYPES[tensors[target].type]

        def encode(batch: Array) -> Array:
            for step in before:
                batch = step(batch)
            return batch.reshape(len(batch), *image)

        def decode(batch: Array) -> Array:
            batch = batch.reshape(len(batch), *inner)
            for step in after:
                batch = step(batch)
            return batch.astype(outer)

        return Network(
            name=self.name,
            tensors=layers.tensors,
            operations=layers.operations,
            input=layers.names[first],
            output=output.tensor.name,
            encode=encode,
            decode=decode,
            notes=[f"on the host: {layers.label(*node)}" for node in head + tail],
        )

    def attempt(self, place: str, function: Callable[[], object]) -> None:
        """Call a function, a ValueError of which tells what is not supported."""
        try:
            function()
        except ValueError as error:
            self.unsupported.add(place, error)

    def single(self, kind: str, indices: tuple[int, ...]) -> int:
        """Return the model's input or output, of which there must be one."""
        if len(indices) != 1 or indices[0] < 0:
            raise UserError(f"model {self.name!r} must have one {kind}, not {len(indices)}")
        return indices[0]

    def computes_shape(self, operator: TfliteOperator) -> bool:
        """Return whether an operator only computes the shape of another's output."""
        return operator.kind in SHAPES and all(
            index >= 0 and self.file.tensors[index].type == "INT32" for index in operator.outputs
        )

    def head(self, source: int) -> list[Numbered]:
        """Return the operators that stay on the host before the first layer."""
        found: list[Numbered] = []
        while True:
            users = [node for node in self.operators if source in node[1].inputs]
            if len(users) != 1 or users[0] in found or not _plain(users[0][1], HEAD):
                return found
            operator = users[0][1]
            if operator.inputs[0] != source or operator.outputs[0] in self.file.outputs:
                return found
            found.append(users[0])
            source = operator.outputs[0]

    def tail(self, target: int, first: int) -> list[Numbered]:
        """Return the operators that stay on the host after the last layer."""
        found: list[Numbered] = []
        while target != first:
            makers = [node for node in self.operators if target in node[1].outputs]
            if len(makers) != 1 or makers[0] in found or not _plain(makers[0][1], TAIL):
                break
            target = makers[0][1].inputs[0]
            if sum(target in operator.inputs for _, operator in self.operators) != 1:
                break
            found.insert(0, makers[0])
        return found

    def steps(self, nodes: list[Numbered]) -> list[Step]:
        """Return what operators at the border compute."""
        found: list[Step] = []
        for index, operator in nodes:
            try:
                found.append(self.step(operator))
            except ValueError as error:
                self.unsupported.add(self.layers.label(index, operator), error)
        return found

    def step(self, operator: TfliteOperator) -> Step:
        """Return what an operator at the border computes."""
        source, target = (self.file.tensors[i[0]] for i in (operator.inputs, operator.outputs))
        sample_shape(target)
        if operator.kind in RESHAPES:
            check_same_size(source, target)
        elif source.shape != target.shape:
            raise ValueError(f"its output must have shape {list(source.shape)}")
        return host_step(operator, source, target)


def _plain(operator: TfliteOperator, kinds: frozenset[str]) -> bool:
    """Return whether an operator is of these kinds, with the tensors that they need."""
    return (
        operator.kind in kinds
        and bool(operator.inputs)
        and operator.inputs[0] >= 0
        and len(operator.outputs) == 1
        and operator.outputs[0] >= 0
    )
