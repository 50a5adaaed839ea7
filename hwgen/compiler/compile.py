"""The compiler: a network as a program, and an answer as a tensor."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from hwgen.accelerator.config import AcceleratorConfig
from hwgen.accelerator.registers import BLOCK_LOOP
from hwgen.errors import UserError
from hwgen.network.graph import Conv, Network, Pool, Tensor

from .lower import Layer, lower
from .places import Place, allocate, tensor_of, words_of
from .program import Answer, Command, Load, Program, Store
from .sums import scaled_limit, sum_range

__all__ = ["Compiled", "compile_network"]

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Compiled:
    """A network for a configuration.

    Attributes
    ----------
    network, config
        What was compiled, for what.
    places : dict of Place by tensor
        In the activation buffer.
    layers : list of Layer
        In the order of the network's operations.
    resident : bool
        Whether all weights and parameters stay in their buffers, so that only the first program has
        to load them.
    """

    network: Network
    config: AcceleratorConfig
    places: dict[str, Place]
    layers: list[Layer]
    resident: bool

    def program(
        self, inputs: IntArray, *, every_layer: bool = False, resident: bool = False
    ) -> Program:
        """Return the program for one sample.

        Parameters
        ----------
        inputs : int64 array (height, width, channels)
            Integers of the input tensor.
        every_layer : bool
            Send each layer's output, too.
        resident : bool
            Leave out what a program of this network, run before, has loaded.

        Raises
        ------
        ValueError
            If it has not stayed (:attr:`resident`).
        """
        if resident and not self.resident:
            raise ValueError(
                f"weights and parameters of network {self.network.name!r} must fit the buffers at "
                "once to stay in them"
            )
        name = self.network.input
        tensor, place = self.network.tensors[name], self.places[name]
        words = words_of(inputs, tensor, place, self.config)
        commands: list[Command] = [Load("activation", place.base // self.config.word, words)]
        jobs = [(layer, job) for layer in self.layers for job in layer.jobs]
        loads = [[] if resident else job.loads for _, job in jobs]
        commands += loads[0]
        for i, (layer, job) in enumerate(jobs):
            following = loads[i + 1] if i + 1 < len(jobs) else []
            early = not any(load.wait for load in following)
            commands.append(job.runs[0])
            if early:  # while the first run goes on
                commands += following
            commands += job.runs[1:]
            if every_layer and job is layer.jobs[-1] and layer is not self.layers[-1]:
                output = self.places[layer.operation.output]
                word = self.config.word
                commands.append(Store(output.base // word, output.granules // word))
            if not early:
                commands += following
        return Program(self.config, commands)

    def describe_input(self) -> dict[str, object]:
        """Say where a sample's integers are in a program: plain data for a host of its own."""
        tensor = self.network.tensors[self.network.input]
        place = self.places[self.network.input]
        return {
            "shape": list(tensor.shape),
            "low": tensor.low,
            "high": tensor.high,
            "first_beat": 1,
            "words": place.granules // self.config.word,
            "words_of_a_pixel": place.pitch // self.config.word,
            "codes_of_a_word": self.config.word * self.config.granule,
            "bits_of_a_code": self.config.array.pe.activation.bits,
            "beats_of_a_word": -(-self.config.activation_bits // self.config.stream_bits),
        }

    def outputs(self, answer: Answer, *, every_layer: bool = False) -> dict[str, IntArray]:
        """Return the tensors of an answer (height, width, channels): the output, or every layer's.

        Raises
        ------
        ValueError
            If the program ended with an error.
        """
        if answer.status:
            raise ValueError(f"program must end with status 0, not {answer.status}")
        parts = iter(answer.parts)
        found: dict[str, IntArray] = {}
        for layer in self.layers:
            name = layer.operation.output
            tensor = self.network.tensors[name]
            if layer is not self.layers[-1]:
                if every_layer:
                    found[name] = tensor_of(next(parts), tensor, self.places[name], self.config)
                continue
            found[name] = self._from_vectors(layer, tensor, parts)
        return found

    def _from_vectors(self, layer: Layer, tensor: Tensor, parts: Iterator[IntArray]) -> IntArray:
        height, width, channels = tensor.shape
        result = np.zeros((height * width, channels), np.int64)
        first = 0
        for job in layer.jobs:
            for run, pixels in zip(job.runs, layer.tiles, strict=True):
                vectors = next(parts)
                if not run.has("raw"):
                    vectors = self.config.array.pe.activation.decode(vectors)
                blocks = run.extent(BLOCK_LOOP)
                vectors = vectors.reshape(blocks, len(pixels), -1)
                for n in range(blocks):
                    used = layer.columns[first + n] >= 0
                    result[pixels[:, None], layer.columns[first + n][used]] = vectors[n][:, used]
            first += job.runs[0].extent(BLOCK_LOOP)
        return result.reshape(tensor.shape)


def compile_network(network: Network, config: AcceleratorConfig) -> Compiled:
    """Compile a network.

    Raises
    ------
    UserError
        If its formats do not fit the PE (all operations at once are named), or it does not fit the
        buffers.
    """
    _check_shape(network, config)
    _check_formats(network, config)
    places = allocate(network, config)
    layers, resident = lower(network, places, config)
    return Compiled(network, config, places, layers, resident)


def _check_shape(network: Network, config: AcceleratorConfig) -> None:
    """Refuse a network that is no chain of operations, or whose places cannot be counted."""
    if not network.operations:
        raise UserError(f"network {network.name!r} must have at least one operation")
    last = network.operations[-1]
    if last.output != network.output or any(
        network.output in operation.inputs for operation in network.operations
    ):
        raise UserError(f"output {network.output!r} must be made last, and read by no operation")
    # Places are numbers of `loop_bits`, with a sign.
    most = (1 << config.loop_bits - 1) - 1
    for operation in network.operations:
        for name in (*operation.inputs, operation.output):
            height, width, channels = network.tensors[name].shape
            padding = max(getattr(operation, "padding", (0,)))
            side = max(height, width) + padding
            if side > most or channels > 1 << 16:
                raise UserError(
                    f"layer {operation.name!r} must have tensors of at most {most} rows and "
                    f"columns, padding included, and {1 << 16} channels, not "
                    f"{height}×{width}×{channels} with a padding of {padding} "
                    f"(loop_bits {config.loop_bits})"
                )


def _check_formats(network: Network, config: AcceleratorConfig) -> None:
    """Refuse a network whose integers the PE does not have."""
    pe = config.array.pe
    reasons = []

    def check(what: str, found: bool, why: Callable[[], str]) -> None:
        if not found:
            reasons.append(f"{what}: {why()}")

    for i, operation in enumerate(network.operations):
        for name in operation.inputs:
            tensor = network.tensors[name]
            values = (
                np.array([tensor.low, tensor.high])
                if tensor.bipolar
                else np.arange(tensor.low, tensor.high + 1)
            )
            check(
                operation.name,
                bool(pe.activation.contains(values).all()),
                lambda t=tensor: (
                    f"activations {t.low} to {t.high}, the PE has "  # type: ignore[misc]
                    f"{pe.activation.summary}"
                ),
            )
        if operation.requantize is not None:
            tensor, way = network.tensors[operation.output], operation.requantize
            values = np.array([-1, 1]) if tensor.bipolar else np.arange(way.low, way.high + 1)
            check(
                operation.name,
                bool(pe.activation.contains(values).all()),
                lambda w=way: f"results {w.low} to {w.high}, the PE has {pe.activation.summary}",  # type: ignore[misc]
            )
        limit = (1 << (config.sum_bits - 1)) - 1
        low, high = sum_range(network, operation)
        reach = scaled_limit(network, operation)
        if operation.requantize is not None and config.requantize == "threshold":
            reach = max(reach, int((high - low).max()) + 1)  # the bias has a threshold in it
        check(
            operation.name,
            reach <= limit,
            lambda a=low, b=high: (
                f"sums of {a.min():,} to {b.max():,}, the accelerator has "  # type: ignore[misc]
                f"{config.sum_bits} bits"
            ),
        )
        if isinstance(operation, Conv):
            bad = ~pe.weight.contains(operation.weights)
            check(
                operation.name,
                not bad.any(),
                lambda o=operation, b=bad: (
                    f"{int(b.sum())} of {b.size} weights (such as "  # type: ignore[misc]
                    f"{int(o.weights[b][0])}), the PE has {pe.weight.summary}"
                ),
            )
        check(
            operation.name,
            operation.requantize is not None
            or i == len(network.operations) - 1
            or (isinstance(operation, Pool) and operation.kind == "max"),
            lambda: "sums must be requantized but in the last layer",
        )
    if reasons:
        raise UserError(f"network must fit PE {config.array.name!r}; " + "; ".join(reasons))


def project_weights(network: Network, config: AcceleratorConfig) -> Network:
    """Return the network with the nearest weights that the PE has, and notes on what changed.

    INT8 weights that are sums of two powers of two run exactly on a LightPE-2; the others move.
    """
    weight = config.array.pe.weight
    operations, notes = [], list(network.notes)
    for operation in network.operations:
        if isinstance(operation, Conv):
            moved = ~weight.contains(operation.weights)
            if moved.any():
                nearest = weight.quantize(operation.weights)
                error = np.abs(nearest - operation.weights)
                size = max(float(np.linalg.norm(operation.weights)), 1.0)
                notes.append(
                    f"layer {operation.name!r}: {moved.mean():.1%} of the weights are not on the "
                    f"grid of {weight!r} and were projected; largest error {int(error.max())}, "
                    f"relative L2 error "
                    f"{np.linalg.norm(error) / size:.2%}"
                )
                operation = replace(operation, weights=nearest)
        operations.append(operation)
    return replace(network, operations=operations, notes=notes)
