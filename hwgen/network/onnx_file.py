"""Reading ONNX files with care: graph, constants and shapes, or an error that says what to mend.

Nothing in a file is trusted: external data is read only from within the model's folder, sizes are
looked at before anything is allocated, and every shape is known before an importer starts.
"""

from dataclasses import dataclass
from heapq import heappop, heappush
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError
from onnx.reference import ReferenceEvaluator

from hwgen.errors import UserError

from .unsupported import Unsupported

__all__ = ["INTEGER_RANGES", "Node", "OnnxGraph", "Unsupported", "positive_scales"]

Array = npt.NDArray[Any]

#: Least and greatest integer of ONNX's element types that quantization uses.
INTEGER_RANGES = {
    f"{sign}INT{bits}": (-(1 << bits - 1), (1 << bits - 1) - 1)
    if not sign
    else (0, (1 << bits) - 1)
    for sign in ("", "U")
    for bits in (2, 4, 8, 16, 32)
}

#: Versions of the operator sets whose meaning is known here; "" is ONNX's own.
OPSETS = {
    "": (7, 26),
    "com.microsoft": (1, 1),
    "qonnx.custom_op.general": (1, 2),
    "finn.custom_op.general": (1, 2),
    "finn": (1, 2),
    "onnx.brevitas": (1, 2),
}

#: A tensor with more elements is a mistake, or an attack on this machine's memory.
MAX_ELEMENTS = 1 << 28
MAX_BYTES = 1 << 30

#: Operators of QONNX; files of the zoo have them in several domains, ONNX's own included.
QONNX_OPERATORS = frozenset(
    ("Quant", "IntQuant", "BipolarQuant", "FloatQuant", "Trunc", "MultiThreshold")
)

#: Operators outside ONNX's own set, with one of its own that makes the same shape of some inputs.
_SAME_SHAPE: dict[str, tuple[str, tuple[int, ...]]] = {
    "QLinearAdd": ("Add", (0, 3)),
    "QLinearAveragePool": ("AveragePool", (0,)),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", (0,)),
    "QGemm": ("Gemm", (0, 3)),
    "QuantizeLinear": ("Identity", (0,)),
    "DequantizeLinear": ("Identity", (0,)),
    "QLinearSoftmax": ("Identity", (0,)),
    **dict.fromkeys(QONNX_OPERATORS, ("Identity", (0,))),
}

#: Operators worked out here where their inputs are constants: mostly what computes shapes.
_FOLDED = frozenset(
    (
        *("Add", "Cast", "Concat", "ConstantOfShape", "Div", "Gather", "Identity", "Mul", "Pow"),
        *("Reshape", "Shape", "Slice", "Squeeze", "Sub", "Transpose", "Unsqueeze"),
    )
)


@dataclass(frozen=True, eq=False)
class Node:
    """A node of the graph.

    Attributes
    ----------
    name : str
        As in the file; the name of its first output where it has none.
    op, domain : str
        Of the operator; the domain is "" for ONNX's own.
    inputs, outputs : tuple of str
        Names of tensors, "" where one is left out.
    attributes : dict
        Python values: int, float, str, lists of them; tensors as arrays.
    """

    name: str
    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]

    def input(self, place: int) -> str:
        """Return the name of an input, "" if it is left out."""
        return self.inputs[place] if place < len(self.inputs) else ""

    def get(self, attribute: str, default: Any = None) -> Any:
        """Return an attribute's value."""
        return self.attributes.get(attribute, default)

    def __str__(self) -> str:
        return f"{self.op} {self.name!r}"


