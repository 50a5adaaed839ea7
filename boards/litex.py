"""A module of LiteX around the accelerator's Verilog.

LiteX and Migen must be installed (``pip install litex migen``); nothing else of hwgen needs them,
and nothing else imports this module. Tried with LiteX 2024.12 and Migen 0.10.0.
"""

from pathlib import Path
from typing import Any

from litex.gen import LiteXModule
from litex.soc.cores.dma import WishboneDMAReader, WishboneDMAWriter
from litex.soc.integration.soc import SoCRegion
from litex.soc.interconnect import axi, stream, wishbone
from migen import ClockSignal, Instance, ResetSignal

from hwgen.accelerator.axi import ADDRESS_BITS, REGISTERS
from hwgen.accelerator.config import AcceleratorConfig
from hwgen.errors import UserError
from hwgen.generate import generate_accelerator, write_files

__all__ = ["HwgenAccelerator", "add_accelerator"]

#: Where the Verilog is written to, unless told otherwise, from where the SoC is built.
DIRECTORY = Path("build") / "hwgen"
#: Fields of the channels of AXI4-Lite.
_CHANNELS = {
    "aw": ("addr", "prot"), "w": ("data", "strb"), "b": ("resp",),
    "ar": ("addr", "prot"), "r": ("data", "resp"),
}  # fmt: skip


