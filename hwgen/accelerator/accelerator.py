"""The accelerator: buffers, streamers, the array and what follows it, behind two streams.

::

    i ─► sequencer ─► weight buffer ─► weight streamer ───────┐
            │                                                 ▼
            ├──────► activation buffer ─► activation ──┬─► array ──┐
            │              ▲              streamer     └─► direct ─┴─► accumulate ─► post-processing
            │              │                                                              │
            └─ parameters ─│───────────────────────────────────────────────► (bias, …) ──►│
                           └──────────────────────── results ◄────────────────────────────┘
                                                        └─► o

Before an output-stationary array, a transposer collects pixels and gives a few channels of all.
"""

from dataclasses import replace

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream
from amaranth.lib.wiring import In, Out

from hwgen.array import SystolicArray
from pe_library.shared import SharedComponent

from .accumulate import Accumulate
from .buffer import WordBuffer, activation_buffer
from .commands import BUFFERS
from .config import AcceleratorConfig
from .direct import Direct
from .postprocess import PostProcess
from .product import registered
from .registers import MODES
from .results import Results
from .sequencer import Sequencer
from .slices import Stage, sliced
from .streamers import ActivationStreamer, WeightStreamer, chosen
from .transposer import Transposer

__all__ = ["Accelerator"]