class OnnxGraph:
    """A model's graph.

    Attributes
    ----------
    name : str
        The file's, without its suffix.
    nodes : list of Node
        Each after those it depends on; without constants, which are in :attr:`constants`.
    constants : dict of array by tensor name
        Initializers, ``Constant`` nodes and what follows from constants alone (of shapes). Types
        that NumPy lacks are widened: INT4 to int8, bfloat16 to float32; see :attr:`types`.
    shapes : dict of tuple of int by tensor name
        The batch comes first; it is 1 where the file leaves it open.
    types : dict of str by tensor name
        ONNX's names of element types, e.g. ``"INT8"``.
    inputs, outputs : list of str
        Names of tensors; initializers are no inputs.
    producers : dict of Node by tensor name
    consumers : dict of list of Node by tensor name
    opsets : dict of int by domain
    """

    def __init__(self, model: Any, name: str) -> None:
        """Take a ``ModelProto`` without external data; see :meth:`load`."""
        self.name = name
        _check_text(model, name)
        _check_tensors(model, name)
        _sort(model, name)
        shadow = _shadow(model)
        try:
            onnx.checker.check_model(shadow)
        except (onnx.checker.ValidationError, ValueError, RuntimeError, TypeError) as error:
            raise UserError(f"model {name!r} is not valid ONNX: {_first_line(error)}") from error
        self.opsets = _opsets(model, name)
        self.outputs = [value.name for value in model.graph.output]
        self.constants: dict[str, Array] = {}
        self.types: dict[str, str] = {}
        for tensor in model.graph.initializer:
            self._add_constant(tensor.name, tensor)
        self.inputs = [v.name for v in model.graph.input if v.name not in self.constants]
        if not self.inputs:
            raise UserError(f"model {name!r} must have an input")
        _fix_batch(shadow, self.inputs, name)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._infer(shadow)
        self.nodes: list[Node] = []
        for proto in model.graph.node:
            node = _node(proto)
            if proto.op_type == "Constant" and not node.domain:
                self._add_constant(node.outputs[0], _constant_tensor(proto, name))
            elif not self._fold(proto, node):
                self.nodes.append(node)
        self._infer(_with_constants(shadow, self.constants, {n.outputs[0] for n in self.nodes}))
        self._check_shapes()
        self.producers = {out: node for node in self.nodes for out in node.outputs if out}
        self.consumers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for found in dict.fromkeys(node.inputs):
                self.consumers.setdefault(found, []).append(node)

    @classmethod
    def load(cls, path: Path) -> "OnnxGraph":
        """Return the graph of a file.

        Raises
        ------
        UserError
            If the file is missing, corrupt, too large, refers to data outside its folder, has
            dynamic shapes or dimensions that cannot be meant, or needs an unknown operator set.
        """
        try:
            if not path.is_file():
                raise UserError(f"model {str(path)!r} must be a file")
            if path.stat().st_size > MAX_BYTES:
                raise UserError(f"model {str(path)!r} must have at most {MAX_BYTES:,} bytes")
            model = onnx.load_model_from_string(path.read_bytes())
        except OSError as error:
            raise UserError(f"model {str(path)!r} cannot be read: {error.strerror}") from error
        except (DecodeError, ValueError, RuntimeError) as error:
            raise UserError(f"model {str(path)!r} is corrupt, or not ONNX") from error
        if not model.HasField("graph") or not model.graph.node:
            raise UserError(f"model {str(path)!r} is corrupt, or not ONNX: it has no graph")
        _load_external_data(model, path)
        return cls(model, path.stem)

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Return a tensor's shape, batch included.

        Raises
        ------
        UserError
            If it does not follow from the file.
        """
        if tensor not in self.shapes:
            raise UserError(f"model {self.name!r}: the shape of tensor {tensor!r} must be static")
        return self.shapes[tensor]

    def constant(self, tensor: str, node: Node) -> Array:
        """Return a constant.

        Raises
        ------
        UserError
            If the tensor is not constant, or not finite.
        """
        if tensor not in self.constants:
            raise UserError(f"input {tensor!r} of {node} must be constant")
        found = self.constants[tensor]
        if found.dtype.kind == "f" and not np.isfinite(found).all():
            raise UserError(f"constant {tensor!r} of {node} must be finite")
        return found

    def _add_constant(self, name: str, tensor: Any) -> None:
        self.types[name] = _type_name(tensor.data_type, name)
        try:
            found = np.asarray(onnx.numpy_helper.to_array(tensor))
        except (ValueError, TypeError, RuntimeError, KeyError, OverflowError) as error:
            raise UserError(
                f"constant {name!r} is corrupt: its data do not fill the shape {list(tensor.dims)}"
            ) from error
        if found.dtype.kind not in "biufcOSU":  # ml_dtypes
            integer = "INT" in self.types[name]
            found = found.astype(np.int8 if integer else np.float32)
            if self.types[name] in ("UINT2", "UINT4"):
                found = found.astype(np.uint8)
        self.constants[name] = found

    def _infer(self, model: Any) -> None:
        try:
            inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
            raise UserError(f"shapes of model {self.name!r} clash: {_first_line(error)}") from error
        graph = inferred.graph
        for value in (*graph.input, *graph.value_info, *graph.output):
            dims = value.type.tensor_type.shape.dim
            kind = _type_name(value.type.tensor_type.elem_type, value.name)
            self.types.setdefault(value.name, kind)
            known = all(dim.HasField("dim_value") for dim in dims)
            if value.type.tensor_type.HasField("shape") and known:
                self.shapes[value.name] = tuple(dim.dim_value for dim in dims)
        for name, constant in self.constants.items():
            self.shapes[name] = constant.shape

    def _fold(self, proto: Any, node: Node) -> bool:
        """Work out a node of constants alone; return whether that was done."""
        if node.domain or node.op not in _FOLDED or node.outputs[0] not in self.shapes:
            return False
        if np.prod(self.shapes[node.outputs[0]], dtype=object) > MAX_ELEMENTS:
            return False
        known = {name: self.constants[name] for name in node.inputs if name in self.constants}
        if node.op == "Shape" and node.inputs[0] in self.shapes:
            found = np.array(self.shapes[node.inputs[0]], np.int64)
            found = found[slice(node.get("start", 0), node.get("end"))]
        elif len(known) == sum(map(bool, node.inputs)):
            try:
                found = _run(proto, self.opsets, known)
            except Exception:  # then the node stays, and its importer names it
                return False
        else:
            return False
        self.constants[node.outputs[0]] = found
        self.types.setdefault(node.outputs[0], self.types.get(node.input(0), "INT64"))
        return True

    def _check_shapes(self) -> None:
        for name, shape in self.shapes.items():
            if name in self.constants:
                continue
            if min(shape, default=1) < 1 or np.prod(shape, dtype=object) > MAX_ELEMENTS:
                raise UserError(
                    f"dimensions of tensor {name!r} must be positive with a product of at most "
                    f"{MAX_ELEMENTS:,}, not {list(shape)}"
                )


def positive_scales(scales: npt.ArrayLike, what: str) -> npt.NDArray[np.float32]:
    """Return scales as float32.

    Parameters
    ----------
    scales : array of float
    what : str
        For messages, e.g. ``"scale 's' of QuantizeLinear 'q'"``.

    Raises
    ------
    UserError
        If one is not finite or not above 0.
    """
    found = np.asarray(scales, np.float32)
    wrong = found[~(np.isfinite(found) & (found > 0))]
    if wrong.size:
        raise UserError(f"{what} must be finite and above 0, not {wrong.flat[0]:g}")
    return found


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason")


def _run(proto: Any, opsets: dict[str, int], inputs: dict[str, Array]) -> Array:
    """Return the first output of a node of ONNX's own."""
    graph = onnx.helper.make_graph(
        [proto],
        "node",
        [onnx.ValueInfoProto(name=name) for name in inputs],
        [onnx.ValueInfoProto(name=proto.output[0])],
    )
    opset = onnx.helper.make_opsetid("", opsets[""])
    model = onnx.helper.make_model(graph, opset_imports=[opset])
    found: Any = ReferenceEvaluator(model).run(None, dict(inputs))
    return np.asarray(found[0])


