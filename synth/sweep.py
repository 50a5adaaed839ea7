"""Sweeps: many points, of a file, measured on all cores into one table.

A sweep file is TOML: tables ``[[points]]``, each a grid (every option may be a list, and all
combinations are measured), and at most one ``[liberty]`` with a file for each library's name.
"""

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hwgen.accelerator.config import AcceleratorConfig
from hwgen.config import ArrayConfig
from hwgen.errors import UserError
from testbench.tools import set_jobs, stop_all

from .characterize import Point, measure
from .store import Store
from .table import Row
from .targets import FPGAS

__all__ = ["default_store", "parse_shard", "point_of", "read_sweep", "run_points", "take_shard"]

#: Options of a point that are its own, and not of its configuration.
_OF_POINT = ("unit", "target", "method", "objective", "seeds", "energy", "flat_check", "seconds")
#: Options of a configuration, with two more: ``size`` is rows and columns, ``exact_for`` the number
#: of products that the sums are to hold exactly.
_OF_CONFIG = (
    "pe", "rows", "cols", "dataflow", "lanes", "pipeline", "accumulator_bits", "overflow", "max_k",
    "pe_options",
)  # fmt: skip
#: Options of an accelerator around it.
_OF_ACCELERATOR = tuple(name for name in AcceleratorConfig.__dataclass_fields__ if name != "array")
#: Cells stand in an array of this many rows: their operands and partial sums are of its middle row.
PE_ROWS = 16
#: The reduction that a single cell's sums are exact for unless told otherwise: ResNet's 512·3·3.
PE_EXACT_FOR = 4608


def default_store() -> Path:
    """Return the folder of the store: ``$HWGEN_STORE``, else ``.hwgen/store`` where one works."""
    return Path(os.environ.get("HWGEN_STORE") or ".hwgen/store")


def point_of(options: Mapping[str, Any], liberty: Mapping[str, Path]) -> Point:
    """Return a point of plain options, as a sweep file or the command line has them.

    Raises
    ------
    TypeError, ValueError
        With a sentence that names the option, its value and what is allowed.
    """
    options = dict(options)
    allowed = (*_OF_POINT, *_OF_CONFIG, *_OF_ACCELERATOR, "size", "exact_for")
    for name in options:
        if name not in allowed:
            raise ValueError(f"option must be one of {', '.join(allowed)}, not {name!r}")
    for name in ("pe", "target"):
        if name not in options:
            raise ValueError(f"{name} must be given")
    own = {name: options.pop(name) for name in _OF_POINT if name in options}
    unit = own.setdefault("unit", "array")
    if "size" in options:
        if "rows" in options or "cols" in options:
            raise ValueError("size must be given without rows and cols")
        options["rows"] = options["cols"] = options.pop("size")
    if unit == "pe":
        if "rows" in options or "cols" in options:
            raise ValueError("rows and cols must be left out with unit 'pe', which is one cell")
        options["rows"] = options["cols"] = PE_ROWS
        if "accumulator_bits" not in options:
            options.setdefault("exact_for", PE_EXACT_FOR)
    if "exact_for" in options:
        if "accumulator_bits" in options:
            raise ValueError("exact_for must be given without accumulator_bits")
        products = options.pop("exact_for")
        array = {name: value for name, value in options.items() if name not in _OF_ACCELERATOR}
        pe = ArrayConfig.from_options(array).pe
        if isinstance(products, bool) or not isinstance(products, int) or products < 1:
            raise ValueError(f"exact_for must be an integer of at least 1, not {products!r}")
        options["accumulator_bits"] = max(2, pe.accumulator_bits(products))
        if options.get("dataflow") == "os" and "max_k" not in options:
            options["max_k"] = products
    around = tuple((name, options.pop(name)) for name in _OF_ACCELERATOR if name in options)
    config = ArrayConfig.from_options(options)
    target = own["target"]
    if not isinstance(target, str):
        raise TypeError(f"target must be a name, not {target!r}")
    point = Point(**own, config=config, accelerator=around, liberty=liberty.get(target))
    point.check_objective()  # resolves the target
    return point


