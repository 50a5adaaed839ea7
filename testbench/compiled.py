"""The compiled lane: a Verilated model in a shared library, driven with NumPy buffers.

For bulk numerics: whole layers, exhaustive operands, property tests. Millions of cycles a second.
"""

import ctypes
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from hwgen.tiling import Beats

from .verilator import FLAGS, build_design, cached, compile_command, content_key, runtime

__all__ = ["CompiledModel", "ProtocolError", "Sums", "build_model", "module_ports"]

_HARNESS = Path(__file__).with_name("harness.cpp")
_PORT = re.compile(r"^  (input|output) (?:\[(\d+):0\] )?\\?(\S+) ?;$", re.MULTILINE)


class ProtocolError(AssertionError):
    """The design broke the rules of its streams, or stood still."""


def module_ports(verilog: str, top: str) -> dict[str, int]:
    """Return the ports of a module of emitted Verilog, by name, with their widths."""
    module = re.search(
        rf"^module {re.escape(top)}\b.*?^endmodule", verilog, re.DOTALL | re.MULTILINE
    )
    if module is None:
        raise ValueError(f"the Verilog must define a module {top}")
    return {name: int(high or 0) + 1 for _, high, name in _PORT.findall(module[0])}


def build_model(verilog: str, top: str, *, trace: bool = False) -> Path:
    """Compile a model of the module ``top`` into a shared library; return its path.

    Libraries are cached by the content of everything that goes into them.
    """
    shared = ["verilated", "verilated_threads", *(["verilated_vcd_c"] if trace else [])]
    objects = runtime(shared, trace=trace)
    verilate = ["--trace-vcd"] if trace else []
    command = compile_command(trace=trace)
    key = content_key(
        verilog, top, _HARNESS.read_bytes(), objects.name, *FLAGS, *verilate, *command
    )  # fmt: skip
    with cached(f"model-{key}") as (entry, building):
        if building is not None:
            (building / "top.v").write_text(verilog, encoding="utf-8")
            members = {port: port.replace("__", "___05F") for port in module_ports(verilog, top)}
            (building / "ports.h").write_text(
                f"#define PORTS(X) {' '.join(f'X({member})' for member in members.values())}\n"
                f"#define CLOCK(X) {'X(clk)' if 'clk' in members else ''}\n"
                f"#define RESET(X) {'X(rst)' if 'rst' in members else ''}\n"
            )
            build_design(
                building, top, _HARNESS, "model.so", objects=objects, shared=shared,
                verilate=verilate, trace=trace, link=["-shared"],
            )  # fmt: skip
    return entry / "model.so"


class _Source(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("segments", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in (
            "segment_count", "beat_bytes", "segment", "position",
            "valid_port", "payload_port", "ready_port", "payload_bits", "probability", "open",
            "offered",
        )),
    ]  # fmt: skip


class _Sink(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in (
            "valid_port", "payload_port", "ready_port", "payload_bytes", "probability", "open",
            "fields", "bits",
        )),
        ("sums", ctypes.c_void_p),
        ("last", ctypes.c_void_p),
        ("cycles", ctypes.c_void_p),
        ("capacity", ctypes.c_int64),
        ("count", ctypes.c_int64),
    ]  # fmt: skip


class _Job(ctypes.Structure):
    _fields_ = [
        ("sources", _Source * 2),
        ("sink", _Sink),
        *((name, ctypes.c_int64) for name in (
            "wanted", "cycle", "idle", "patience", "burst", "first_operand", "last_operand",
        )),
        ("random", ctypes.c_uint64),
    ]  # fmt: skip


class _Exchange(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in (
            "beats", "beat_bytes", "i_valid", "i_payload", "i_ready", "o_valid", "o_payload",
            "o_ready", "offer", "accept", "sent", "count", "capacity",
        )),
        ("answer", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("cycle", "idle", "patience")),
        ("random", ctypes.c_uint64),
    ]  # fmt: skip


def _complain(outcome: int, cycle: int, patience: int, stream: str, rest: str = "") -> None:
    """Raise ProtocolError if the model ended as harness.cpp's ``Outcome`` says it must not."""
    complaint = {
        2: f"nothing was transferred for {patience} cycles{rest}",
        3: f"{stream}: valid was withdrawn before the transfer",
        4: f"{stream}: payload changed before the transfer",
    }.get(outcome)
    if complaint:
        raise ProtocolError(f"cycle {cycle}: {complaint}")


@dataclass(frozen=True)
class Sums:
    """Consecutive beats of ``o_sum``: values (beats, cols), last bits, cycles since reset."""

    values: npt.NDArray[np.int64]
    last: npt.NDArray[np.uint8]
    cycles: npt.NDArray[np.int64]