def _type_name(number: int, tensor: str) -> str:
    """Return ONNX's name of an element type."""
    try:
        return str(onnx.TensorProto.DataType.Name(number))
    except ValueError as error:
        raise UserError(f"tensor {tensor!r} has element type {number}, unknown to ONNX") from error


def _tensors(model: Any) -> list[Any]:
    """Return every tensor that the graph itself holds."""
    found = list(model.graph.initializer)
    for node in model.graph.node:
        for attribute in node.attribute:
            found += [attribute.t] if attribute.HasField("t") else []
            found += attribute.tensors
    return found


def _check_text(model: Any, name: str) -> None:
    """Refuse names that are not text; protobuf gives these as bytes."""
    graph = model.graph
    for node in graph.node:
        texts = [node.name, node.op_type, node.domain, *node.input, *node.output]
        texts += [attribute.name for attribute in node.attribute]
        if not all(isinstance(text, str) for text in texts):
            raise UserError(f"model {name!r} is corrupt: a node's names are not text")
    named = [*graph.initializer, *graph.input, *graph.output, *graph.value_info]
    if not all(isinstance(found.name, str) for found in named):
        raise UserError(f"model {name!r} is corrupt: a tensor's name is not text")


def _check_tensors(model: Any, name: str) -> None:
    if model.functions or model.graph.sparse_initializer:
        raise UserError(f"model {name!r} must have no local functions and no sparse initializers")
    for tensor in _tensors(model):
        size = np.prod(list(tensor.dims), dtype=object)
        if min(tensor.dims, default=1) < 0 or size > MAX_ELEMENTS:
            raise UserError(
                f"dimensions of constant {tensor.name!r} must be 0 or more with a product of at "
                f"most {MAX_ELEMENTS:,}, not {list(tensor.dims)}"
            )
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise UserError(f"constant {tensor.name!r} is in a file of its own, which is not there")


