"""Reading TFLite files with care: plain tensors and operators, or an error that says what is wrong.

Nothing in a file is trusted: every index and every size is checked, and a flatbuffer that does not
hold together, however it fails, is one clear error. Source: TFLite's ``schema.fbs``.
"""

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tflite

from hwgen.errors import UserError

__all__ = ["TfliteFile", "TfliteOperator", "TfliteTensor", "read_file"]

#: A tensor of more elements is a mistake, or an attack on this machine's memory.
MAX_ELEMENTS = 1 << 28
MAX_RANK = 6

#: What NumPy calls the types of constants that are read.
_DTYPES = {"INT8": "<i1", "UINT8": "<u1", "INT32": "<i4", "INT64": "<i8"}

#: Of each operator with options: their flatbuffer class, and those that matter.
_CONV = ("Padding", "StrideH", "StrideW", "DilationHFactor", "DilationWFactor")
_POOL = ("Padding", "StrideH", "StrideW", "FilterHeight", "FilterWidth")
_OPTIONS = {
    "CONV_2D": ("Conv2DOptions", (*_CONV, "FusedActivationFunction")),
    "DEPTHWISE_CONV_2D": ("DepthwiseConv2DOptions", (*_CONV, "FusedActivationFunction")),
    "FULLY_CONNECTED": ("FullyConnectedOptions", ("FusedActivationFunction", "WeightsFormat")),
    "ADD": ("AddOptions", ("FusedActivationFunction",)),
    "AVERAGE_POOL_2D": ("Pool2DOptions", (*_POOL, "FusedActivationFunction")),
    "MAX_POOL_2D": ("Pool2DOptions", (*_POOL, "FusedActivationFunction")),
    "SOFTMAX": ("SoftmaxOptions", ("Beta",)),
}

# What the flatbuffers package raises when offsets, lengths or types are nonsense.
_NONSENSE = (
    struct.error,
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, eq=False)
class TfliteTensor:
    """A tensor of the file.

    Attributes
    ----------
    name : str
        May be empty, and another tensor's too.
    shape : tuple of int
        With the batch; every dimension at least 1.
    dynamic : bool
        Whether a dimension other than the first may change.
    type : str
        As in the schema: ``"INT8"``, ``"FLOAT32"``.
    scales, zero_points : arrays (channels), (1) or (0)
        float32 and int64.
    axis : int
        That of the scales, where there are several.
    data : array or None
        Of a constant.
    """

    name: str
    shape: tuple[int, ...]
    dynamic: bool
    type: str
    scales: npt.NDArray[np.float32]
    zero_points: npt.NDArray[np.int64]
    axis: int
    data: npt.NDArray[Any] | None


@dataclass(frozen=True)
class TfliteOperator:
    """An operator of the file.

    Attributes
    ----------
    kind : str
        As in the schema: ``"CONV_2D"``.
    inputs, outputs : tuple of int
        Tensors; an input that is left out is -1.
    options : dict
        Numbers by their names in the schema; empty where the file has none.
    """

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, float]


