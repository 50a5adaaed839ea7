"""Simulate a GEMM on an emitted array, and check every sum that leaves it."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from hwgen.config import ArrayConfig
from hwgen.errors import UserError
from hwgen.generate import Generated, generate
from hwgen.tiling import Pass, Tiling

from .compiled import CompiledModel, ProtocolError, Sums
from .golden import golden_gemm, golden_pass

__all__ = ["Mismatch", "Simulation", "check_operand", "check_shape", "random_operands", "simulate"]

IntArray = npt.NDArray[np.int64]

#: Mismatches that are kept with their place; all are counted.
_KEPT = 10


@dataclass(frozen=True)
class Mismatch:
    """A wrong sum: in which pass (``tile``), row and column of it, at which cycle it came."""

    tile: int
    row: int
    column: int
    cycle: int
    expected: int
    got: int

    def __str__(self) -> str:
        return (
            f"tile {self.tile}, row {self.row}, column {self.column}, cycle {self.cycle}: "
            f"expected {self.expected}, got {self.got}"
        )


@dataclass
class Simulation:
    """What a simulation found.

    Attributes
    ----------
    result : array of int64, shape (M, N)
        What the array and its host answered.
    vectors : int
        Vectors of sums that were compared with the golden model.
    checks : int
        Single sums among them.
    mismatches : int
        Sums that were wrong.
    examples : list of Mismatch
        The first of them.
    cycles : int
        From the first operand to the last sum, in clock cycles.
    utilisation : float
        Products of the GEMM by products the array could have made between its first and its last
        operand, 0 to 1.
    seconds : float
        Wall time of the simulation proper, without building the model.
    """

    result: IntArray
    vectors: int = 0
    checks: int = 0
    mismatches: int = 0
    examples: list[Mismatch] = field(default_factory=list)
    cycles: int = 0
    utilisation: float = 0.0
    seconds: float = 0.0

    @property
    def cycles_per_second(self) -> float:
        """Simulated clock cycles per second of wall time."""
        return self.cycles / self.seconds if self.seconds else 0.0

    @property
    def passed(self) -> bool:
        """Whether something was checked and nothing was wrong."""
        return self.checks > 0 and self.mismatches == 0

    def as_dict(self) -> dict[str, Any]:
        """Return the figures, without the result, as plain data."""
        return {
            "passed": self.passed,
            "vectors": self.vectors,
            "checks": self.checks,
            "mismatches": self.mismatches,
            "examples": [asdict(example) for example in self.examples],
            "cycles": self.cycles,
            "utilisation": self.utilisation,
            "seconds": self.seconds,
            "cycles_per_second": self.cycles_per_second,
        }


def check_shape(config: ArrayConfig, m: int, k: int, n: int) -> Tiling:
    """Return the passes of a GEMM; refuse one that is empty or would exhaust the memory.

    Nothing that grows with the GEMM is allocated.

    Raises
    ------
    UserError
        With the shape, the memory it takes and what there is, or what else speaks against it.
    """
    for name, size in (("M", m), ("K", k), ("N", n)):
        if size < 1:
            raise UserError(f"{name} must be at least 1, not {size}")
    try:
        tiling = Tiling(config, m, k, n)
    except ValueError as error:
        raise UserError(str(error)) from error
    padded_m = m if config.dataflow == "ws" else m + config.rows
    # Operands as values, while they are encoded and packed (about six words each), the results,
    # and the order of the passes.
    need = 48 * tiling.padded_k * (padded_m + n + config.cols) + 32 * m * n + 256 * len(tiling)
    have = _available_memory()
    if need > have:
        raise UserError(
            f"a GEMM of M={m}, K={k}, N={n} must fit into memory: it takes about "
            f"{need / 2**30:.1f} GiB, and {have / 2**30:.1f} GiB are free"
        )
    return tiling


def _available_memory() -> int:
    """Return the free memory in bytes."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 4 << 30  # no Linux: a cautious guess


def check_operand(config: ArrayConfig, name: str, values: npt.NDArray[Any]) -> IntArray:
    """Return an operand matrix as int64, or say what is wrong with it.

    ``name`` is ``"activations"`` or ``"weights"``; ``values`` are integers on the format's grid.
    """
    values = np.asarray(values)
    if values.ndim != 2 or 0 in values.shape:
        raise UserError(
            f"{name} must be a matrix with at least one row and column, not of shape {values.shape}"
        )
    if values.dtype.kind not in "iu":
        raise UserError(f"{name} must be integers, not of dtype {values.dtype}")
    number_format = config.pe.activation if name == "activations" else config.pe.weight
    good = number_format.contains(values)
    if not good.all():
        row, col = (int(i) for i in np.argwhere(~good)[0])
        raise UserError(
            f"{name} must be {number_format.summary}, not {values[row, col]} "
            f"(row {row}, column {col}; the nearest is {number_format.quantize(values[row, col])})"
        )
    return values.astype(np.int64)


def random_operands(
    config: ArrayConfig, m: int, k: int, n: int, seed: int
) -> tuple[IntArray, IntArray]:
    """Return seeded matrices (M, K) and (K, N), uniform over the formats' values."""
    check_shape(config, m, k, n)
    rng = np.random.default_rng(seed)
    return (
        rng.choice(config.pe.activation.values, (m, k)),
        rng.choice(config.pe.weight.values, (k, n)),
    )