def _load_external_data(model: Any, path: Path) -> None:
    """Bring constants kept in other files into the model; these must be in the model's folder."""
    total = 0
    for tensor in _tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        what = f"external data of constant {tensor.name!r}"
        found = _inside(path.parent, entries.get("location", ""), what)
        try:
            offset = int(entries.get("offset") or 0)
            length = int(entries.get("length") or found.stat().st_size - offset)
        except ValueError as error:
            raise UserError(f"offset and length of the {what} must be integers") from error
        total += length
        if offset < 0 or length < 0 or offset + length > found.stat().st_size:
            raise UserError(
                f"{what} must be within the {found.stat().st_size:,} bytes of {found.name!r}, "
                f"not {length:,} bytes from {offset:,}"
            )
        if total > MAX_BYTES:
            raise UserError(f"external data of a model must have at most {MAX_BYTES:,} bytes")
        with found.open("rb") as file:
            file.seek(offset)
            tensor.raw_data = file.read(length)
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def _inside(folder: Path, location: str, what: str) -> Path:
    """Return a path that lies within a folder, links followed."""
    parts = PurePosixPath(location).parts + PureWindowsPath(location).parts
    outside = (
        not location
        or "\0" in location
        or ".." in parts
        or PurePosixPath(location).is_absolute()
        or PureWindowsPath(location).anchor != ""
    )
    if not outside:
        found = (folder / location).resolve()
        outside = not found.is_relative_to(folder.resolve())
    if outside:
        raise UserError(f"{what} must be in the model's folder, not at {location!r}")
    if not found.is_file():
        raise UserError(f"{what} must be a file: {location!r} is none")
    return found


def _sort(model: Any, name: str) -> None:
    """Put nodes after those they depend on, otherwise in the file's order."""
    nodes = list(model.graph.node)
    made = {out for node in nodes for out in node.output if out}
    waiting = [len({found for found in node.input if found in made}) for node in nodes]
    users: dict[str, list[int]] = {}
    for i, node in enumerate(nodes):
        for found in {x for x in node.input if x in made}:
            users.setdefault(found, []).append(i)
    order: list[int] = []
    ready = [i for i in range(len(nodes)) if not waiting[i]]  # a heap
    while ready:
        i = heappop(ready)
        order.append(i)
        for out in nodes[i].output:
            for user in users.get(out, []):
                waiting[user] -= 1
                if not waiting[user]:
                    heappush(ready, user)
    if len(order) < len(nodes):
        left = next(nodes[i] for i in range(len(nodes)) if waiting[i])
        raise UserError(f"model {name!r} has a cycle through node {left.name or left.output[0]!r}")
    if order != list(range(len(nodes))):
        copies = [onnx.NodeProto.FromString(nodes[i].SerializeToString()) for i in order]
        del model.graph.node[:]
        model.graph.node.extend(copies)


