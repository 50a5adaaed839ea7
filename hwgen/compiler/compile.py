"""The compiler: a network as a program, and an answer as a tensor."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from hwgen.accelerator.config import AcceleratorConfig
from hwgen.accelerator.registers import BLOCK_LOOP
from hwgen.errors import UserError
from hwgen.network.graph import Conv, Network, Tensor

from .lower import Layer, Pace, lower
from .places import Place, allocate, granules_of, tensor_of
from .program import Answer, Command, Load, Program, Store

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
    """

    network: Network
    config: AcceleratorConfig
    places: dict[str, Place]
    layers: list[Layer]

    def program(self, inputs: IntArray, *, every_layer: bool = False) -> Program:
        """Return the program for one sample.

        Parameters
        ----------
        inputs : int64 array (height, width, channels)
            Integers of the input tensor.
        every_layer : bool
            Send each layer's output, too.
        """
        name = self.network.input
        tensor, place = self.network.tensors[name], self.places[name]
        granules = granules_of(inputs, tensor, place, self.config)
        commands: list[Command] = [Load("activation", place.base, granules)]
        jobs = [(layer, job) for layer in self.layers for job in layer.jobs]
        commands += jobs[0][1].loads
        for i, (layer, job) in enumerate(jobs):
            following = jobs[i + 1][1].loads if i + 1 < len(jobs) else []
            early = not any(load.wait for load in following)
            commands.append(job.runs[0])
            if early:  # while the first run goes on
                commands += following
            commands += job.runs[1:]
            if every_layer and job is layer.jobs[-1] and layer is not self.layers[-1]:
                output = self.places[layer.operation.output]
                commands.append(Store(output.base, output.granules))
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
            "granules": place.granules,
            "granules_of_a_pixel": place.pitch,
            "codes_of_a_granule": self.config.granule,
            "bits_of_a_code": self.config.array.pe.activation.bits,
            "beats_of_a_granule": -(-self.config.granule_bits // self.config.stream_bits),
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
    _check_formats(network, config)
    places = allocate(network, config)
    pace = Pace()
    layers = [
        lower(network, operation, places, config, pace=pace) for operation in network.operations
    ]
    return Compiled(network, config, places, layers)


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
            or not isinstance(operation, Conv),
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
                notes.append(
                    f"layer {operation.name!r}: {moved.mean():.1%} of the weights are not on the "
                    f"grid of {weight!r} and were projected; largest error {int(error.max())}, "
                    f"relative L2 error "
                    f"{np.linalg.norm(error) / np.linalg.norm(operation.weights):.2%}"
                )
                operation = replace(operation, weights=nearest)
        operations.append(operation)
    return replace(network, operations=operations, notes=notes)
