"""From operations to runs: loops, packed weights and parameters."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from hwgen.accelerator.config import AcceleratorConfig
from hwgen.accelerator.nest import steps_of
from hwgen.accelerator.registers import LOOPS, MODES, Loops, loops_of
from hwgen.errors import UserError
from hwgen.network.graph import Add, Conv, Network, Operation, Pool
from hwgen.network.requantize import FixedPoint, Requantization, RoundingShift, Thresholds
from hwgen.network.thresholds import to_thresholds
from pe_library.formats import Bipolar

from .cycles import run_cycles
from .places import Place, fill_of
from .program import Load, Program, Run, words_of_bits
from .sums import sum_range
from .tiles import Tile, rectangles, strips

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
    tiles : list of int64 arrays
        For each run of a job: the output's pixels, counted row by row, in the order of the results.
    passes : int
        Blocks that are summed.
    """

    operation: Operation
    jobs: list[Job]
    macs: int
    columns: IntArray
    tiles: list[IntArray]
    passes: int = 1


@dataclass
class _Pace:
    """How far the buffers are taken, from job to job.

    Attributes
    ----------
    resident : bool
        Whether the weights and parameters of all jobs fit at once, so that each has its own place.
    weights, parameters : int
        Words that are taken then.
    half : int
        Which half of the weight and parameter buffers the next job loads otherwise.
    cycles : int
        Of the run during which it loads; 0 before the first.
    whole : bool
        Whether the job before took more than a half, so that nothing may be loaded while it runs.
    """

    resident: bool
    weights: int = 0
    parameters: int = 0
    half: int = 0
    cycles: int = 0
    whole: bool = False


def lower(
    network: Network, places: dict[str, Place], config: AcceleratorConfig
) -> tuple[list[Layer], bool]:
    """Return the runs of each operation, and whether what they load stays in the buffers.

    Parameters
    ----------
    places : dict
        Of all tensors but the network's output, whose results go to the host.

    Raises
    ------
    UserError
        If the configuration cannot run it; names the operation and what is needed.
    """
    plans = [
        _conv(network, operation, places, config)
        if isinstance(operation, Conv)
        else _past_the_array(network, operation, places, config)
        for operation in network.operations
    ]
    weights = sum(plan.weight_words * len(plan.columns) for plan in plans)
    parameters = sum(len(plan.columns) for plan in plans)
    pace = _Pace(weights <= config.weight_words and parameters <= config.parameter_words)
    layers = [
        plan.layer(network, operation, places, config, pace)
        for plan, operation in zip(plans, network.operations, strict=True)
    ]
    return layers, pace.resident