def _opsets(model: Any, name: str) -> dict[str, int]:
    """Return the version of every domain, once those in use are known here."""
    opsets = {_domain(found.domain): found.version for found in model.opset_import}
    for domain in dict.fromkeys(_domain(node.domain) for node in model.graph.node):
        if domain not in OPSETS:
            continue  # its nodes are listed as unsupported
        low, high = OPSETS[domain]
        version = opsets.get(domain, low if domain else 0)
        if not low <= version <= high:
            raise UserError(
                f"model {name!r} uses version {version} of operator set "
                f"{domain or 'ai.onnx'!r}, which must be {low} to {high}"
            )
    return opsets


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _node(proto: Any) -> Node:
    attributes = {}
    for attribute in proto.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        elif isinstance(value, onnx.TensorProto):
            value = onnx.numpy_helper.to_array(value)
        elif not isinstance(value, int | float | str | onnx.GraphProto):
            value = list(value)
        attributes[attribute.name] = value
    name = proto.name or next((out for out in proto.output if out), "")
    return Node(
        *(name, proto.op_type, _domain(proto.domain)),
        *(tuple(proto.input), tuple(proto.output), attributes),
    )


def _constant_tensor(proto: Any, model: str) -> Any:
    """Return the tensor of a ``Constant`` node."""
    for attribute in proto.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if attribute.name == "value":
            return value
        if attribute.name in ("value_float", "value_floats"):
            return onnx.numpy_helper.from_array(np.array(value, np.float32))
        if attribute.name in ("value_int", "value_ints"):
            return onnx.numpy_helper.from_array(np.array(value, np.int64))
    raise UserError(f"constant {proto.output[0]!r} of model {model!r} must be a tensor of numbers")


def _shadow(model: Any) -> Any:
    """Return a copy for onnx's checker and inference of shapes: all operators are ONNX's own.

    Those that nobody knows go to a domain that both leave alone.
    """
    shadow = onnx.ModelProto()
    shadow.CopyFrom(model)
    del shadow.graph.value_info[:]
    for value in shadow.graph.output:
        value.type.tensor_type.shape.SetInParent()  # the checker wants one; runtimes do not
    for node in shadow.graph.node:
        foreign = bool(_domain(node.domain)) or node.op_type in QONNX_OPERATORS
        if foreign and node.op_type in _SAME_SHAPE:
            _replace(node)
        elif foreign or not onnx.defs.has(node.op_type):
            node.domain = "unknown"
    shadow.opset_import.append(onnx.helper.make_opsetid("unknown", 1))
    return shadow


def _fix_batch(shadow: Any, inputs: list[str], name: str) -> None:
    """Set an open batch to 1; no other dimension may be open. What outputs say is forgotten."""
    for value in shadow.graph.output:
        value.type.tensor_type.ClearField("shape")
    for value in shadow.graph.input:
        if value.name not in inputs:
            continue
        kind = value.type.tensor_type
        if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
            raise UserError(f"input {value.name!r} of model {name!r} must be a tensor with a shape")
        for place, dim in enumerate(kind.shape.dim):
            if place == 0 and not dim.dim_value:
                dim.dim_value = 1
            if not dim.HasField("dim_value"):
                raise UserError(
                    f"dimension {place} of input {value.name!r} must be static, not "
                    f"{dim.dim_param or 'unknown'!r}; only the batch may be open"
                )
        shape = [dim.dim_value for dim in kind.shape.dim]
        if min(shape, default=1) < 1 or np.prod(shape, dtype=object) > MAX_ELEMENTS:
            raise UserError(
                f"dimensions of input {value.name!r} must be positive with a product of at most "
                f"{MAX_ELEMENTS:,}, not {shape}"
            )


def _replace(node: Any) -> None:
    """Turn a node of another domain into ONNX's own with an output of the same shape."""
    op, places = _SAME_SHAPE[node.op_type]
    inputs = [node.input[place] for place in places if place < len(node.input)]
    del node.input[:]
    node.input.extend(inputs)
    node.op_type, node.domain = op, ""
    kept = {
        "Gemm": ("transA", "transB"),
        "AveragePool": ("auto_pad", "ceil_mode", "kernel_shape", "pads", "strides"),
    }.get(op, ())
    attributes = [attribute for attribute in node.attribute if attribute.name in kept]
    del node.attribute[:]
    node.attribute.extend(attributes)


def _with_constants(model: Any, constants: dict[str, Array], made: set[str]) -> Any:
    """Return a model whose nodes that were worked out are initializers."""
    old = {tensor.name for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.output[0] in made]
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    for name in sorted(constants.keys() - old):
        if constants[name].dtype.kind in "biuf":
            model.graph.initializer.append(onnx.numpy_helper.from_array(constants[name], name))
    return model
