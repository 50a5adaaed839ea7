"""Post-processing: bias and requantization, each column with its own parameters."""

from abc import abstractmethod

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream
from amaranth.lib.wiring import In, Out

from pe_library.shared import SharedComponent

from .config import AcceleratorConfig
from .product import Product, RoundingShift, delayed, registered, saturated
from .registers import MODES, registers_layout

__all__ = ["REQUANTIZERS", "Multiplier", "PostProcess", "Requantizer", "Shift", "Threshold"]


class Requantizer(SharedComponent):
    """From a sum to a code, for one column.

    Members
    -------
    sum : In(signed(sum_bits))
        With the bias.
    parameters : In(...)
        Of the channel, bias left out; in the same cycle as ``sum``.
    zero_point, low, high : In(signed(value_bits))
        Added at the end; bounds of the code. Stable. Thresholds need none of them.
    code : Out(activation.bits)
        :meth:`latency` cycles later.
    """

    #: Registers that are ports.
    bounds: tuple[str, ...] = ("zero_point", "low", "high")

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "sum": In(signed(config.sum_bits)),
                "parameters": In(config.channel_bits - config.sum_bits),
                **dict.fromkeys(self.bounds, In(signed(config.value_bits))),
                "code": Out(config.array.pe.activation.bits),
            }
        )

    @property
    def scaled_bits(self) -> int:
        """Width beyond which a sum stays out of bounds, whatever zero point is added."""
        return self.config.value_bits + 1

    @property
    def definition(self) -> str:
        return f"requantize_{type(self).__name__.lower()}"

    @staticmethod
    @abstractmethod
    def latency(config: AcceleratorConfig) -> int:
        """Return the cycles from the sum to the code."""

    @abstractmethod
    def stages(self, m: Module) -> Value:
        """Return what :attr:`code` is, one register short of :meth:`latency`."""

    def body(self) -> Module:
        m = Module()
        code = self.stages(m)
        m.d.comb += self.code.eq(registered(m, code, "code_then"))
        return m

    def _clamped(self, m: Module, scaled: Value) -> Value:
        """Return the scaled sum, with the zero point and within bounds, two registers later."""
        small = registered(m, saturated(scaled, self.scaled_bits), "scaled")
        total = registered(m, small + self.zero_point, "total")
        return Mux(total < self.low, self.low, Mux(total > self.high, self.high, total))


class Multiplier(Requantizer):
    """Fixed-point multiplication as TFLite rounds it, then clamping.

    Parameters of a channel: ``multiplier`` (31 bits), ``shift`` (6 bits, signed, -31 to 7). The
    arithmetic is that of ``hwgen.network.requantize.FixedPoint``.
    """

    @staticmethod
    def latency(config: AcceleratorConfig) -> int:
        # Left shift, product, its rounding, right shift; saturation, zero point, bounds
        return 1 + Product.latency(config.sum_bits, 31) + 1 + RoundingShift.latency + 3

    def stages(self, m: Module) -> Value:
        multiplier, shift = self.parameters[:31], self.parameters[31:].as_signed()
        m.submodules.product = product = Product(len(self.sum), 31)
        m.submodules.round = rounding = RoundingShift(len(self.sum))
        to_left = self.sum << Mux(shift < 0, 0, shift[:3])
        half = ((product.product >> 30) + 1) >> 1
        high = registered(m, half, "high_half", self.sum.shape())
        right = Mux(shift < 0, -shift, 0)[:5]
        until_high = 1 + Product.latency(len(self.sum), 31) + 1
        m.d.comb += [
            product.a.eq(registered(m, to_left, "to_left", self.sum.shape())),
            product.b.eq(registered(m, multiplier, "multiplier")),
            rounding.value.eq(high),
            rounding.right.eq(delayed(m, right, until_high)),
            rounding.up.eq(~high[-1]),  # ties away from zero
        ]
        return self._clamped(m, rounding.result)


class Shift(Requantizer):
    """Shift right with ties to even, or left, then clamp.

    Parameter of a channel: ``shift`` (6 bits, signed, to the right where positive, -31 to 31). The
    arithmetic is that of ``hwgen.network.requantize.RoundingShift``.
    """

    @staticmethod
    def latency(_config: AcceleratorConfig) -> int:
        # Operands of the shift, the shift, saturation, zero point, bounds
        return 1 + RoundingShift.latency + 3

    def stages(self, m: Module) -> Value:
        shift = self.parameters.as_signed()
        m.submodules.round = rounding = RoundingShift(len(self.sum))
        m.d.comb += [
            rounding.value.eq(registered(m, self.sum, "sum_then")),
            rounding.right.eq(registered(m, Mux(shift < 0, 0, shift), "right")),
            # To the even one: upwards if the result, rounded down, is odd.
            rounding.up.eq(registered(m, self.sum.bit_select(shift[:5], 1), "odd")),
        ]
        # To the left: only what stays small matters, and all but 0 grows beyond with the longest.
        bits = self.scaled_bits
        left = Signal(range(bits))
        m.d.comb += left.eq(Mux(-shift < bits - 1, -shift, bits - 1))
        small = registered(m, saturated(self.sum, bits), "small")
        places = registered(m, left, "left_then")
        shifted = registered(m, saturated(small << places, bits), "shifted_left")
        to_left = delayed(m, shift[-1], 1 + RoundingShift.latency)
        at_end = delayed(m, shifted, RoundingShift.latency - 1).as_signed()
        return self._clamped(m, Mux(to_left, at_end, rounding.result))


