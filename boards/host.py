"""The host's driver: networks on an accelerator behind a serial port or SPI.

::

    with Accelerator.open("/dev/ttyUSB1", baud=1_000_000) as board:
        found = board.run(compiled, network.encode(images))
"""

import contextlib
import errno
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from hwgen.accelerator.commands import Status
from hwgen.accelerator.config import AcceleratorConfig
from hwgen.compiler.compile import Compiled, compile_network
from hwgen.compiler.program import Program
from hwgen.errors import UserError
from hwgen.network.graph import Network

from .link.session import Line, Session

__all__ = ["Accelerator", "BoardRun", "SerialLine", "SpiLine"]

IntArray = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


class SerialLine(Line):
    """A serial port.

    Parameters
    ----------
    port : str
        Such as ``/dev/ttyUSB1`` or ``COM3``.
    baud : int
        Bits a second.

    Raises
    ------
    UserError
        If pyserial or the port is missing, or the port is in use or may not be used.
    """

    def __init__(self, port: str, baud: int) -> None:
        try:
            import serial
        except ImportError as error:
            raise UserError(
                "pyserial must be installed to talk to a board: pip install 'hwgen[boards]'"
            ) from error
        self.port = port
        self._broken = (serial.SerialException, OSError, TypeError)  # TypeError: it was closed
        try:
            self._serial = serial.Serial(port, baud, timeout=0, write_timeout=5, exclusive=True)
        except ValueError as error:
            raise UserError(f"baud must be a rate that {port} can do, not {baud}") from error
        except serial.SerialException as error:
            raise UserError(_why_not(port, error)) from error
        with self._guarded():
            self._serial.reset_input_buffer()

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except self._broken as error:
            raise UserError(
                f"port {self.port} must stay connected, it is gone ({error}): check the cable, "
                "and open it again"
            ) from error

    def write(self, data: bytes) -> None:
        with self._guarded():
            self._serial.write(data)

    def read(self, seconds: float) -> bytes:
        with self._guarded():
            if self._serial.timeout != seconds:
                self._serial.timeout = seconds
            first = self._serial.read(1)
            return bytes(first + self._serial.read(self._serial.in_waiting) if first else b"")

    def close(self) -> None:
        with contextlib.suppress(*self._broken):
            self._serial.close()


def _why_not(port: str, error: Exception) -> str:
    """Return the sentence for a port that cannot be opened."""
    number = getattr(error, "errno", None)
    if number in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return f"port must be a serial port of this machine, there is no {port}: connect the board"
    if number in (errno.EAGAIN, errno.EBUSY):
        return f"port {port} must be free, another program has it open: close that"
    if number == errno.EACCES:
        return f"port {port} must be readable and writable: add yourself to its group (dialout)"
    return f"port must be a serial port, not {port}: {error}"


class SpiLine(Line):
    """A board behind SPI, mode 0.

    Parameters
    ----------
    device : object
        With ``xfer2(list of int) -> list of int`` and ``close()``, as spidev has.
    """

    #: Bytes that are clocked at once to see whether the board says something.
    CHUNK = 64

    def __init__(self, device: Any) -> None:
        self._device = device
        self._heard = bytearray()

    @classmethod
    def open(cls, port: str) -> "SpiLine":
        """Open a controller of Linux.

        Parameters
        ----------
        port : str
            ``spi:BUS.DEVICE`` or ``spi:BUS.DEVICE:HZ`` (1 MHz), such as ``spi:0.0:2000000``; the
            board's core clock must be eight times as fast.

        Raises
        ------
        UserError
            If it is written in another way, spidev is missing, or there is none such.
        """
        found = re.fullmatch(r"spi:(\d+)\.(\d+)(?::(\d+))?", port)
        if found is None:
            raise UserError(f"port must be spi:BUS.DEVICE or spi:BUS.DEVICE:HZ, not {port}")
        try:
            import spidev
        except ImportError as error:
            raise UserError(
                "spidev must be installed to talk to a board over SPI: pip install spidev"
            ) from error
        device = spidev.SpiDev()
        try:
            device.open(int(found[1]), int(found[2]))
        except OSError as error:
            raise UserError(
                f"port must be an SPI controller of this machine, there is no {port}: {error}"
            ) from error
        device.mode = 0
        device.max_speed_hz = int(found[3] or 1_000_000)
        return cls(device)

    def _transfer(self, data: bytes) -> None:
        try:
            self._heard += bytes(self._device.xfer2(list(data)))
        except OSError as error:
            raise UserError(f"SPI device must stay connected, it is gone ({error})") from error

    def write(self, data: bytes) -> None:
        self._transfer(data)

    def read(self, seconds: float) -> bytes:
        """Return what has come; zeros alone are silence."""
        end = self.now() + seconds
        while True:
            self._transfer(bytes(self.CHUNK))
            heard, self._heard = bytes(self._heard), bytearray()
            if any(heard) or self.now() >= end:
                return heard

    def close(self) -> None:
        self._device.close()


@dataclass
class BoardRun:
    """What a board computed.

    Attributes
    ----------
    outputs : int64 array (samples, height, width, channels)
        Integers, or sums, of the network's output.
    cycles : list of int
        Of each sample's program, by the accelerator's own count.
    seconds : float
        In all, the transfers included.
    """

    outputs: IntArray
    cycles: list[int] = field(default_factory=list)
    seconds: float = 0.0