class CompiledModel:
    """One instance of a compiled module.

    Parameters
    ----------
    verilog : str
        Emitted Verilog.
    top : str
        The module.
    waves : Path, optional
        Write a VCD trace there.
    """

    def __init__(self, verilog: str, top: str, *, waves: Path | None = None) -> None:
        self.ports = module_ports(verilog, top)
        self._index = {name: index for index, name in enumerate(self.ports)}
        library = build_model(verilog, top, trace=waves is not None)
        self._c = ctypes.CDLL(str(library))
        self._c.model_new.restype = ctypes.c_void_p
        for name in ("model_run", "model_drain", "model_exchange"):
            getattr(self._c, name).restype = ctypes.c_int64
        path = b"" if waves is None else str(waves).encode()
        self._model = ctypes.c_void_p(self._c.model_new(path))
        self._job: _Job | None = None
        #: Wall time spent in the model by :meth:`stream`.
        self.seconds = 0.0
        self.reset()

    def __enter__(self) -> "CompiledModel":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the model; a trace is complete then."""
        if self._model:
            self._c.model_free(self._model)
            self._model = ctypes.c_void_p()

    def reset(self) -> None:
        """Hold ``rst`` for one cycle."""
        self._c.model_reset(self._model)

    # ---- arrays ------------------------------------------------------------------------------

    def stream(
        self,
        activations: Beats,
        weights: Beats,
        sum_beats: int,
        layout: Mapping[str, Mapping[str, Any]],
        *,
        offer: tuple[float, float] = (1.0, 1.0),
        accept: float = 1.0,
        burst: int = 1,
        seed: int = 1,
        patience: int = 10_000,
        chunk: int = 1 << 18,
    ) -> Iterator[Sums]:
        """Run an array's streams from reset on; yield the sums as they come.

        Parameters
        ----------
        activations, weights : Beats
            What the inputs carry.
        sum_beats : int
            Beats of sums to wait for.
        layout : mapping
            The ``streams`` of the sidecar.
        offer : pair of float
            Probability that activations, weights are offered in a cycle, 2**-16 to 1.
        accept : float
            Probability that a sum is accepted in a cycle, 2**-16 to 1.
        burst : int
            Cycles for which such a choice holds, at least 1.
        seed : int
            Of the random idling.
        patience : int
            Cycles without any transfer after which the design counts as hung.
        chunk : int
            Cycles between two yields, at the most.

        Raises
        ------
        ValueError
            If a probability is out of range.
        ProtocolError
            If the array withdraws or changes a sum before it was accepted, hangs, or sends more.
        """
        for name, chance in (("offer", offer[0]), ("offer", offer[1]), ("accept", accept)):
            if not 2**-16 <= chance <= 1:
                raise ValueError(f"{name} must be from 2**-16 to 1, not {chance}")
        cols = (layout["o_sum"]["last_bit"]) // layout["o_sum"]["bits"]
        capacity = min(chunk, max(256, (1 << 16) // cols))  # stays in the processor's cache
        sums = np.empty((capacity, cols), dtype=np.int64)
        last = np.empty(capacity, dtype=np.uint8)
        cycles = np.empty(capacity, dtype=np.int64)
        job = self._job = _Job(
            wanted=sum_beats, patience=patience, burst=burst, first_operand=-1, last_operand=-1,
            random=(seed * 0x9E3779B97F4A7C15 + 1) & (1 << 64) - 1 or 1,
        )  # fmt: skip
        keep = []
        inputs = (("i_act", activations, offer[0]), ("i_weight", weights, offer[1]))
        for source, (name, beats, probability) in zip(job.sources, inputs, strict=True):
            data = np.ascontiguousarray(beats.data)
            segments = np.ascontiguousarray(beats.segments)
            keep += [data, segments]
            source.data, source.segments = data.ctypes.data, segments.ctypes.data
            source.segment_count, source.beat_bytes = len(segments), data.shape[1]
            source.payload_bits = self.ports[f"{name}__payload"]
            source.probability = round(probability * 65536)
            for part in ("valid", "payload", "ready"):
                setattr(source, f"{part}_port", self._index[f"{name}__{part}"])
        sink = job.sink
        for part in ("valid", "payload", "ready"):
            setattr(sink, f"{part}_port", self._index[f"o_sum__{part}"])
        sink.payload_bytes = -(-self.ports["o_sum__payload"] // 8)
        sink.probability = round(accept * 65536)
        sink.fields, sink.bits = cols, layout["o_sum"]["bits"]
        sink.sums, sink.last, sink.cycles = (x.ctypes.data for x in (sums, last, cycles))
        sink.capacity = capacity

        outcome = 0
        while outcome == 0:
            start = time.perf_counter()
            outcome = self._c.model_run(self._model, ctypes.byref(job), ctypes.c_int64(chunk))
            self.seconds += time.perf_counter() - start
            if sink.count:
                got = slice(0, sink.count)
                yield Sums(sums[got].copy(), last[got].copy(), cycles[got].copy())
        _complain(outcome, job.cycle, patience, "o_sum", f"; {job.wanted} sums are missing")
        extra = self._c.model_drain(self._model, ctypes.byref(job), ctypes.c_int64(patience))
        if extra:
            raise ProtocolError(f"cycle {job.cycle}: {extra} sums more than expected")
        for source, name in zip(job.sources, ("i_act", "i_weight"), strict=True):
            if source.segment < source.segment_count:
                raise ProtocolError(f"cycle {job.cycle}: {name} has beats left that nothing took")

    @property
    def cycle(self) -> int:
        """Cycles run since reset, in the last :meth:`stream`."""
        return 0 if self._job is None else int(self._job.cycle)

    @property
    def operand_span(self) -> tuple[int, int]:
        """Cycles of the first and last accepted operand, in the last :meth:`stream`."""
        assert self._job is not None, "nothing was streamed"
        return int(self._job.first_operand), int(self._job.last_operand)

    # ---- accelerators ------------------------------------------------------------------------

    def exchange(
        self,
        beats: npt.NDArray[np.uint8],
        *,
        offer: float = 1.0,
        accept: float = 1.0,
        seed: int = 1,
        patience: int = 100_000,
        progress: Callable[[int, int], None] | None = None,
    ) -> npt.NDArray[np.uint8]:
        """Send a packet to ``i`` and return the packet that ``o`` answers.

        Parameters
        ----------
        beats : uint8 array (beats, bytes)
            The packet.
        offer, accept : float
            Probability that a beat is offered, accepted in a cycle, 2**-16 to 1.
        seed : int
            Of the random idling.
        patience : int
            Cycles without any transfer after which the design counts as hung: more than the longest
            run that sends nothing.
        progress : callable, optional
            Called now and then with cycles run and beats sent.

        Raises
        ------
        ProtocolError
            If the design withdraws or changes a beat before it was accepted, or hangs.
        """
        data = np.ascontiguousarray(beats, dtype=np.uint8)
        answer = np.empty((4096, data.shape[1]), np.uint8)
        index = self._index
        job = _Exchange(
            data=data.ctypes.data, beats=len(data), beat_bytes=data.shape[1],
            i_valid=index["i__valid"], i_payload=index["i__payload"], i_ready=index["i__ready"],
            o_valid=index["o__valid"], o_payload=index["o__payload"], o_ready=index["o__ready"],
            offer=round(offer * 65536), accept=round(accept * 65536),
            answer=answer.ctypes.data, capacity=len(answer), patience=patience,
            random=(seed * 0x9E3779B97F4A7C15 + 1) & (1 << 64) - 1 or 1,
        )  # fmt: skip
        chunks = []
        outcome = 0
        while outcome == 0:
            start = time.perf_counter()
            outcome = self._c.model_exchange(
                self._model, ctypes.byref(job), ctypes.c_int64(1 << 18)
            )
            self.seconds += time.perf_counter() - start
            chunks.append(answer[: job.count].copy())
            job.count = 0
            if progress is not None:
                progress(int(job.cycle), int(job.sent))
        _complain(outcome, job.cycle, patience, "o")
        return np.concatenate(chunks)

    # ---- modules without streams -------------------------------------------------------------

    def vectors(
        self, inputs: Mapping[str, npt.NDArray[np.uint8]], output: str, *, latency: int = 0
    ) -> npt.NDArray[np.uint8]:
        """Apply one row of every input each cycle; return the output ``latency`` cycles later.

        ``inputs`` holds packed rows by port, of shape (rows, bytes); the result is (rows, bytes).
        """
        rows = {len(data) for data in inputs.values()}
        if len(rows) != 1:
            raise ValueError(f"inputs must have the same number of rows, not {sorted(rows)}")
        (count,) = rows
        padded = [
            np.concatenate([data, np.repeat(data[-1:], latency, axis=0)])
            for data in inputs.values()
        ]
        padded = [np.ascontiguousarray(data, dtype=np.uint8) for data in padded]
        ports = np.array([self._index[name] for name in inputs], dtype=np.int64)
        widths = np.array([data.shape[1] for data in padded], dtype=np.int64)
        pointers = (ctypes.c_void_p * len(padded))(*(data.ctypes.data for data in padded))
        out = np.empty((count, -(-self.ports[output] // 8)), dtype=np.uint8)
        self._c.model_vectors(
            self._model, ctypes.c_int64(count), ctypes.c_int64(latency),
            ctypes.c_int64(len(padded)), ports.ctypes.data_as(ctypes.c_void_p),
            widths.ctypes.data_as(ctypes.c_void_p), pointers,
            ctypes.c_int64(self._index[output]), ctypes.c_int64(out.shape[1]),
            out.ctypes.data_as(ctypes.c_void_p),
        )  # fmt: skip
        return out