class Threshold(Requantizer):
    """Count the thresholds that the sum reaches, upwards or downwards from a base.

    The first threshold is 0, the bias having it in it. Parameters of a channel: the other
    thresholds less the first (``sum_bits`` each), ``base`` (a code), ``falling`` (1 bit). The
    arithmetic is that of ``hwgen.network.requantize.Thresholds`` on codes.
    """

    bounds = ()

    @staticmethod
    def latency(_config: AcceleratorConfig) -> int:
        # Comparisons, their count, the code
        return 1 + 1 + 1

    def stages(self, m: Module) -> Value:
        count = self.config.thresholds
        bits = len(self.code)
        reached = Signal(range(count + 1))
        base = delayed(m, self.parameters[(count - 1) * len(self.sum) :][:bits], 2)
        falling = delayed(m, self.parameters[-1], 2)
        met = Cat(
            ~self.sum[-1],
            *(
                self.sum >= self.parameters.word_select(i, len(self.sum)).as_signed()
                for i in range(count - 1)
            ),
        )
        m.d.comb += reached.eq(sum(registered(m, met, "met")))
        total = registered(m, reached, "reached_then")
        return Mux(falling, base - total, base + total)


REQUANTIZERS: dict[str, type[Requantizer]] = {
    "multiplier": Multiplier,
    "shift": Shift,
    "threshold": Threshold,
}


class PostProcess(SharedComponent):
    """Adds the bias and requantizes ``cols`` sums a cycle, or lets them pass with their bias.

    Members
    -------
    start, registers
        Begin a run; see ``registers.py``.
    read_addr, read_data
        Port of the parameter buffer, which is read in every cycle.
    i : In(stream of {sums, last}, always ready)
        ``last``: the next beat is of the next block of channels.
    o : Out(stream, always ready)
        Codes, or sums, lowest channel first, :meth:`latency` cycles later.
    """

    #: Cycles from a sum to it and its bias: parameters are read, registered, added.
    biased = 3

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self.address_bits = (config.parameter_words - 1).bit_length()
        cols = config.array.cols
        super().__init__(
            {
                "start": In(1),
                "registers": In(registers_layout(config)),
                "read_addr": Out(self.address_bits),
                "read_data": In(config.parameter_bits),
                "i": In(
                    stream.Signature(
                        data.StructLayout({"sums": cols * config.sum_bits, "last": 1}),
                        always_ready=True,
                    )
                ),
                "o": Out(stream.Signature(cols * config.sum_bits, always_ready=True)),
            }
        )

    @classmethod
    def latency(cls, config: AcceleratorConfig, raw: bool) -> int:
        """Return the cycles from a sum to it and its bias if ``raw``, else to its code."""
        return cls.biased + (0 if raw else REQUANTIZERS[config.requantize].latency(config))

    @property
    def definition(self) -> str:
        return "postprocess"

    def body(self) -> Module:
        m = Module()
        config, registers = self.config, self.registers
        cols, bits = config.array.cols, config.array.pe.activation.bits
        requantizer = REQUANTIZERS[config.requantize]
        raw = registers.mode[MODES["raw"]]
        block = Signal(self.address_bits)
        # Sums wait for their parameters.
        sums = delayed(m, self.i.payload.sums, 2)
        parameters = registered(m, self.read_data, "parameters")
        biased_valid = delayed(m, self.i.valid, self.biased, reset=True)
        coded_valid = delayed(m, biased_valid & ~raw, requantizer.latency(config), reset=True)
        m.d.comb += [
            self.o.valid.eq(Mux(raw, biased_valid, coded_valid)),
            self.read_addr.eq(block),
        ]
        with m.If(self.i.valid & self.i.payload.last):
            m.d.sync += block.eq(block + 1)
        with m.If(self.start):
            m.d.sync += block.eq(registers.parameter_base)
        for c in range(cols):
            channel = parameters.word_select(c, config.channel_bits)
            bias, rest = channel[: config.sum_bits], channel[config.sum_bits :]
            m.submodules[f"requantize_{c}"] = unit = requantizer(config)
            total = sums.word_select(c, config.sum_bits) + bias
            m.d.comb += [
                unit.sum.eq(registered(m, total, f"biased_{c}", unit.sum.shape())),
                unit.parameters.eq(registered(m, rest, f"parameters_{c}")),
                *(getattr(unit, name).eq(registers[name]) for name in unit.bounds),
            ]
            # Codes lie close together, sums in 32 bits each.
            with m.If(raw):
                m.d.comb += self.o.payload.word_select(c, config.sum_bits).eq(unit.sum)
            with m.Else():
                m.d.comb += self.o.payload[c * bits :][:bits].eq(unit.code)
        return m