class Accelerator:
    """An accelerator on a board.

    Parameters
    ----------
    line : Line
        An open line; closed with the accelerator.
    config : AcceleratorConfig, optional
        What the board must hold; else what it says that it holds.
    timeout : float
        Seconds without progress after which the board counts as gone, or as stuck: more than a
        sample computes.
    name : str
        Of the line, for messages.

    Raises
    ------
    UserError
        If no board answers, it is another device, or it holds another configuration.

    Attributes
    ----------
    session : Session
        With ``identification`` and ``statistics``.
    """

    def __init__(
        self,
        line: Line,
        config: AcceleratorConfig | None = None,
        *,
        timeout: float = 5.0,
        name: str = "the line",
    ) -> None:
        self.line = line
        self.config = config
        self.session = Session(line, timeout=timeout, name=name)
        options = self.session.identification.options
        if config is None and options:
            self.config = AcceleratorConfig.from_options(options)
        if self.config is not None:
            self._check(self.config)

    @classmethod
    def open(
        cls,
        port: str,
        config: AcceleratorConfig | None = None,
        *,
        baud: int = 1_000_000,
        timeout: float = 5.0,
    ) -> "Accelerator":
        """Open a serial port or an SPI controller, find the board there, and begin a session.

        Parameters
        ----------
        port : str
            Of :class:`SerialLine`, or of :meth:`SpiLine.open` where it begins with ``spi:``.
        config, timeout
            See the class.
        baud : int
            The rate the bitstream was built for; no matter to SPI.

        Raises
        ------
        UserError
            As the class, :class:`SerialLine` and :meth:`SpiLine.open` do.
        """
        line: Line = SpiLine.open(port) if port.startswith("spi:") else SerialLine(port, baud)
        try:
            return cls(line, config, timeout=timeout, name=port)
        except BaseException:
            line.close()
            raise

    def __enter__(self) -> "Accelerator":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the line. The board forgets its session when the next begins."""
        self.line.close()

    def _check(self, config: AcceleratorConfig) -> None:
        board = self.session.identification
        if board.digest != bytes.fromhex(config.digest)[:16]:
            raise UserError(
                f"board must hold the configuration {config.digest[:32]} ({config.name!r}), not "
                f"{board.digest.hex()} ({_told(board.options)}): build the bitstream with the "
                "program's options (`hwgen build`) and load it, or compile for the board's"
            )

    def execute(self, program: bytes | Bytes) -> Bytes:
        """Run a program.

        Parameters
        ----------
        program : bytes, or uint8 array (beats, bytes of a beat)
            As ``Program.beats`` gives it.

        Returns
        -------
        uint8 array (beats, bytes of a beat)
            The answer, its closing beat included, whatever status that has.

        Raises
        ------
        UserError
            If the board is gone, or stuck.
        ValueError
            If the program is not a whole number of beats.
        """
        (answer,) = self.session.exchange([bytes(program)])
        return self._beats(answer)

    def _beats(self, answer: bytes) -> Bytes:
        size = self.session.identification.stream_bits // 8
        return np.frombuffer(answer, np.uint8).reshape(-1, size)

    def run(
        self,
        network: Network | Compiled,
        inputs: IntArray,
        *,
        progress: Callable[[int], None] | None = None,
    ) -> BoardRun:
        """Run samples; the next one is sent while the board computes.

        Weights that fit their buffer all at once are sent with the first sample only.

        Parameters
        ----------
        network : Network or Compiled
            A network is compiled for the configuration that the board was opened with.
        inputs : int64 array (samples, height, width, channels)
            Integers of the network's input.
        progress : callable, optional
            Called with the number of samples done.

        Raises
        ------
        UserError
            If the board holds another configuration, a program ends with an error, or the board is
            gone, or stuck.
        ValueError
            If an input is out of range.
        """
        if isinstance(network, Network):
            if self.config is None:
                raise UserError("config must be given: this board does not say what it holds")
            network = compile_network(network, self.config)
        compiled = network
        self._check(compiled.config)
        output = compiled.network.output
        shape = compiled.network.tensors[output].shape
        result = BoardRun(np.zeros((len(inputs), *shape), np.int64))
        programs: deque[Program] = deque()

        def packets() -> Iterator[bytes]:
            for i, sample in enumerate(inputs):
                programs.append(compiled.program(sample, resident=compiled.resident and i > 0))
                yield programs[-1].beats().tobytes()

        start = time.perf_counter()
        for i, packet in enumerate(self.session.exchange(packets())):
            beats = self._beats(packet)
            status = int(beats[-1, 7])
            if status:
                raise UserError(
                    f"sample {i} must end with status 0 (OK), not {status} ({_status(status)}): "
                    "if a second try does not help, the bitstream does not fit the program"
                )
            answer = programs.popleft().read_answer(beats)
            result.outputs[i] = compiled.outputs(answer)[output]
            result.cycles.append(answer.cycles)
            if progress is not None:
                progress(i + 1)
        result.seconds = time.perf_counter() - start
        return result


def _told(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items()) or "it does not say what"


def _status(number: int) -> str:
    return Status(number).name if number in set(Status) else "unknown"