@dataclass(frozen=True)
class TfliteFile:
    """The first subgraph of a file."""

    tensors: list[TfliteTensor]
    operators: list[TfliteOperator]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def read_file(path: Path) -> TfliteFile:
    """Return what a TFLite file holds.

    Raises
    ------
    UserError
        If the file cannot be read, is not a TFLite file or is corrupt.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if content[4:8] != b"TFL3":
        raise UserError(f"{path} must be a TFLite file (bytes 4 to 7 'TFL3')")
    try:
        return _Reader(content).read()
    except _NONSENSE as error:
        raise UserError(f"{path} must be a whole TFLite file, but is corrupt: {error}") from error


class _Reader:
    """Reads one file; raises one of ``_NONSENSE`` where it is corrupt."""

    def __init__(self, content: bytes):
        self.model = tflite.Model.GetRootAs(content, 0)
        self.types = {code: name for name, code in vars(tflite.TensorType).items()}

    def read(self) -> TfliteFile:
        for index in range(self.model.BuffersLength()):
            self.model.Buffers(index).DataAsNumpy()  # a truncated file fails here at the latest
        graph = self.model.Subgraphs(0)
        tensors = [self.tensor(graph.Tensors(i)) for i in range(graph.TensorsLength())]
        count = len(tensors)
        return TfliteFile(
            tensors,
            [self.operator(graph.Operators(i), count) for i in range(graph.OperatorsLength())],
            _indices(graph.InputsAsNumpy(), count),
            _indices(graph.OutputsAsNumpy(), count),
        )

    def tensor(self, tensor: Any) -> TfliteTensor:
        name = (tensor.Name() or b"").decode(errors="replace")
        shape = _vector(tensor.ShapeAsNumpy(), MAX_RANK)
        signature = _vector(tensor.ShapeSignatureAsNumpy(), MAX_RANK)
        if any(size < 1 for size in shape) or math.prod(shape) > MAX_ELEMENTS:
            raise ValueError(f"tensor {name!r} has shape {list(shape)}")
        kind = self.types[tensor.Type()]
        quantization = tensor.Quantization()
        scales = np.zeros(0, np.float32)
        zero_points = np.zeros(0, np.int64)
        axis = 0
        if quantization is not None and quantization.ScaleLength():
            scales = np.array(quantization.ScaleAsNumpy(), np.float32)
            zero_points = np.zeros(scales.size, np.int64)
            if quantization.ZeroPointLength():
                zero_points[:] = quantization.ZeroPointAsNumpy()
            axis = quantization.QuantizedDimension()
        return TfliteTensor(
            name=name,
            shape=shape,
            dynamic=any(size < 1 for size in signature[1:]),
            type=kind,
            scales=scales,
            zero_points=zero_points,
            axis=axis,
            data=self.constant(tensor, name, shape, kind),
        )

    def constant(
        self, tensor: Any, name: str, shape: tuple[int, ...], kind: str
    ) -> npt.NDArray[Any] | None:
        """Return the data of a constant; of a type that is not read, its bytes."""
        if tensor.Buffer() >= self.model.BuffersLength():
            raise ValueError(f"tensor {name!r} is in buffer {tensor.Buffer()}")
        buffer = self.model.Buffers(tensor.Buffer())
        if buffer.Offset() > 1 or tensor.Sparsity() is not None:
            raise UserError(f"tensor {name!r} must be dense, and stored within the flatbuffer")
        if not buffer.DataLength():
            return None
        data = np.array(buffer.DataAsNumpy())
        if kind not in _DTYPES:
            return data
        dtype = np.dtype(_DTYPES[kind])
        if data.size != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"tensor {name!r} of shape {list(shape)} has {data.size} bytes")
        return data.view(dtype).reshape(shape)

    def operator(self, operator: Any, tensors: int) -> TfliteOperator:
        if operator.OpcodeIndex() >= self.model.OperatorCodesLength():
            raise ValueError(f"an operator has code {operator.OpcodeIndex()}")
        code = self.model.OperatorCodes(operator.OpcodeIndex())
        # Files of old writers have the first of the two only.
        number = max(code.DeprecatedBuiltinCode(), code.BuiltinCode())
        try:
            kind = tflite.opcode2name(number)
        except ValueError:
            kind = f"operator code {number}"
        if kind == "CUSTOM":
            kind = (code.CustomCode() or b"CUSTOM").decode(errors="replace")
        options: dict[str, float] = {}
        table, names = _OPTIONS.get(kind, ("NONE", ()))
        found = operator.BuiltinOptions()
        if (
            found is not None
            and names
            and operator.BuiltinOptionsType() == getattr(tflite.BuiltinOptions, table)
        ):
            reader = getattr(tflite, table)()
            reader.Init(found.Bytes, found.Pos)
            options = {name: getattr(reader, name)() for name in names}
        return TfliteOperator(
            kind,
            _indices(operator.InputsAsNumpy(), tensors),
            _indices(operator.OutputsAsNumpy(), tensors),
            options,
        )


def _vector(found: Any, limit: int) -> tuple[int, ...]:
    """Return a vector of the file; an absent one is 0."""
    if isinstance(found, int):
        return ()
    if len(found) > limit:
        raise ValueError(f"a tensor has {len(found)} dimensions")
    return tuple(int(size) for size in found)


def _indices(found: Any, count: int) -> tuple[int, ...]:
    """Return indices of tensors, -1 standing for none."""
    indices = _vector(found, count + 1)
    if any(not -1 <= index < count for index in indices):
        raise ValueError(f"tensors {list(indices)} of {count} are referred to")
    return indices