class Accelerator(SharedComponent):
    """A systolic array with buffers, post-processing and a sequencer.

    ``i`` takes programs and ``o`` gives their answers (``commands.py``). ``rst`` must be held for a
    cycle after power-up. A stall of ``o`` holds the run, and loses nothing.

    Parameters
    ----------
    config : AcceleratorConfig
        The configuration.

    Members
    -------
    i : In(stream of {data, last}), o : Out(stream of {data, last})
        ``stream_bits`` of data, and the end of the packet.
    status, cycles, idle : Out(8), Out(56), Out(1)
        Of the last program: status, cycles so far; whether no program is going on.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        beat = stream.Signature(data.StructLayout({"data": config.stream_bits, "last": 1}))
        super().__init__(
            {"i": In(beat), "o": Out(beat), "status": Out(8), "cycles": Out(56), "idle": Out(1)}
        )

    @property
    def definition(self) -> str:
        return self.config.name

    def body(self) -> Module:
        m = Module()
        config = self.config
        cols = config.array.cols
        m.submodules.sequencer = sequencer = Sequencer(config)
        m.submodules.act_streamer = act_streamer = ActivationStreamer(config)
        m.submodules.weight_streamer = weight_streamer = WeightStreamer(config)
        # Under a name of its own, which no other part has.
        m.submodules.array = array = SystolicArray(replace(config.array, name="array"))
        m.submodules.direct = direct = Direct(config)
        m.submodules.accumulate = accumulate = Accumulate(config)
        m.submodules.postprocess = postprocess = PostProcess(config)
        m.submodules.results = results = Results(config)
        m.submodules.activations = activations = activation_buffer(config)
        m.submodules.weights = weights = WordBuffer(
            config.weight_bits, config.weight_words, config.stream_bits, "weight",
            ports=config.weight_ports,
        )  # fmt: skip
        m.submodules.parameters = parameters = WordBuffer(
            config.parameter_bits, config.parameter_words, config.stream_bits, "parameter"
        )

        # Program and answer; the closing beat comes when nothing else is left.
        m.d.comb += [
            sequencer.i.valid.eq(self.i.valid),
            sequencer.i.payload.eq(self.i.payload),
            self.i.ready.eq(sequencer.i.ready),
            sequencer.running.eq(results.busy | results.storing),
            results.store.eq(sequencer.store),
            results.store_addr.eq(sequencer.store_addr),
            results.store_last.eq(sequencer.store_last),
            self.status.eq(sequencer.status),
            self.cycles.eq(sequencer.cycles),
            self.idle.eq(sequencer.idle),
            self.o.valid.eq(results.o.valid | sequencer.o.valid),
            results.o.ready.eq(self.o.ready),
            sequencer.o.ready.eq(self.o.ready),
            self.o.payload.data.eq(
                Mux(results.o.valid, results.o.payload, sequencer.o.payload.data)
            ),
            self.o.payload.last.eq(~results.o.valid),
        ]

        started = (act_streamer, weight_streamer, accumulate, postprocess, results)
        m.d.comb += [part.start.eq(sequencer.start) for part in started]
        m.d.comb += [part.registers.eq(sequencer.registers) for part in (*started, direct)]
        past = sequencer.registers.mode[MODES["direct"]]
        m.d.comb += weight_streamer.start.eq(sequencer.start & ~past)

        # Buffers. Activations are loaded and stored word by word, and only while nothing runs.
        loads = {name: sequencer.load_mask[place] for name, place in BUFFERS.items()}
        m.d.comb += [
            activations.read_en.eq(Mux(results.storing, results.read_en, act_streamer.read_en)),
            activations.read_addr.eq(
                Mux(results.storing, results.read_addr * config.word, act_streamer.read_addr)
            ),
            act_streamer.read_data.eq(activations.read_data),
            results.read_data.eq(activations.read_data),
            activations.write_en.eq(results.write_en),
            activations.write_addr.eq(results.write_addr),
            activations.write_data.eq(results.write_data),
            activations.load_en.eq(loads["activation"]),
            activations.load_addr.eq(sequencer.load_addr),
            activations.load_data.eq(sequencer.load_data),
        ]
        for name, buffer, reader in (
            ("weight", weights, weight_streamer),
            ("parameter", parameters, postprocess),
        ):
            m.d.comb += [
                buffer.read_addr.eq(reader.read_addr),
                reader.read_data.eq(buffer.read_data),
                buffer.write_mask.eq(Mux(loads[name], 1 << sequencer.load_part, 0)),
                buffer.write_addr.eq(sequencer.load_addr),
                buffer.write_data.eq(
                    sequencer.load_data[-config.stream_bits :].replicate(buffer.parts)
                ),
            ]
        m.d.comb += [weights.read_en.eq(weight_streamer.read_en), parameters.read_en.eq(1)]

        # Operands to the array, or past it, while there is room for what becomes of them.
        offered, new_weights = act_streamer.o, weight_streamer.o
        if config.register_slices:  # so that no buffer waits for what the array says, or a FIFO
            offered = sliced(m, offered, "new_activations")
            read_weights = Stage.behind(m, new_weights, "read_weights")
            new_weights = sliced(m, read_weights, "new_weights")
        read = offered.payload
        # Both in one register: the array's own decisions follow in the cycle of its `valid`.
        go_there, go_past = Signal(), Signal()
        m.d[config.slice_domain] += [
            go_there.eq(~past & ~results.hold),
            go_past.eq(past & ~results.hold),
        ]
        to_array = read.codes
        if config.read_codes < cols:
            to_array = chosen(read.codes, read.place, len(array.i_act.payload.data))
        m.d.comb += [
            direct.i.valid.eq(offered.valid & go_past),
            direct.i.payload.eq(read),
            array.i_weight.valid.eq(new_weights.valid),
            array.i_weight.payload.eq(new_weights.payload),
            new_weights.ready.eq(array.i_weight.ready),
        ]
        if config.array.dataflow == "os":
            m.submodules.transposer = transposer = Transposer(
                config.array.rows, config.array.pe.lanes * config.array.pe.activation.bits
            )
            m.d.comb += [
                transposer.i.valid.eq(offered.valid & ~past),
                transposer.i.payload.data.eq(to_array),
                transposer.i.payload.last.eq(read.last),
                offered.ready.eq(Mux(past, go_past, transposer.i.ready)),
                array.i_act.valid.eq(transposer.o.valid & go_there),
                array.i_act.payload.data.eq(transposer.o.payload.data),
                array.i_act.payload.last.eq(transposer.o.payload.last),
                transposer.o.ready.eq(array.i_act.ready & go_there),
            ]
        else:
            m.d.comb += [
                array.i_act.valid.eq(offered.valid & go_there),
                array.i_act.payload.data.eq(to_array),
                array.i_act.payload.last.eq(read.last),
                offered.ready.eq(go_past | (array.i_act.ready & go_there)),
            ]
        # The array never stands still.
        bits, sum_bits = config.array.accumulator.bits, config.sum_bits
        came_past = registered(m, past, "came_past")  # as it is a long way to here
        came = Signal.like(accumulate.i.payload, reset_less=True)
        m.d[config.slice_domain] += [
            accumulate.i.valid.eq(Mux(came_past, direct.o.valid, array.o_sum.valid)),
            came.last.eq(Mux(came_past, direct.o.payload.last, array.o_sum.payload.last)),
        ]
        for c in range(cols):
            total = array.o_sum.payload.data.word_select(c, bits).as_signed()
            other = direct.o.payload.sums.word_select(c, sum_bits).as_signed()
            here = came.sums.word_select(c, sum_bits)
            m.d[config.slice_domain] += here.eq(Mux(came_past, other, total))

        m.d.comb += [
            array.o_sum.ready.eq(1),
            accumulate.i.payload.eq(came),
            postprocess.i.valid.eq(accumulate.o.valid),
            postprocess.i.payload.eq(accumulate.o.payload),
            results.i.valid.eq(postprocess.o.valid),
            results.i.payload.eq(postprocess.o.payload),
        ]
        return m
