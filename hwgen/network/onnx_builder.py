"""Building the integer network of an ONNX graph: tensors, requantizations and the host's border."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hwgen.errors import UserError

from .graph import Add, Conv, HostFunction, Network, Operation, Pool, Tensor
from .onnx_file import INTEGER_RANGES, Node, Unsupported
from .onnx_values import BatchFunction, Codes, FloatArray, Grid, HostOutput, Sums, channels_first
from .requantize import SUM_BITS, IntArray
from .rescaling import Scaling, power_of_two, requantization

__all__ = ["Builder", "Entry", "Refused"]

Array = npt.NDArray[Any]

#: A bias further than this from the sums' grid, in steps of the output, is worth a note.
NOTEWORTHY = 2.0**-10

SUM_LIMIT = 1 << SUM_BITS - 1


class Refused(Exception):  # noqa: N818 - it is caught, and becomes a line of an error
    """Why a node is not supported."""


@dataclass
class _Draft:
    """An operation whose requantization is made once all factors are known; None: it has none."""

    node: Node
    operation: Operation
    scaling: Scaling | None


class Builder:
    """The network so far.

    Parameters
    ----------
    name : str
        Of the network.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.notes: list[str] = []
        self._tensors: dict[str, Tensor] = {}
        self._drafts: list[_Draft] = []
        self._entry: Entry | None = None
        self._largest_rest = (NOTEWORTHY, "")

    # The input.

    def enter(self, entry: "Entry", real: bool) -> Codes:
        """Take the network's input, once."""
        if self._entry is not None:
            raise Refused("the network has another quantized input already")
        self._entry = entry
        count = int(np.prod(entry.shape))
        places = np.arange(count, dtype=np.int64).reshape(entry.shape)
        return Codes(entry.name, places, entry.grid, real)

    def with_grid(self, codes: Codes, grid: Grid | None) -> Codes:
        """Return integers with the grid that their consumer gives, for integers that enter so."""
        if codes.grid is None:
            assert self._entry is not None
            self._entry.grid = self._entry.grid or grid or Grid.plain(self._entry.type)
            codes = replace(codes, grid=self._entry.grid)
        assert codes.grid is not None
        if grid is None:
            return codes
        if (codes.grid.zero, codes.grid.type) != (grid.zero, grid.type):
            raise Refused(
                f"it takes {codes.tensor!r} to have zero point {grid.zero} and type {grid.type}, "
                f"where {codes.grid.zero} and {codes.grid.type} were before"
            )
        return replace(codes, grid=replace(grid, low=codes.grid.low, high=codes.grid.high))

    # Order of elements.

    def image(self, codes: Codes) -> tuple[int, int, int]:
        """Return (height, width, channels) of what ONNX sees as (channels, height, width)."""
        if codes.places.ndim != 3:
            raise Refused(
                f"its input must be an image of two dimensions, (n, c, h, w), and is "
                f"{codes.places.ndim + 1}-D"
            )
        channels, height, width = codes.places.shape
        wanted = channels_first(height, width, channels)
        self._arrange(codes, wanted, (height, width, channels))
        if not np.array_equal(self.places(codes), wanted):
            raise Refused("its input is transposed or reshaped from another order")
        return height, width, channels

    def vectors(self, codes: Codes) -> tuple[tuple[int, int, int], IntArray | None]:
        """Return the shape of a tensor that is multiplied along its last axis.

        Where it is one vector, also the place of each of its elements.
        """
        shape = codes.places.shape
        count = codes.places.size
        order = np.arange(count, dtype=np.int64).reshape(shape)
        self._arrange(codes, order, (1, count // shape[-1], shape[-1]))
        places, found = self.places(codes), self.shape(codes)
        if len(shape) == 1:
            return found, places
        if found[-1] != shape[-1] or not np.array_equal(places, order):
            raise Refused("its input is transposed or reshaped from another order")
        return found, None

    def whole(self, codes: Codes) -> tuple[int, int, int]:
        """Return the shape of a tensor that is taken element by element."""
        if codes.places.ndim == 3:
            channels, height, width = codes.places.shape
            places = channels_first(height, width, channels)
            self._arrange(codes, places, (height, width, channels))
        else:
            count, last = codes.places.size, codes.places.shape[-1]
            places = np.arange(count, dtype=np.int64).reshape(codes.places.shape)
            self._arrange(codes, places, (1, count // last, last))
        return self.shape(codes)

    def places(self, codes: Codes) -> IntArray:
        """Return the place of each element in the network's tensor."""
        entry = self._entry
        if entry is not None and codes.tensor == entry.name and entry.order is not None:
            return entry.order[codes.places]
        return codes.places

    def shape(self, codes: Codes) -> tuple[int, int, int]:
        """Return the shape of the network's tensor."""
        return self._tensors[codes.tensor].shape

    def tensor(self, codes: Codes) -> Tensor:
        """Return the network's tensor."""
        return self._tensors[codes.tensor]

    def _arrange(self, codes: Codes, places: IntArray, shape: tuple[int, int, int]) -> None:
        """Lay out the network's input as its first user needs it; the host obeys."""
        entry = self._entry
        if entry is None or codes.tensor != entry.name or entry.order is not None:
            return
        entry.order = np.empty(codes.places.size, np.int64)
        entry.order[codes.places.ravel()] = places.ravel()
        assert entry.grid is not None
        self._tensors[entry.name] = _tensor(entry.name, shape, entry.grid)

    # Operations.

    def emit(self, node: Node, sums: Sums, name: str, grid: Grid) -> Codes:
        """Add an operation with its requantization and return its output's integers."""
        operation, factor, rest = self._resolve(sums, name, grid.scale)
        low, high = (
            int(np.clip(grid.quantize(np.array(bound)), grid.low, grid.high))
            for bound in (sums.low, sums.high)
        )
        scaling = Scaling(
            factor / grid.scale,
            rest,
            self._bound(operation),
            grid.zero - grid.offset,
            low - grid.offset,
            high - grid.offset,
            grid.high - grid.low + 1,
        )
        self._tensors[name] = _tensor(name, sums.shape, grid)
        self._drafts.append(_Draft(node, operation, scaling))
        return Codes(name, sums.places, grid, False)

    def _emit_sums(self, sums: Sums, name: str) -> tuple[FloatArray, FloatArray]:
        """Add the last operation, whose sums are the output; return their factor and rest."""
        node = Node(sums.operation.name, "", "", (), (), {})
        operation, factor, rest = self._resolve(sums, name, 0.0)
        bound = int(self._bound(operation).max())
        self._tensors[name] = Tensor(name, sums.shape, -bound, bound, 0, float(factor.max()))
        self._drafts.append(_Draft(node, operation, None))
        return factor, rest

    def _resolve(
        self, sums: Sums, name: str, step: float
    ) -> tuple[Operation, FloatArray, FloatArray]:
        """Bring a bias to integers and factors above 0."""
        operation, factor = sums.operation, sums.factor
        if isinstance(operation, Conv):
            weights = operation.weights * np.sign(factor).astype(np.int64)[:, None, None, None]
            # A channel that a factor of 0 made constant keeps only its bias.
            fallback = abs(factor).max() or step or 1.0
            factor = np.where(factor == 0, fallback, abs(factor))
            operation = replace(operation, weights=weights)
        elif (factor <= 0).any():
            raise Refused("its factor is not above 0")
        exact = sums.bias / factor
        bias = np.rint(exact)
        if abs(bias).max() >= SUM_LIMIT:
            raise Refused(f"its bias {abs(sums.bias).max():g} does not fit {SUM_BITS}-bit sums")
        rest = exact - bias
        if step:
            largest = float((abs(rest) * factor / step).max())
            if largest > self._largest_rest[0]:
                self._largest_rest = (largest, operation.name)
        if isinstance(operation, Conv):
            operation = replace(operation, output=name, bias=bias.astype(np.int64))
        elif isinstance(operation, Pool) and (bias == bias[0]).all():
            operation = replace(operation, output=name, bias=operation.bias + int(bias[0]))
        elif bias.any():
            raise Refused("a bias is added that no weights precede")
        else:
            operation = replace(operation, output=name)
        return operation, factor, rest

    def _bound(self, operation: Operation) -> IntArray:
        """Return the greatest magnitude of an operation's sums in each output channel."""
        tensors = [self._tensors[name] for name in operation.inputs]
        reach = [max(t.high - t.zero_point, t.zero_point - t.low) for t in tensors]
        match operation:
            case Conv():
                # In double precision, which cannot wrap; exact below 2**53.
                weights = abs(operation.weights).sum(axis=(1, 2, 3), dtype=np.float64)
                bound = weights * reach[0] + abs(operation.bias)
            case Pool(kind="max"):
                whole = tensors[0]
                ends = (whole.low + operation.bias, whole.high + operation.bias)
                bound = np.full(whole.shape[2], float(max(map(abs, ends))))
            case Pool():
                count, whole = operation.kernel[0] * operation.kernel[1], tensors[0]
                ends = (count * whole.low + operation.bias, count * whole.high + operation.bias)
                bound = np.full(whole.shape[2], float(max(map(abs, ends))))
            case Add():
                total = 0.0
                for distance, rescale in zip(reach, operation.rescale, strict=True):
                    part = float(distance << rescale.left)
                    if rescale.multiplier:
                        part = np.ceil(part * rescale.multiplier * 2.0 ** (rescale.shift - 31))
                    total += part
                bound = np.full(tensors[0].shape[2], total)
            case _:
                raise TypeError(f"operation {operation.name!r} must be one of graph.py")
        if bound.max() >= SUM_LIMIT:
            raise Refused(f"its sums, up to {bound.max():.0f}, must fit {SUM_BITS} bits")
        return bound.astype(np.int64)

    # The end.

    def finish(
        self,
        output: str,
        value: Codes | Sums | HostOutput,
        model: tuple[str, tuple[int, ...]],
        dtype: npt.DTypeLike,
        unsupported: Unsupported,
    ) -> Network:
        """Return the network.

        Parameters
        ----------
        output : str
            The model's output.
        value : Codes, Sums or HostOutput
            What it is.
        model : (str, shape)
            The model's input, batch included.
        dtype : dtype
            Of the model's output.
        unsupported : Unsupported
            For operations whose factors no requantization can apply.
        """
        functions: tuple[BatchFunction, ...] = ()
        if isinstance(value, HostOutput):
            functions, value = value.functions, value.base
        if isinstance(value, Sums):
            factor, rest = self._emit_sums(value, output)
            if np.issubdtype(dtype, np.integer) and not functions:
                factor, rest = np.ones(1), np.zeros(1)
            decode = _decode_sums(value, factor, rest, functions, dtype)
        else:
            places = self.places(value) if self._drafts else value.places
            decode = _decode_codes(value, places, functions, dtype)
        self._merge_clamps()
        operations = self._requantize(unsupported)
        if not operations or self._entry is None:
            raise UserError(f"model {self.name!r} must have a quantized operation")
        used = {self._entry.name, *(operation.output for operation in operations)}
        rest_size, where = self._largest_rest
        if where:
            self.notes.append(
                "biases are rounded to the grids of sums, by up to "
                f"{rest_size:.2g} of an output's step (at {where!r})"
            )
        return Network(
            self.name,
            {name: tensor for name, tensor in self._tensors.items() if name in used},
            operations,
            self._entry.name,
            operations[-1].output,
            _encode(self._entry, self._tensors[self._entry.name].shape, *model),
            decode,
            self.notes,
        )

    def _merge_clamps(self) -> None:
        """Let an operation clamp whose output a further operation only clamps."""
        users: dict[str, int] = {}
        for draft in self._drafts:
            for name in draft.operation.inputs:
                users[name] = users.get(name, 0) + 1
        made: dict[str, _Draft] = {}
        kept = []
        for draft in self._drafts:
            source = made.get(draft.operation.inputs[0])
            second, first = draft.scaling, source.scaling if source else None
            if (
                source is not None
                and first is not None
                and second is not None
                and isinstance(draft.operation, Add)
                and len(draft.operation.inputs) == 1
                and users[draft.operation.inputs[0]] == 1
                and (second.factor == 1).all()
                and second.zero_point == first.zero_point
            ):
                low = min(max(first.low, second.low), second.high)
                high = max(min(first.high, second.high), second.low)
                source.scaling = replace(first, low=low, high=high)
                source.operation = replace(source.operation, output=draft.operation.output)
                draft = source
            else:
                kept.append(draft)
            made[draft.operation.output] = draft
        self._drafts = kept

    def _requantize(self, unsupported: Unsupported) -> list[Operation]:
        """Return all operations, requantized by shifts if that is exact for each."""
        scalings = [draft.scaling for draft in self._drafts if draft.scaling is not None]
        shifts = all(power_of_two(scaling.factor) for scaling in scalings)
        operations = []
        for draft in self._drafts:
            found = None
            if draft.scaling is not None:
                try:
                    found = requantization(draft.scaling, shifts)
                except ValueError as error:
                    unsupported.add(draft.node, str(error))
            operations.append(replace(draft.operation, requantize=found))
        unsupported.check()
        return operations


@dataclass(eq=False)
class Entry:
    """The network's input.

    Attributes
    ----------
    name : str
        Of the tensor.
    shape : tuple of int
        In the file, without batch.
    type : str
        Of its integers.
    grid : Grid or None
        None until a consumer of integers that enter as such tells it.
    functions : tuple of callable or None
        What the host does before quantizing; None if integers enter.
    order : int64 array or None
        Where each of the file's elements is in the tensor; None until the first consumer tells.
    """

    name: str
    shape: tuple[int, ...]
    type: str
    grid: Grid | None
    functions: tuple[BatchFunction, ...] | None
    order: IntArray | None = None


def _tensor(name: str, shape: tuple[int, int, int], grid: Grid) -> Tensor:
    offset = grid.offset
    return Tensor(
        name, shape, grid.low - offset, grid.high - offset, grid.zero - offset, grid.scale
    )


def _encode(
    entry: Entry, physical: tuple[int, int, int], name: str, shape: tuple[int, ...]
) -> HostFunction:
    grid, order = entry.grid, entry.order
    assert grid is not None
    assert order is not None

    def encode(batch: Array) -> IntArray:
        batch = np.asarray(batch)
        if batch.ndim != len(shape) or batch.shape[1:] != shape[1:]:
            wanted = ", ".join(("n", *map(str, shape[1:])))
            raise UserError(f"inputs for {name!r} must have shape ({wanted}), not {batch.shape}")
        if batch.dtype.kind not in "biuf" or not np.isfinite(batch).all():
            raise UserError(f"inputs for {name!r} must be finite numbers")
        if entry.functions is None:
            low, high = INTEGER_RANGES[entry.type]
            fits = batch.size == 0 or low <= batch.min() <= batch.max() <= high
            if batch.dtype.kind == "f" or not fits:
                raise UserError(f"inputs for {name!r} must be integers from {low} to {high}")
            integers = batch.astype(np.int64)
        else:
            batch = batch.astype(np.float32)
            for function in entry.functions:
                batch = function(batch)
            integers = grid.quantize(batch)
        flat = np.empty((len(batch), order.size), np.int64)
        flat[:, order] = integers.reshape(len(batch), -1) - grid.offset
        return flat.reshape(len(batch), *physical)

    return encode


def _decode_codes(
    codes: Codes, places: IntArray, functions: tuple[BatchFunction, ...], dtype: npt.DTypeLike
) -> HostFunction:
    grid = codes.grid

    def decode(found: Array) -> Array:
        assert grid is not None
        values: Array = found.reshape(len(found), -1)[:, places] + grid.offset
        if codes.real:
            values = grid.dequantize(values)
        for function in functions:
            values = function(values)
        return values.astype(dtype)

    return decode


def _decode_sums(
    sums: Sums,
    factor: FloatArray,
    rest: FloatArray,
    functions: tuple[BatchFunction, ...],
    dtype: npt.DTypeLike,
) -> HostFunction:
    def decode(found: Array) -> Array:
        values: Array = ((found + rest) * factor).clip(sums.low, sums.high)
        values = values.reshape(len(found), -1)[:, sums.places]
        if functions:
            values = values.astype(np.float32)
        for function in functions:
            values = function(values)
        return values.astype(dtype)

    return decode