@dataclass(frozen=True, eq=False)
class _Plan:
    """What an operation's runs have in common.

    Attributes
    ----------
    source : the (first) input
    shape : height and width of the output
    kernel : how much is summed: channel blocks, columns, rows
    channel_step : granules from one of those channel blocks to the next
    origin, step, dilation : (vertical, horizontal) padding, stride, stride in the kernel
    columns : see :class:`Layer`
    in_step, out_step : granules from one block of columns to the next, of input and output
    weights : uint8 (blocks, words of a block, bytes), or None
    bias : int64 (blocks, cols)
    registers : what else is the same in all runs
    macs : see :class:`Layer`
    stationary : an output-stationary array sums, ``rows`` pixels at a time
    """

    source: Place
    shape: tuple[int, int]
    kernel: tuple[int, int, int]
    channel_step: int
    origin: tuple[int, int]
    step: tuple[int, int]
    dilation: tuple[int, int]
    columns: IntArray
    in_step: int
    out_step: int
    weights: npt.NDArray[np.uint8] | None
    bias: IntArray
    registers: dict[str, int]
    macs: int
    stationary: bool = False

    @property
    def weight_words(self) -> int:
        """Words of weights of a block."""
        return 0 if self.weights is None else self.weights.shape[1]

    def layer(
        self,
        network: Network,
        operation: Operation,
        places: dict[str, Place],
        config: AcceleratorConfig,
        pace: _Pace,
    ) -> Layer:
        parameters, registers = _parameters(network, operation, self, config)
        most, double = 1 << config.loop_bits, False
        if not pace.resident:
            most, double = _chunk(operation, self, config)
        tiles = self.tiles(config)
        target = places.get(operation.output)
        program = Program(config)
        beats = max(1, self.weight_words) * program.beats_of(config.weight_bits)  # of a block
        jobs: list[Job] = []
        first = 0
        while first < len(self.columns):
            # As many blocks as can be loaded while the job before runs.
            chunk = min(max(1, pace.cycles // beats), most)
            part = slice(first, min(first + chunk, len(self.columns)))
            first = part.stop
            if pace.resident:
                own = {"weight_base": pace.weights, "parameter_base": pace.parameters}
                pace.weights += (part.stop - part.start) * self.weight_words
                pace.parameters += part.stop - part.start
                wait = False
            else:
                half = pace.half if double else 0
                pace.half ^= double
                own = {
                    "weight_base": half * (config.weight_words // 2),
                    "parameter_base": half * (config.parameter_words // 2),
                }
                wait = not double or pace.whole
                pace.whole = not double
            loads = [Load("parameter", own["parameter_base"], parameters[part], wait=wait)]
            if self.weights is not None:
                block = self.weights[part].reshape(-1, self.weights.shape[-1])
                loads.append(Load("weight", own["weight_base"], block, wait=wait))
            own |= registers | self.registers
            runs = [Run(own | self.run(tile, part, target, config)) for tile in tiles]
            jobs.append(Job(loads, runs))
            pace.cycles = run_cycles(program, runs[0])
        pixels = [tile.pixels(self.shape[1]).reshape(-1) for tile in tiles]
        return Layer(operation, jobs, self.macs, self.columns, pixels, math.prod(self.kernel))

    def tiles(self, config: AcceleratorConfig) -> list[Tile]:
        """Return what each run of a job makes."""
        if self.stationary:
            return strips(*self.shape, config.array.rows)
        most = config.accumulator_words if math.prod(self.kernel) > 1 else 1 << 30
        return rectangles(*self.shape, most, rows_apart=config.array.dataflow == "os")

    def run(
        self, tile: Tile, part: slice, target: Place | None, config: AcceleratorConfig
    ) -> dict[str, int]:
        """Return the registers that are a run's own: loops, places, steps.

        Parameters
        ----------
        part : slice
            Blocks of columns.
        target : Place or None
            Where results are written.
        """
        loops = loops_of(config)
        blocks = part.stop - part.start
        extents = _at(loops, tile.counts, self.kernel, blocks)
        registers = {f"extent_{loop}": extent - 1 for loop, extent in enumerate(extents)}
        if self.stationary:  # so many are read, whatever is written
            extents[0] = config.array.rows

        # Where the input is read: how far each loop goes on, in its rows and columns.
        down, right = ([move[axis] * self.step[axis] for move in tile.moves] for axis in range(2))
        source, (dy, dx) = self.source, self.dilation
        row = source.pitch * source.width
        top, left = (tile.first[axis] * self.step[axis] - self.origin[axis] for axis in range(2))
        base = source.base + top * row + left * source.pitch + part.start * self.in_step
        moves = [y * row + x * source.pitch for y, x in zip(down, right, strict=True)]
        kernel = (self.channel_step, dx * source.pitch, dy * row)
        registers |= {"height": source.height, "width": source.width}
        registers |= _walk("act", base, extents, _at(loops, moves, kernel, self.in_step))
        registers |= _walk("y", top, extents, _at(loops, down, (0, 0, dy), 0))
        registers |= _walk("x", left, extents, _at(loops, right, (0, dx, 0), 0))

        if target is not None:
            pixels = tile.pixels(self.shape[1])
            base = target.base + int(pixels[0, 0]) * target.pitch + part.start * self.out_step
            strides = [*(target.pitch * step for step in tile.strides(self.shape[1])),
                       self.out_step]  # fmt: skip
            registers |= _walk("out", base, [*tile.counts, blocks], strides)
        if self.stationary and self.weights is not None:
            registers["weight_back"] = 1 - self.weights.shape[1]
        return registers


def _at(loops: Loops, pixels: Sequence[int], summed: Sequence[int], block: int) -> list[int]:
    """Return values of all loops in the order of the loops."""
    values = dict(zip((*loops.pixels, *loops.summed), (*pixels, *summed), strict=True))
    return [values.get(loop, block) for loop in range(LOOPS)]


def _walk(name: str, base: int, extents: Sequence[int], strides: Sequence[int]) -> dict[str, int]:
    """Return the registers of an affine function of the loops (``nest.py``)."""
    steps = steps_of([extent - 1 for extent in extents], strides)
    return {f"{name}_base": base} | {f"{name}_step_{i}": step for i, step in enumerate(steps)}


def _chunk(operation: Operation, plan: _Plan, config: AcceleratorConfig) -> tuple[int, bool]:
    """Return how many blocks are loaded at once, and whether others may be meanwhile."""
    words = plan.weight_words
    if words > config.weight_words:
        raise UserError(
            f"weight_buffer must be at least {-(-words * config.weight_bits // 8)} bytes for layer "
            f"{operation.name!r}, not {config.weight_buffer}"
        )
    half = min(config.parameter_words // 2, 1 << config.loop_bits)
    if 2 * words <= config.weight_words:
        return (min(half, config.weight_words // 2 // words) if words else half), True
    return 1, False


# ---- convolutions --------------------------------------------------------------------------------


def _conv(
    network: Network, conv: Conv, places: dict[str, Place], config: AcceleratorConfig
) -> _Plan:
    pe, cols, granule = config.array.pe, config.array.cols, config.granule
    stationary = config.array.dataflow == "os"
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

    # Blocks of columns: which channels they make, and from which channel on they read.
    outs, blocks = cols, -(-out // cols)
    first = np.zeros(blocks, np.int64)
    ins = depth
    if groups > 1:
        outs, blocks, ins = each * (out // groups), -(-groups // each), each * depth
        first = np.arange(blocks) * ins
        if config.aligned:
            first -= first % config.read_codes
    last = (np.arange(blocks) * ins if groups > 1 else 0) + ins - first
    blocks_in = -(-int(last.max()) // config.read_codes)
    if blocks_in > 1 << config.loop_bits:
        raise UserError(
            f"loop_bits must be at least {(blocks_in - 1).bit_length()} for layer {conv.name!r}, "
            f"not {config.loop_bits}"
        )
    _check_reduction(conv, height * width * blocks_in, config)
    columns = np.full((blocks, cols), -1, np.int64)
    block = np.full(
        (blocks, cols, height, width, blocks_in * config.read_codes), pe.weight.padding, np.int64
    )
    for n in range(blocks):
        made = np.arange(n * outs, min((n + 1) * outs, out))
        columns[n, : len(made)] = made
        if groups > 1:
            for i, o in enumerate(made):
                start = o // (out // groups) * depth - first[n]
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
    codes = codes.transpose(0, 2, 3, 4, 5, 1, 6)
    if not stationary:  # a word is a row of the array, and the bottom row goes first
        codes = codes[:, :, :, :, ::-1]
    words = codes.reshape(-1, cols * pe.lanes)
    packed = words_of_bits([(words, pe.weight.bits)])

    source, shape = place, network.tensors[conv.output].shape[:2]
    pointwise = (height, width) == conv.stride == (1, 1) and not any(conv.padding)
    if stationary and pointwise and math.prod(shape) < 1 << config.loop_bits:
        # One long row of pixels: fewer passes have places to spare.
        shape = (1, math.prod(shape))
        source = replace(place, height=1, width=shape[1])
    tail = depth - (blocks_in - 1) * config.read_codes if groups == 1 else config.read_codes
    return _Plan(
        source=source,
        shape=shape,
        kernel=(blocks_in, width, height),
        channel_step=config.read_codes // granule,
        origin=(conv.padding[0], conv.padding[1]),
        step=conv.stride,
        dilation=conv.dilation,
        columns=columns,
        in_step=ins // granule if groups > 1 else 0,
        out_step=outs // granule,
        weights=packed.reshape(blocks, -1, packed.shape[1]),
        bias=bias,
        registers={
            "tail": -(-tail // granule),
            "pad": int(pe.activation.encode(np.array(fill_of(tensor)))),
        },
        macs=math.prod(network.tensors[conv.output].shape) * conv.weights[0].size,
        stationary=stationary,
    )  # fmt: skip


def _check_reduction(conv: Conv, blocks: int, config: AcceleratorConfig) -> None:
    """Refuse sums that need more bits than an output-stationary array has.

    A weight of zero adds nothing; other padding counts.
    """
    array = config.array
    products = blocks * config.read_codes if array.pe.weight.padding else conv.weights[0].size
    if array.dataflow == "os" and products > array.pass_depth:
        raise UserError(
            f"max_k must be at least {products} for layer {conv.name!r}, not {array.pass_depth}"
        )


def _groups_at_once(conv: Conv, places: dict[str, Place], config: AcceleratorConfig) -> int:
    """Return how many groups a block of columns makes, which is block-diagonal; 0 if none can.

    A block begins at a whole granule of the input, and where a vector of results may.
    """
    granule, cols = config.granule, config.array.cols
    unit = cols if config.aligned else granule
    deep, wide = conv.weights.shape[3], len(conv.weights) // conv.groups
    target = places.get(conv.output)
    for each in range(min(cols // wide, conv.groups), 0, -1):
        if each == conv.groups:
            return each
        blocks = -(-conv.groups // each)
        reaches = (blocks - 1) * each * wide + cols
        if (
            each * deep % granule == 0
            and each * wide % unit == 0
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
    if isinstance(operation, Pool) and tensor.bipolar and any(operation.padding):
        raise UserError(f"layer {operation.name!r} must have no padding with bipolar activations")
    registers = {"mode": 1 << MODES["direct"], "tail": config.vector}
    bias = np.zeros(columns.shape, np.int64)
    if isinstance(operation, Pool):
        if operation.kind == "max":
            registers["mode"] |= 1 << MODES["maximum"]
        fill = pe.activation.minimum if operation.kind == "max" else tensor.zero_point
        registers["pad"] = int(pe.activation.encode(np.array(fill)))
        bias[:] = operation.bias  # unused columns are pooled too, and give the fill again
        kernel, step = (1, operation.kernel[1], operation.kernel[0]), operation.stride
        origin, between = (operation.padding[0], operation.padding[1]), 0
    else:
        assert isinstance(operation, Add)
        bases = [places[name].base for name in operation.inputs]
        between = bases[1] - bases[0] if len(bases) > 1 else 0
        kernel, step, origin = (len(bases), 1, 1), (1, 1), (0, 0)
        if any(not 0 <= rescale.left <= 24 for rescale in operation.rescale):
            raise UserError(f"layer {operation.name!r} must shift its inputs left by 0 to 24")
        if len(bases) > 2:
            raise UserError(f"layer {operation.name!r} must add two tensors, not {len(bases)}")
        for i, (name, rescale) in enumerate(zip(operation.inputs, operation.rescale, strict=True)):
            registers[f"direct_zero_{i}"] = network.tensors[name].zero_point
            registers[f"direct_left_{i}"] = rescale.left
            if isinstance(pe.activation, Bipolar) and (
                rescale.left or network.tensors[name].zero_point
            ):
                raise UserError(
                    f"layer {operation.name!r} must add as it is with bipolar activations"
                )
            if config.requantize == "multiplier":
                registers[f"direct_multiplier_{i}"] = rescale.multiplier
                registers[f"direct_right_{i}"] = -rescale.shift
            elif rescale.multiplier:
                raise UserError(
                    f"layer {operation.name!r} must add without multipliers with requantize "
                    f"{config.requantize!r}"
                )
    return _Plan(
        source=place,
        shape=network.tensors[operation.output].shape[:2],
        kernel=kernel,
        channel_step=between,
        origin=origin,
        step=step,
        dilation=(1, 1),
        columns=columns,
        in_step=cols // config.granule,
        out_step=cols // config.granule,
        weights=None,
        bias=bias,
        registers=registers,
        macs=0,
    )


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
        if isinstance(operation, Pool):
            unused = int(values[0])
        return np.where(used, values[columns], unused)

    if mode >> MODES["raw"] & 1:
        rest = (np.zeros(columns.shape, np.int64), config.channel_bits - config.sum_bits)
        return _interleave([(plan.bias, config.sum_bits), rest]), registers
    if requantize is None or _keeps(requantize):
        bounds = tensor if requantize is None else requantize
        requantize = _identity(bounds.low, bounds.high, config)
    if config.requantize == "threshold":
        count = config.thresholds
        low, high = sum_range(network, operation)
        found = as_thresholds(requantize, operation, low, high, config)
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
        # Below `low` a threshold is reached by every sum, above `high` by none.
        table = np.full((tensor.shape[2], count), 1 << 62)
        table[:, :levels] = found.thresholds
        table = table.clip(low[:, None], high[:, None] + 1)
        first = spread(table[:, 0], _beyond(plan, operation, config))
        fields = [(plan.bias - first, config.sum_bits)]
        fields += [(spread(table[:, i] - table[:, 0], 0), config.sum_bits) for i in range(1, count)]
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
    fields = [(plan.bias, config.sum_bits)]
    registers |= {
        "zero_point": requantize.zero_point,
        "low": max(pe.activation.minimum, requantize.low),
        "high": min(pe.activation.maximum, requantize.high),
    }
    if isinstance(requantize, FixedPoint):
        if not -31 <= requantize.shift.min() <= requantize.shift.max() <= 7:
            raise UserError(
                f"layer {operation.name!r} must have shifts of -31 to 7, not "
                f"{requantize.shift.min()} to {requantize.shift.max()}"
            )
        fields += [(spread(requantize.multiplier, 0), 31), (spread(requantize.shift, 0), 6)]
    else:
        if not -31 <= requantize.shift.min() <= requantize.shift.max() <= 31:
            raise UserError(
                f"layer {operation.name!r} must have shifts of -31 to 31, not "
                f"{requantize.shift.min()} to {requantize.shift.max()}"
            )
        fields.append((spread(requantize.shift, 31), 6))
    return _interleave(fields), registers


def _beyond(plan: _Plan, operation: Operation, config: AcceleratorConfig) -> int:
    """Return a threshold that unused columns do not reach, which have no weight but the padding."""
    padding = config.array.pe.weight.padding
    if plan.weights is None or not padding:
        return 1
    products = math.prod(plan.kernel) * config.read_codes
    if 2 * products >= 1 << config.sum_bits - 1:
        raise UserError(
            f"sum_bits must be at least {(2 * products).bit_length() + 1} for layer "
            f"{operation.name!r}, not {config.sum_bits}"
        )
    return products + 1


def _mode_of(requantize: Requantization) -> str:
    """Return the kind of accelerator that a requantization needs."""
    return {FixedPoint: "multiplier", RoundingShift: "shift", Thresholds: "threshold"}[
        type(requantize)
    ]


def _keeps(requantize: Requantization) -> bool:
    """Tell whether a requantization keeps codes as they are, as after a maximum."""
    if isinstance(requantize, FixedPoint):
        doubled = (requantize.multiplier == 1 << 30) & (requantize.shift == 1)
        return bool(doubled.all()) and requantize.zero_point == 0
    if isinstance(requantize, RoundingShift):
        return not requantize.shift.any() and requantize.zero_point == 0
    return False


def _identity(low: int, high: int, config: AcceleratorConfig) -> Requantization:
    """Return the requantization of a configuration that does (a maximum of signs is a sign)."""
    if (low, high) == (-1, 1):
        return Thresholds(np.zeros((1, 1), np.int64), np.array([-1]), np.array([2]))
    if config.requantize == "multiplier":
        return FixedPoint(np.array([1 << 30]), np.array([1]), 0, low, high)
    return RoundingShift(np.array([0]), 0, low, high)


def as_thresholds(
    requantize: Requantization,
    operation: Operation,
    low: IntArray,
    high: IntArray,
    config: AcceleratorConfig,
) -> Thresholds:
    """Return thresholds that say the same of sums from low to high as a requantization."""
    if isinstance(requantize, Thresholds):
        return requantize
    if requantize.high - requantize.low > config.thresholds:
        raise UserError(
            f"thresholds must be at least {requantize.high - requantize.low} for layer "
            f"{operation.name!r}, not {config.thresholds}"
        )
    return to_thresholds(requantize, low, high)


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