def read_sweep(path: Path, liberty: Mapping[str, Path]) -> list[Point]:
    """Read a sweep file.

    Parameters
    ----------
    path : Path
        The file.
    liberty : mapping
        Liberty files by the name of their target; they win over the file's.

    Raises
    ------
    UserError
        If the file cannot be read, or anything in it is unknown, contradictory or not allowed,
        with the place.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"sweep file {path} must be readable TOML: {error}") from error
    for key in content:
        if key not in ("points", "liberty"):
            raise UserError(f"{path}: table must be [[points]] or [liberty], not {key!r}")
    grids, files = content.get("points", []), content.get("liberty", {})
    if not isinstance(grids, list) or not grids or not all(isinstance(g, dict) for g in grids):
        raise UserError(f"{path}: points must be at least one table [[points]]")
    if not isinstance(files, dict) or not all(isinstance(f, str) for f in files.values()):
        raise UserError(f'{path}: [liberty] must hold NAME = "FILE", not {files!r}')
    for name in files:
        if name in FPGAS:
            raise UserError(f"{path}: [liberty] must name no FPGA, not {name!r}")
    libraries = {name: path.parent / file for name, file in files.items()} | dict(liberty)
    points: dict[tuple[Any, ...], Point] = {}
    for number, grid in enumerate(grids, 1):
        for name, values in grid.items():
            if values == []:
                raise UserError(f"{path}: [[points]] number {number}: {name} must not be empty")
        for options in _combinations(grid):
            try:
                point = point_of(options, libraries)
            except (TypeError, ValueError, UserError) as error:
                raise UserError(f"{path}: [[points]] number {number}: {error}") from error
            if points.setdefault(tuple(point.identity().values()), point) != point:
                raise UserError(
                    f"{path}: [[points]] number {number}: {point.command()} is already there, "
                    "with another seeds, energy, seconds, overflow or max_k"
                )
    return list(points.values())


def _combinations(grid: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    lists = [value if isinstance(value, list) else [value] for value in grid.values()]
    for values in itertools.product(*lists):
        yield dict(zip(grid, values, strict=True))


def parse_shard(text: str) -> tuple[int, int]:
    """Return i and n of ``i/n``, 1 ≤ i ≤ n.

    Raises
    ------
    UserError
        If the text is anything else.
    """
    part, slash, parts = text.partition("/")
    if slash and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts):
        return int(part), int(parts)
    raise UserError(f"--shard must be i/n with 1 <= i <= n, such as 2/4, not {text!r}")


def take_shard(points: Sequence[Point], shard: tuple[int, int]) -> list[Point]:
    """Return every n-th point, from the i-th on; the n shards of a sweep are the whole of it."""
    part, parts = shard
    return list(points)[part - 1 :: parts]


# ---- execution -----------------------------------------------------------------------------------


def run_points(
    points: Sequence[Point],
    store: Path,
    *,
    jobs: int,
    scheduler: str | None = None,
    progress: bool = False,
) -> list[Row]:
    """Measure points, the largest first, and return their rows in the order of the points.

    Parameters
    ----------
    points : sequence of Point
        What to measure.
    store : Path
        Folder of the store. What is finished is kept there even if this process is killed.
    jobs : int
        How many tools may run at the same time, at least 1.
    scheduler : str, optional
        Address of a Dask scheduler (``tcp://...``) that is to do the work instead; its workers
        must see the store's folder.
    progress : bool
        Whether to show a progress bar on standard error.

    Raises
    ------
    UserError
        If a tool or library is missing, or the store cannot be written.
    KeyboardInterrupt
        After everything that runs has been stopped.
    """
    if not points:
        return []
    folder = Store(store).folder
    for program in {program for point in points for program in point.resolve().programs}:
        program.prepare()  # so that no two processes compile it at the same time
    order = sorted(range(len(points)), key=lambda i: -_size(points[i]))
    rows: dict[int, Row] = {}
    bar = tqdm(total=len(points), unit="point", disable=not progress, smoothing=0, mininterval=1)
    counts: dict[str, int] = {}

    def done(i: int, row: Row) -> None:
        rows[i] = row
        counts[row["flow__status"]] = counts.get(row["flow__status"], 0) + 1
        bar.set_postfix(counts, refresh=False)
        bar.update()

    with bar:
        if scheduler is not None:
            _on_dask(scheduler, [(i, points[i]) for i in order], folder, done)
        elif jobs == 1 or len(points) == 1:
            set_jobs(jobs)
            try:
                for i in order:
                    done(i, measure(Store(folder), points[i]))
            except KeyboardInterrupt:
                stop_all()
                raise
        else:
            _on_cores(jobs, [(i, points[i]) for i in order], folder, done)
    return [rows[i] for i in range(len(points))]


def _size(point: Point) -> int:
    """Estimate how long a point takes: the largest go first, so that no core is idle at the end."""
    cells = 1 if point.unit == "pe" else point.config.rows * point.config.cols
    if point.method == "hierarchical":
        cells = min(cells, 64)
    pe = point.config.pe
    return cells * pe.lanes * pe.activation.bits * pe.weight.bits * max(1, point.seeds)


def _on_cores(
    jobs: int, points: Sequence[tuple[int, Point]], store: Path, done: Callable[[int, Row], None]
) -> None:
    # Processes, because much of the work on netlists is Python. They are spawned, not forked, so
    # that none of them holds what belongs to another.
    pool = ProcessPoolExecutor(
        min(jobs, len(points)), multiprocessing.get_context("spawn"), _begin_worker, (os.getpid(),)
    )
    try:
        futures = {pool.submit(_measure, store, point): i for i, point in points}
        waiting: set[Future[Row]] = set(futures)
        while waiting:
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in finished:
                done(futures[future], future.result())
    except BaseException as error:
        # The workers stop their tools when they are told to end.
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(10)
        if isinstance(error, BrokenProcessPool):
            raise UserError(
                "a worker was killed, as happens when memory runs out: give fewer --jobs; what is "
                "finished is kept"
            ) from error
        raise
    pool.shutdown()


def _begin_worker(parent: int) -> None:
    set_jobs(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells us, by SIGTERM

    def end(*_: object) -> None:
        stop_all()
        os._exit(1)

    signal.signal(signal.SIGTERM, end)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        end()

    threading.Thread(target=watch, daemon=True).start()


def _measure(store: Path, point: Point) -> Row:
    return measure(Store(store), point)


def _on_dask(
    scheduler: str,
    points: Sequence[tuple[int, Point]],
    store: Path,
    done: Callable[[int, Row], None],
) -> None:
    try:
        from distributed import Client, as_completed
    except ImportError as error:
        raise UserError("dask must be installed: pip install 'hwgen[dask]'") from error
    try:
        client: Any = Client(scheduler, timeout=10)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, TimeoutError) as error:
        raise UserError(
            f"--scheduler must be the address of a running Dask scheduler, not {scheduler!r}: "
            f"{error}"
        ) from error
    with client, contextlib.ExitStack() as stack:
        # Keys are Dask's own: what was done already, the store knows.
        futures = {client.submit(_measure, store, point, pure=False): i for i, point in points}
        stack.callback(client.cancel, list(futures))
        for future in as_completed(list(futures)):  # type: ignore[no-untyped-call]
            done(futures[future], future.result())