class HwgenAccelerator(LiteXModule):
    """An accelerator between two streams of LiteX, with its registers on an AXI4-Lite.

    It is in the clock domain ``sys`` (rename it with ``ClockDomainsRenamer``), whose reset must be
    held for a cycle after power-up, as a ``CRG`` does. Its streams carry programs and answers as
    ``s_axis`` and ``m_axis`` of ``NAME_axi`` do: ``last`` ends a packet, ``first`` is ignored.

    Parameters
    ----------
    platform : litex.build.generic_platform.GenericPlatform
        The Verilog becomes one of its sources.
    config : AcceleratorConfig
    directory : path, optional
        Folder for ``NAME.v`` and ``NAME.json``, made if need be; files of these names are replaced.

    Attributes
    ----------
    sink, source : stream.Endpoint
        Programs and answers: ``data`` of ``config.stream_bits``.
    bus : axi.AXILiteInterface
        The registers (:data:`hwgen.accelerator.axi.REGISTERS`), 32 bits at byte addresses.
    reader, writer : WishboneDMAReader, WishboneDMAWriter
        With :meth:`add_dma`.

    Raises
    ------
    UserError
        If the folder cannot be written, or another configuration of this name was written to it
        for the same platform.

    Examples
    --------
    In a SoC's constructor, between a source and a sink of one's own::

        config = AcceleratorConfig.from_options({"pe": "int8", "rows": 8, "cols": 8})
        self.accelerator = accelerator = HwgenAccelerator(platform, config)
        self.comb += [
            self.camera.source.connect(accelerator.sink),
            accelerator.source.connect(self.display.sink),
        ]
        self.bus.add_slave("accelerator", accelerator.bus, SoCRegion(size=0x1000, cached=False))
    """

    def __init__(
        self, platform: Any, config: AcceleratorConfig, directory: Path | str = DIRECTORY
    ) -> None:
        self.config = config
        self.sink = sink = stream.Endpoint([("data", config.stream_bits)])
        self.source = source = stream.Endpoint([("data", config.stream_bits)])
        self.bus = bus = axi.AXILiteInterface(data_width=32, address_width=32)
        ports = {
            "i_clk": ClockSignal(), "i_rst": ResetSignal(),
            "i_s_axis_tdata": sink.data, "i_s_axis_tvalid": sink.valid,
            "o_s_axis_tready": sink.ready, "i_s_axis_tlast": sink.last,
            "i_s_axis_tkeep": (1 << config.stream_bits // 8) - 1,
            "o_m_axis_tdata": source.data, "o_m_axis_tvalid": source.valid,
            "i_m_axis_tready": source.ready, "o_m_axis_tlast": source.last,
        }  # fmt: skip
        for channel, fields in _CHANNELS.items():
            endpoint = getattr(bus, channel)
            to_core, from_core = ("o", "i") if channel in ("b", "r") else ("i", "o")
            ports[f"{to_core}_s_axil_{channel}valid"] = endpoint.valid
            ports[f"{from_core}_s_axil_{channel}ready"] = endpoint.ready
            for field in fields:
                value = getattr(endpoint, field)
                value = value[:ADDRESS_BITS] if field == "addr" else value
                ports[f"{to_core}_s_axil_{channel}{field}"] = value
        generated = generate_accelerator(config)
        self.specials += Instance(generated.sidecar["top"], **ports)
        _add_source(platform, config, Path(directory), generated.files)

    def add_dma(self, soc: Any, name: str) -> None:
        """Let programs come from the SoC's memory, and answers go there.

        ``reader`` and ``writer`` are LiteX's, with its CSRs ``base`` and ``length`` in bytes,
        ``enable``, ``done``, ``loop`` and ``offset``. The writer is done when the answer's last
        beat is written, however long it is; it takes nothing unless it is enabled.

        Parameters
        ----------
        soc : litex.soc.integration.soc.SoC
        name : str
            Of the masters on its bus: ``NAME_reader`` and ``NAME_writer``.

        Raises
        ------
        UserError
            If the SoC's bus is wider than the streams.
        """
        bits = self.config.stream_bits
        if soc.bus.data_width > bits:
            raise UserError(
                f"stream_bits must be at least the {soc.bus.data_width} of the SoC's bus with DMA, "
                f"not {bits}"
            )
        # The first byte in memory is the lowest of a beat. LiteX's DMA reverses the bytes of a word
        # when it is told "little", which is wanted if the CPU has its first byte on top.
        order = "big" if soc.cpu.endianness == "little" else "little"
        memory = getattr(soc, "dma_bus", soc.bus)
        buses = [
            wishbone.Interface(
                data_width=soc.bus.data_width, address_width=soc.bus.address_width,
                addressing="word",
            )
            for _ in range(2)
        ]  # fmt: skip
        self.reader = reader = WishboneDMAReader(buses[0], endianness=order, with_csr=True)
        self.writer = writer = WishboneDMAWriter(buses[1], endianness=order)
        writer.add_ctrl(ready_on_idle=0)
        writer.add_csr()
        self.to_beats = stream.Converter(soc.bus.data_width, bits)
        self.from_beats = stream.Converter(bits, soc.bus.data_width)
        self.comb += [
            reader.source.connect(self.to_beats.sink),
            self.to_beats.source.connect(self.sink),
            self.source.connect(self.from_beats.sink),
            self.from_beats.source.connect(writer.sink),
        ]
        memory.add_master(f"{name}_reader", buses[0])
        memory.add_master(f"{name}_writer", buses[1])


def _add_source(platform: Any, config: AcceleratorConfig, folder: Path, files: Any) -> None:
    """Write the Verilog and give it to the platform; one configuration of a name serves for all."""
    used: dict[str, AcceleratorConfig] = platform.__dict__.setdefault("hwgen_accelerators", {})
    if used.setdefault(config.name, config) != config:
        raise UserError(
            f"name must be another one than {config.name!r}: the SoC has an accelerator of this "
            "name and another configuration"
        )
    names = (f"{config.name}.v", f"{config.name}.json")
    write_files(folder, {name: files[name] for name in names}, force=True)
    platform.add_source(str(folder / names[0]))


def add_accelerator(
    soc: Any,
    config: AcceleratorConfig,
    name: str = "accelerator",
    *,
    directory: Path | str = DIRECTORY,
    origin: int | None = None,
    dma: bool = False,
) -> HwgenAccelerator:
    """Add an accelerator to a SoC: ``soc.NAME``, with its registers as a region of the SoC's bus.

    Software finds their offsets as constants, ``NAME_STATUS_OFFSET`` and so on, and the bytes of a
    beat as ``NAME_BEAT_BYTES``.

    Parameters
    ----------
    soc : litex.soc.integration.soc.SoC
        On any of LiteX's buses: Wishbone, AXI-Lite, AXI.
    config : AcceleratorConfig
    name : str
        Of the module, of the region and of the CSRs.
    directory : path
        Folder for the Verilog.
    origin : int, optional
        Address of the registers, a multiple of 4096; else LiteX chooses one.
    dma : bool
        Connect the streams to the SoC's memory (:meth:`HwgenAccelerator.add_dma`), so that its
        CPU runs programs; else they are for the caller to connect.

    Raises
    ------
    UserError
        If the SoC has something of this name, ``origin`` is no multiple of 4096, or the accelerator
        cannot be made; see :class:`HwgenAccelerator`.

    Examples
    --------
    A SoC for an Arty whose CPU runs networks from its memory::

        from litex_boards.targets.digilent_arty import BaseSoC
        from boards.litex import add_accelerator
        from hwgen.accelerator.config import AcceleratorConfig

        soc = BaseSoC(sys_clk_freq=75e6)
        config = AcceleratorConfig.from_options({"pe": "int8", "rows": 8, "cols": 8})
        add_accelerator(soc, config, dma=True)
    """
    size = 1 << ADDRESS_BITS
    if not name.isidentifier() or hasattr(soc, name):
        raise UserError(f"name must be an identifier that the SoC has not got yet, not {name!r}")
    if origin is not None and origin % size:
        raise UserError(f"origin must be a multiple of {size}, not {origin:#x}")
    accelerator = HwgenAccelerator(soc.platform, config, directory)
    if dma:
        accelerator.add_dma(soc, name)
    setattr(soc, name, accelerator)
    region = SoCRegion(origin=origin, size=size, mode="rw", cached=False)
    soc.bus.add_slave(name, accelerator.bus, region)
    for register in REGISTERS:
        soc.add_constant(f"{name}_{register.name}_offset", register.offset)
    soc.add_constant(f"{name}_beat_bytes", config.stream_bits // 8)
    return accelerator
