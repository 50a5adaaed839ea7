"""Networks on a simulated accelerator, layer by layer against the golden model."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hwgen.accelerator.accelerator import Accelerator
from hwgen.accelerator.config import AcceleratorConfig
from hwgen.compiler.compile import Compiled
from hwgen.compiler.cycles import cycles_of
from hwgen.verilog import emit_verilog

from .compiled import CompiledModel
from .golden_network import run_network

__all__ = ["NetworkRun", "simulate_network"]

IntArray = npt.NDArray[np.int64]


@dataclass
class NetworkRun:
    """What a simulation found.

    Attributes
    ----------
    outputs : int64 array (samples, height, width, channels)
        Integers, or sums, of the network's output.
    cycles : list of int
        Of each sample's program.
    predicted : list of int
        The same by the cycle model.
    mismatches : dict
        For each layer that was checked, by the name of its output: integers that differ from the
        golden model.
    compared : int
        Integers that were compared.
    """

    outputs: IntArray
    cycles: list[int] = field(default_factory=list)
    predicted: list[int] = field(default_factory=list)
    mismatches: dict[str, int] = field(default_factory=dict)
    compared: int = 0


@functools.lru_cache(maxsize=4)
def _verilog(config: AcceleratorConfig) -> str:
    return emit_verilog(Accelerator(config))


def simulate_network(
    compiled: Compiled,
    inputs: IntArray,
    *,
    check: bool = False,
    offer: float = 1.0,
    accept: float = 1.0,
    seed: int = 1,
    waves: Path | None = None,
    progress: Callable[[int], None] | None = None,
    verilog: str | None = None,
) -> NetworkRun:
    """Run samples through the accelerator's Verilog.

    Parameters
    ----------
    compiled : Compiled
        Network and configuration.
    inputs : int64 array (samples, height, width, channels)
        Integers of the network's input.
    check : bool
        Have every layer's output sent, and compare it with the golden model.
    offer, accept : float
        Probability that the host offers, accepts a beat in a cycle.
    seed : int
        Of that chance.
    waves : Path, optional
        Write a VCD trace there.
    progress : callable, optional
        Called with the number of samples done.
    verilog : str, optional
        In place of what the generator emits: a netlist of it.

    Raises
    ------
    ProtocolError
        If the accelerator hangs or breaks the rules of its streams.
    ValueError
        If an input is out of range.
    """
    network = compiled.network
    name = compiled.config.name
    golden = run_network(network, inputs) if check else {}
    result = NetworkRun(np.zeros((len(inputs), *network.tensors[network.output].shape), np.int64))
    with CompiledModel(verilog or _verilog(compiled.config), name, waves=waves) as model:
        for i, sample in enumerate(inputs):
            program = compiled.program(sample, every_layer=check)
            predicted = cycles_of(program)
            beats = model.exchange(
                program.beats(),
                offer=offer,
                accept=accept,
                seed=seed + i,
                patience=int((predicted + 1000) / min(offer, accept)),
            )
            answer = program.read_answer(beats)
            found = compiled.outputs(answer, every_layer=check)
            result.outputs[i] = found[network.output]
            result.cycles.append(answer.cycles)
            result.predicted.append(predicted)
            if check:
                for tensor, values in found.items():
                    wrong = int((values != golden[tensor][i]).sum())
                    result.mismatches[tensor] = result.mismatches.get(tensor, 0) + wrong
                    result.compared += values.size
            if progress is not None:
                progress(i + 1)
    return result
