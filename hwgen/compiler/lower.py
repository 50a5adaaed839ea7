"""From operations to runs: loops, packed weights and parameters."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from hwgen.accelerator.config import AcceleratorConfig
from hwgen.accelerator.nest import EXTENT_BITS, steps_of
from hwgen.accelerator.registers import LOOPS, MODES, OUT_LOOPS
from hwgen.errors import UserError
from hwgen.network.graph import Add, Conv, Network, Operation, Pool
from hwgen.network.requantize import FixedPoint, Requantization, RoundingShift, Thresholds
from hwgen.network.thresholds import to_thresholds
from pe_library.formats import Bipolar

from .places import Place, fill_of
from .program import Load, Run, words_of_bits

__all__ = ["Job", "Layer", "lower"]

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Job:
    """Runs that share what was loaded for them."""

    loads: list[Load]
    runs: list[Run]


@dataclass(frozen=True, eq=False)
class Layer:
    """An operation on the accelerator.

    Attributes
    ----------
    operation : Operation
    jobs : list of Job
    macs : int
        Useful products.
    columns : int64 array (blocks, cols)
        The output channel of each column of each block, -1 of an unused one.
    tiles : list of (first row, rows, first column, columns)
        Of the output, as the runs make them.
    passes : int
        Passes that are summed.
    """

    operation: Operation
    jobs: list[Job]
    macs: int
    columns: IntArray
    tiles: list[tuple[int, int, int, int]]
    passes: int = 1
    notes: list[str] = field(default_factory=list)


def lower(
    network: Network,
    operation: Operation,
    places: dict[str, Place],
    config: AcceleratorConfig,
    *,
    halves: "itertools.cycle[int]",
) -> Layer:
    """Return the runs of an operation.

    Parameters
    ----------
    places : dict
        Of all tensors but the network's output, whose results go to the host.
    halves : cycle of 0 and 1
        Which half of the weight and parameter buffers the next job loads.

    Raises
    ------
    UserError
        If the configuration cannot run it; names the operation and what is needed.
    """
    if isinstance(operation, Conv):
        plan = _conv(network, operation, places, config)
    else:
        plan = _past_the_array(network, operation, places, config)
    return plan.layer(network, operation, places, config, halves)


@dataclass(frozen=True, eq=False)
class _Plan:
    """What an operation's runs have in common.

    Attributes
    ----------
    summed : extents of loops 2, 3 and 4
    strides : name to strides of the six loops, for ``act``, ``y``, ``x``
    columns : see :class:`Layer`
    weights : uint8 (blocks, words of a block, bytes), or None
    bias : int64 (blocks, cols)
    out_step : granules from one block of results to the next
    registers : what else is the same in all runs
    """

    kernel: tuple[int, int, int]
    strides: dict[str, list[int]]
    columns: IntArray
    weights: npt.NDArray[np.uint8] | None
    bias: IntArray
    out_step: int
    origin: tuple[int, int]
    step: tuple[int, int]
    registers: dict[str, int]
    macs: int

    def layer(
        self,
        network: Network,
        operation: Operation,
        places: dict[str, Place],
        config: AcceleratorConfig,
        halves: "itertools.cycle[int]",
    ) -> Layer:
        height, width, _ = network.tensors[operation.output].shape
        passes = math.prod(self.kernel)
        tiles = _tiles(height, width, config.accumulator_words if passes > 1 else 1 << 30)
        parameters, registers = _parameters(network, operation, self, config)
        blocks = len(self.columns)
        chunk, double = _chunk(operation, self, config)
        source, target = places[operation.inputs[0]], places.get(operation.output)
        jobs = []
        for first in range(0, blocks, chunk):
            part = slice(first, min(first + chunk, blocks))
            half = next(halves) if double else 0
            weight_base = half * (config.weight_words // 2)
            parameter_base = half * (config.parameter_words // 2)
            loads = [Load("parameter", parameter_base, parameters[part], wait=not double)]
            if self.weights is not None:
                words = self.weights[part].reshape(-1, self.weights.shape[-1])
                loads.append(Load("weight", weight_base, words, wait=not double))
            runs = []
            for y, rows, x, cols in tiles:
                extents = [cols, rows, *self.kernel, part.stop - part.start]
                own = {f"extent_{i}": n - 1 for i, n in enumerate(extents)}
                top, left = y * self.step[0] - self.origin[0], x * self.step[1] - self.origin[1]
                bases = {"y": top, "x": left}
                bases["act"] = (
                    source.base
                    + (top * source.width + left) * source.pitch
                    + first * self.strides["act"][5]
                )
                for name, strides in self.strides.items():
                    own[f"{name}_base"] = bases[name]
                    steps = steps_of([n - 1 for n in extents], strides)
                    own |= {f"{name}_step_{i}": step for i, step in enumerate(steps)}
                if target is not None:
                    row = target.pitch * target.width
                    own["out_base"] = (
                        target.base + y * row + x * target.pitch + first * self.out_step
                    )
                    steps = steps_of(
                        [extents[loop] - 1 for loop in OUT_LOOPS],
                        [target.pitch, row, self.out_step],
                    )
                    own |= {f"out_step_{i}": step for i, step in enumerate(steps)}
                own |= {"weight_base": weight_base, "parameter_base": parameter_base}
                runs.append(Run({**registers, **self.registers, **own}))
            jobs.append(Job(loads, runs))
        return Layer(operation, jobs, self.macs, self.columns, tiles, passes)


def _tiles(height: int, width: int, pixels: int) -> list[tuple[int, int, int, int]]:
    """Cut an output into rectangles of at most so many pixels."""
    cols = min(width, pixels)
    rows = min(height, max(1, pixels // width))
    return [
        (y, min(rows, height - y), x, min(cols, width - x))
        for y in range(0, height, rows)
        for x in range(0, width, cols)
    ]


def _chunk(operation: Operation, plan: _Plan, config: AcceleratorConfig) -> tuple[int, bool]:
    """Return how many blocks are loaded at once, and whether others may be meanwhile."""
    words = 0 if plan.weights is None else plan.weights.shape[1]
    if words > config.weight_words:
        raise UserError(
            f"weight_buffer must be at least {-(-words * config.weight_bits // 8)} bytes for layer "
            f"{operation.name!r}, not {config.weight_buffer}"
        )
    half = config.parameter_words // 2
    if 2 * words <= config.weight_words:
        return (min(half, config.weight_words // 2 // words) if words else half), True
    return 1, False


# ---- convolutions --------------------------------------------------------------------------------


def _conv(
    network: Network, conv: Conv, places: dict[str, Place], config: AcceleratorConfig
) -> _Plan:
    pe, cols, granule = config.array.pe, config.array.cols, config.granule
    tensor, place = network.tensors[conv.inputs[0]], places[conv.inputs[0]]
    out, height, width, depth = conv.weights.shape
    if tensor.bipolar and any(conv.padding):
        raise UserError(
            f"layer {conv.name!r} must have no padding, which is 0, with bipolar activations"
        )
    groups, weights = conv.groups, conv.weights
    each = _groups_at_once(conv, places, config) if groups > 1 else 1
    if not each:  # as one group, with zeros
        weights = np.zeros((out, height, width, depth * groups), np.int64)
        for o in range(out):
            group = o // (out // groups)
            weights[o, :, :, group * depth : (group + 1) * depth] = conv.weights[o]
        groups, each, depth = 1, 1, depth * groups
    if (groups > 1 or conv.groups > groups) and pe.weight.padding:
        raise UserError(
            f"layer {conv.name!r} must have one group with weights of {pe.weight!r}, which have no "
            f"zero, not {conv.groups}"
        )

    # Blocks of columns: which channels they make, and of which channels they read.
    blocks_in = 1 if groups > 1 else -(-depth // config.read_codes)
    if groups > 1:
        outs = each * (out // groups)
        blocks = -(-groups // each)
    else:
        outs, blocks = cols, -(-out // cols)
    columns = np.full((blocks, cols), -1, np.int64)
    block = np.full(
        (blocks, cols, height, width, blocks_in * config.read_codes), pe.weight.padding, np.int64
    )
    for n in range(blocks):
        made = np.arange(n * outs, min((n + 1) * outs, out))
        columns[n, : len(made)] = made
        if groups > 1:
            for i, o in enumerate(made):
                start = (o // (out // groups) - n * each) * depth
                block[n, i, :, :, start : start + depth] = weights[o]
        else:
            block[n, : len(made), :, :, :depth] = weights[made]
    used = columns >= 0
    # Σ (a - z)·w = Σ a·w - z·Σ w; unused lanes add the fill times the padding.
    lanes = height * width * (blocks_in * config.read_codes - depth) if groups == 1 else 0
    bias = np.zeros(columns.shape, np.int64)
    bias[used] = (
        conv.bias
        - tensor.zero_point * conv.weights.sum(axis=(1, 2, 3))
        - lanes * fill_of(tensor) * pe.weight.padding
    )
    codes = pe.weight.encode(block)
    codes = codes.reshape(blocks, cols, height, width, blocks_in, config.array.rows, pe.lanes)
    codes = codes.transpose(0, 2, 3, 4, 5, 1, 6)[:, :, :, :, ::-1]
    words = codes.reshape(-1, cols * pe.lanes)
    packed = words_of_bits([(words, pe.weight.bits)])

    row = place.pitch * place.width
    act_n = each * depth // granule if groups > 1 else 0
    (sy, sx), (dy, dx) = conv.stride, conv.dilation
    tail = depth - (blocks_in - 1) * config.read_codes if groups == 1 else config.read_codes
    return _Plan(
        kernel=(blocks_in, width, height),
        strides={
            "act": [sx * place.pitch, sy * row, config.read_codes // granule, dx * place.pitch,
                    dy * row, act_n],
            "y": [0, sy, 0, 0, dy, 0],
            "x": [sx, 0, 0, dx, 0, 0],
        },
        columns=columns,
        weights=packed.reshape(blocks, -1, packed.shape[1]),
        bias=bias,
        out_step=outs // granule,
        origin=(conv.padding[0], conv.padding[1]),
        step=conv.stride,
        registers={
            "height": tensor.shape[0], "width": tensor.shape[1],
            "tail": min(255, -(-tail // granule)),
            "pad": int(pe.activation.encode(np.array(fill_of(tensor)))),
        },
        macs=int(np.prod(network.tensors[conv.output].shape)) * height * width * (
            conv.weights.shape[3]
        ),
    )  # fmt: skip


def _groups_at_once(conv: Conv, places: dict[str, Place], config: AcceleratorConfig) -> int:
    """Return how many groups fit a block-diagonal block of the array, 0 if none can.

    A block begins at a whole granule, of the input and of the output.
    """
    granule, cols = config.granule, config.array.cols
    deep, wide = conv.weights.shape[3], len(conv.weights) // conv.groups
    target = places.get(conv.output)
    for each in range(min(config.read_codes // deep, cols // wide, conv.groups), 0, -1):
        if each == conv.groups:
            return each
        blocks = -(-conv.groups // each)
        reaches = (blocks - 1) * each * wide + cols
        if (
            each * deep % granule == 0
            and each * wide % granule == 0
            and (target is None or reaches <= target.pitch * granule)
        ):
            return each
    return 0


# ---- pooling and additions -----------------------------------------------------------------------


def _past_the_array(
    network: Network, operation: Operation, places: dict[str, Place], config: AcceleratorConfig
) -> _Plan:
    cols, pe = config.array.cols, config.array.pe
    tensor, place = network.tensors[operation.inputs[0]], places[operation.inputs[0]]
    channels = tensor.shape[2]
    blocks = -(-channels // cols)
    columns = np.arange(blocks * cols).reshape(blocks, cols)
    columns[columns >= channels] = -1
    row = place.pitch * place.width
    registers = {"mode": 1 << MODES["direct"], "height": tensor.shape[0],
                 "width": tensor.shape[1], "tail": 255}  # fmt: skip
    bias = np.zeros(columns.shape, np.int64)
    if isinstance(operation, Pool):
        if operation.kind == "max":
            registers["mode"] |= 1 << MODES["maximum"]
        fill = pe.activation.minimum if operation.kind == "max" else tensor.zero_point
        registers["pad"] = int(pe.activation.encode(np.array(fill)))
        bias[columns >= 0] = operation.bias
        kernel, step = (1, operation.kernel[1], operation.kernel[0]), operation.stride
        origin, between = (operation.padding[0], operation.padding[1]), 0
    else:
        assert isinstance(operation, Add)
        bases = [places[name].base for name in operation.inputs]
        between = bases[1] - bases[0] if len(bases) > 1 else 0
        kernel, step, origin = (len(bases), 1, 1), (1, 1), (0, 0)
        if len(bases) > 2:
            raise UserError(f"layer {operation.name!r} must add two tensors, not {len(bases)}")
        for i, (name, rescale) in enumerate(zip(operation.inputs, operation.rescale, strict=True)):
            registers[f"direct_zero_{i}"] = network.tensors[name].zero_point
            registers[f"direct_left_{i}"] = rescale.left
            if config.requantize == "multiplier":
                registers[f"direct_multiplier_{i}"] = rescale.multiplier
                registers[f"direct_right_{i}"] = -rescale.shift
            elif rescale.multiplier:
                raise UserError(
                    f"layer {operation.name!r} must add without multipliers with requantize "
                    f"{config.requantize!r}"
                )
    return _Plan(
        kernel=kernel,
        strides={
            "act": [step[1] * place.pitch, step[0] * row, between, place.pitch, row,
                    cols // config.granule],
            "y": [0, step[0], 0, 0, 1, 0],
            "x": [step[1], 0, 0, 1, 0, 0],
        },
        columns=columns,
        weights=None,
        bias=bias,
        out_step=cols // config.granule,
        origin=origin,
        step=step,
        registers=registers,
        macs=0,
    )  # fmt: skip


# ---- parameters ----------------------------------------------------------------------------------


def _parameters(
    network: Network, operation: Operation, plan: _Plan, config: AcceleratorConfig
) -> tuple[npt.NDArray[np.uint8], dict[str, int]]:
    """Return the words of the parameter buffer, and the registers of requantization."""
    pe, columns = config.array.pe, plan.columns
    used = columns >= 0
    tensor = network.tensors[operation.output]
    requantize = operation.requantize
    mode = plan.registers.get("mode", 0)
    if operation.output == network.output:
        mode |= 1 << MODES["to_host"]
        if requantize is None:
            mode |= 1 << MODES["raw"]
    plan.registers.pop("mode", None)
    registers = {"mode": mode}

    def spread(values: IntArray, unused: int) -> IntArray:
        """Return (blocks, cols) of values of each channel."""
        values = np.broadcast_to(values, (tensor.shape[2],))
        return np.where(used, values[columns], unused)

    fields: list[tuple[IntArray, int]] = [(plan.bias, config.sum_bits)]
    if mode >> MODES["raw"] & 1:
        fields.append((np.zeros(columns.shape, np.int64), config.channel_bits - config.sum_bits))
        return _interleave(fields), registers
    if requantize is None:
        requantize = _identity(tensor.low, tensor.high, config)
    if config.requantize == "threshold":
        count = config.thresholds
        never = (1 << (config.sum_bits - 1)) - 1  # no sum reaches it
        found = as_thresholds(requantize, operation, config)
        # Codes go up by one; a step of more is a threshold that counts as often.
        unit = 2 if isinstance(pe.activation, Bipolar) else 1
        steps = set(map(int, abs(found.step) // unit))
        if len(steps) != 1 or (abs(found.step) % unit).any() or 0 in steps:
            raise UserError(
                f"layer {operation.name!r} must have thresholds with equal steps, multiples of "
                f"{unit}, not {sorted(set(map(int, found.step)))}"
            )
        found = replace(found, thresholds=found.thresholds.repeat(steps.pop(), axis=1))
        code = pe.activation.encode(found.base)
        levels = found.thresholds.shape[1]
        if levels > count:
            raise UserError(
                f"thresholds must be at least {levels} for layer {operation.name!r}, not {count}"
            )
        for i in range(count):
            t = found.thresholds[:, i] if i < levels else np.array([never])
            fields.append((spread(t, never), config.sum_bits))
        fill = int(pe.activation.encode(np.array(fill_of(tensor))))
        fields.append((spread(code, fill), pe.activation.bits))
        fields.append((spread((found.step < 0).astype(np.int64), 0), 1))
        return _interleave(fields), registers
    wanted = {"multiplier": FixedPoint, "shift": RoundingShift}[config.requantize]
    if not isinstance(requantize, wanted):
        raise UserError(
            f"requantize must be {_mode_of(requantize)!r} for layer {operation.name!r}, not "
            f"{config.requantize!r}"
        )
    assert isinstance(requantize, FixedPoint | RoundingShift)
    low, high = pe.activation.minimum, pe.activation.maximum
    registers |= {
        "zero_point": requantize.zero_point,
        "low": max(low, requantize.low),
        "high": min(high, requantize.high),
    }
    if isinstance(requantize, FixedPoint):
        if not -31 <= requantize.shift.min() <= requantize.shift.max() <= 7:
            raise UserError(
                f"layer {operation.name!r} must have shifts of -31 to 7, not "
                f"{requantize.shift.min()} to {requantize.shift.max()}"
            )
        fields += [(spread(requantize.multiplier, 0), 31), (spread(requantize.shift, 0), 6)]
    else:
        fields.append((spread(requantize.shift, 31), 6))
    return _interleave(fields), registers


def _mode_of(requantize: Requantization) -> str:
    """Return the kind of accelerator that a requantization needs."""
    return {FixedPoint: "multiplier", RoundingShift: "shift", Thresholds: "threshold"}[
        type(requantize)
    ]


def _identity(low: int, high: int, config: AcceleratorConfig) -> Requantization:
    """Return a requantization that keeps codes as they are."""
    if (low, high) == (-1, 1):
        return Thresholds(np.zeros((1, 1), np.int64), np.array([-1]), np.array([2]))
    if config.requantize == "multiplier":
        return FixedPoint(np.array([1 << 30]), np.array([1]), 0, low, high)
    return RoundingShift(np.array([0]), 0, low, high)


def as_thresholds(
    requantize: Requantization, operation: Operation, config: AcceleratorConfig
) -> Thresholds:
    """Return the thresholds that say the same as a requantization of few levels."""
    if isinstance(requantize, Thresholds):
        return requantize
    if requantize.high - requantize.low > config.thresholds:
        raise UserError(
            f"thresholds must be at least {requantize.high - requantize.low} for layer "
            f"{operation.name!r}, not {config.thresholds}"
        )
    return to_thresholds(requantize, -(1 << (config.sum_bits - 2)), 1 << (config.sum_bits - 2))


def _interleave(fields: Sequence[tuple[IntArray, int]]) -> npt.NDArray[np.uint8]:
    """Return words of the parameter buffer: all fields of column 0, then those of column 1."""
    _blocks, cols = fields[0][0].shape
    words: list[tuple[IntArray, int]] = []
    for c in range(cols):
        for values, bits in fields:
            while bits > 48:  # zeros of a raw layer
                words.append((values[:, c : c + 1], 48))
                bits -= 48
            words.append((values[:, c : c + 1], bits))
    return words_of_bits(words)


assert LOOPS == 6 and EXTENT_BITS == 16  # noqa: PT018 - what the loops above are laid out for