class _Checker:
    """Cuts the stream of sums into passes, compares each with the golden model, accumulates."""

    def __init__(self, config: ArrayConfig, tiling: Tiling, a: IntArray, w: IntArray) -> None:
        self.config = config
        self.tiling = tiling
        self.a, self.w = a, w
        self.found = Simulation(np.zeros((tiling.m, tiling.n), dtype=np.int64))
        self._passes = iter(tiling)
        self._current: Pass | None = None
        self._parts: list[Sums] = []
        self._beats = 0

    def take(self, sums: Sums) -> None:
        """Take the next beats."""
        start = 0
        while start < len(sums.values):
            if self._current is None:
                self._current = next(self._passes)
            stop = min(len(sums.values), start + self._current.beats - self._beats)
            part = slice(start, stop)
            self._parts.append(Sums(sums.values[part], sums.last[part], sums.cycles[part]))
            self._beats += stop - start
            if self._beats == self._current.beats:
                self._finish(self._current)
                self._current, self._parts, self._beats = None, [], 0
            start = stop

    def _finish(self, part: Pass) -> None:
        values, last, cycles = (
            np.concatenate([getattr(piece, name) for piece in self._parts])
            for name in ("values", "last", "cycles")
        )
        if last[:-1].any() or not last[-1]:
            raise ProtocolError(
                f"cycle {cycles[-1]}: the last bit of o_sum must mark the end of pass "
                f"{part.index}, and does so at beats {np.flatnonzero(last).tolist()} of {len(last)}"
            )
        tile = self.tiling.place(part, values)
        expected = golden_pass(self.config, self.a[part.m, part.k], self.w[part.k, part.n])
        self.tiling.accumulate(self.found.result, part, tile)
        self.found.vectors += tile.shape[0]
        self.found.checks += tile.size
        wrong = np.argwhere(tile != expected)
        self.found.mismatches += len(wrong)
        for row, column in wrong[: _KEPT - len(self.found.examples)]:
            beat = len(values) - 1 - row if self.config.dataflow == "os" else row
            self.found.examples.append(
                Mismatch(
                    part.index, int(row), int(column), int(cycles[beat]),
                    int(expected[row, column]), int(tile[row, column]),
                )
            )  # fmt: skip


@contextlib.contextmanager
def _whole_file(path: Path | None) -> Iterator[Path | None]:
    """Give a place to write a file, which takes its path when the context ends without an error."""
    if path is None:
        yield None
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".hwgen-") as aside:
            yield Path(aside) / path.name
            (Path(aside) / path.name).replace(path)
    except OSError as error:
        raise UserError(f"waves {path} must be writable: {error}") from error


def simulate(
    config: ArrayConfig,
    activations: npt.NDArray[Any],
    weights: npt.NDArray[Any],
    *,
    generated: Generated[ArrayConfig] | None = None,
    simulator: Literal["verilator", "icarus"] = "verilator",
    offer: tuple[float, float] = (1.0, 1.0),
    accept: float = 1.0,
    burst: int = 1,
    seed: int = 1,
    waves: Path | None = None,
    progress: bool = False,
) -> Simulation:
    """Multiply two matrices on the emitted array, cycle by cycle, and check every sum.

    Parameters
    ----------
    config : ArrayConfig
        The array.
    activations, weights : integer arrays of shape (M, K) and (K, N)
        Values on the formats' grids.
    generated : Generated[ArrayConfig], optional
        What :func:`hwgen.generate.generate` made of ``config`` (or an edited version of it).
    simulator : str
        ``"verilator"``: the compiled lane. ``"icarus"``: the cocotb lane on Icarus, four-state and
        a thousand times slower.
    offer, accept, burst, seed
        Probability that (activations, weights) are offered and sums accepted in a cycle, the cycles
        for which such a choice holds (compiled lane only), and the seed of that.
    waves : Path, optional
        Write a VCD trace there.
    progress : bool
        Show a progress bar on a terminal.

    Returns
    -------
    Simulation
        Its ``passed`` says whether the array was right.

    Raises
    ------
    UserError
        If the operands or the tools are not fit.
    ProtocolError
        If the array breaks the rules of its streams or stands still.
    """
    a = check_operand(config, "activations", activations)
    w = check_operand(config, "weights", weights)
    if a.shape[1] != w.shape[0]:
        raise UserError(
            f"activations (M×K) and weights (K×N) must agree in K, not {a.shape} and {w.shape}"
        )
    tiling = check_shape(config, a.shape[0], a.shape[1], w.shape[1])
    generated = generated or generate(config)
    beats = sum(part.beats for part in tiling)
    checker = _Checker(config, tiling, a, w)
    found = checker.found

    def run(chunks: Iterator[Sums]) -> None:
        with tqdm(total=beats, unit=" vectors", disable=None if progress else True) as bar:
            for sums in chunks:
                checker.take(sums)
                bar.update(len(sums.values))

    operands = tiling.activations(a), tiling.weights(w)
    if simulator == "verilator":
        with (
            _whole_file(waves) as trace,
            CompiledModel(generated.verilog, config.name, waves=trace) as model,
        ):
            run(model.stream(
                *operands, beats, generated.sidecar["streams"],
                offer=offer, accept=accept, burst=burst, seed=seed,
            ))  # fmt: skip
            found.seconds = model.seconds
            cycles, (first, last) = model.cycle, model.operand_span
    else:
        from .cocotb_lane import stream_gemm

        with _whole_file(waves) as trace:
            streamed = stream_gemm(
                generated, *operands, beats,
                simulator=simulator, offer=offer, accept=accept, seed=seed, waves=trace,
            )  # fmt: skip
        found.seconds = streamed.seconds
        run(iter([streamed.sums]))
        cycles, (first, last) = streamed.cycle, streamed.operand_span

    found.cycles = cycles - first
    found.utilisation = (
        a.shape[0] * a.shape[1] * w.shape[1] / (config.macs_per_cycle * (last - first + 1))
    )
    # The sums were right one by one; so must be what the host made of them.
    wrong = int((found.result != golden_gemm(config, a, w)).sum())
    found.mismatches = max(found.mismatches, wrong)
    return found
