"""What lies at the edges of buffers, registers and formats: right, or refused before it runs."""

from dataclasses import replace

import numpy as np
import pytest

from hwgen.accelerator.accelerator import Accelerator
from hwgen.accelerator.config import AcceleratorConfig
from hwgen.accelerator.registers import MODES, register_widths
from hwgen.compiler.compile import compile_network
from hwgen.compiler.cycles import cycles_of
from hwgen.compiler.program import Load, Run
from hwgen.compiler.rewrite import fold_stride
from hwgen.errors import UserError
from hwgen.generate import generate_accelerator
from hwgen.network.graph import Add, Conv, Network, Pool, Rescale, Tensor
from hwgen.network.requantize import FixedPoint, RoundingShift, Thresholds
from hwgen.verilog import emit_verilog
from testbench.compiled import CompiledModel
from testbench.golden_network import run_network
from testbench.network import simulate_network

KEEP = FixedPoint(np.array([1 << 30]), np.array([1]), 0, -128, 127)
SCALE = FixedPoint(np.array([1 << 30]), np.array([-7]), 0, -128, 127)


def accelerator(**options):
    return AcceleratorConfig.from_options({"pe": "int8", "rows": 4, "cols": 4, **options})


def network(operations, *shapes):
    """A chain: operations from t0 to t1 to t2 ..., tensors of the given shapes."""
    tensors = {f"t{i}": Tensor(f"t{i}", shape, -128, 127) for i, shape in enumerate(shapes)}
    last = f"t{len(shapes) - 1}"
    return Network("edge", tensors, operations, "t0", last, lambda x: x, lambda x: x)


def conv(place, weights, requantize=SCALE, bias=0, **options):
    weights = np.asarray(weights, np.int64)
    bias = np.full(len(weights), bias)
    return Conv(
        f"layer{place}", (f"t{place}",), f"t{place + 1}", requantize, weights, bias, **options
    )


def check(net, config, seed=0):
    shape = net.tensors["t0"].shape
    inputs = np.random.default_rng(seed).integers(-128, 128, (1, *shape))
    found = simulate_network(compile_network(net, config), inputs, check=True)
    assert not any(found.mismatches.values()), found.mismatches
    assert found.cycles == found.predicted
    return found


@pytest.mark.parametrize("second", ["conv", "pool"])
def test_a_job_that_takes_the_whole_buffer_is_not_overwritten(second):
    """The next job's weights, and its parameters, wait for the run that still needs theirs."""
    config = accelerator(weight_buffer=156, parameter_buffer=400)
    rng = np.random.default_rng(1)
    first = conv(0, rng.integers(-99, 99, (4, 3, 3, 4)), padding=(1, 1, 1, 1))
    if second == "conv":
        last = conv(1, rng.integers(-99, 99, (4, 1, 1, 4)))
    else:
        last = Pool("pool", ("t1",), "t2", None, "max", (1, 1), (1, 1))
    other = conv(2, rng.integers(-99, 99, (4, 1, 1, 4)))
    compiled = compile_network(network([first, last, other], *[(8, 8, 4)] * 4), config)
    (job,) = compiled.layers[0].jobs
    words = sum(len(load.data) for load in job.loads if load.buffer == "weight")
    assert 2 * words > config.weight_words >= words
    assert all(load.wait for load in compiled.layers[1].jobs[0].loads)
    check(compiled.network, config)


@pytest.mark.parametrize("way", ["multiplier", "shift"])
def test_a_clamp_without_a_scale_is_a_clamp(way):
    keep = {
        "multiplier": FixedPoint(np.array([1 << 30]), np.array([1]), 0, 0, 100),
        "shift": RoundingShift(np.array([0]), 0, 0, 100),
    }[way]
    pool = Pool("relu", ("t0",), "t1", keep, "max", (1, 1), (1, 1))
    found = check(network([pool], (4, 4, 3), (4, 4, 3)), accelerator(requantize=way))
    assert found.outputs.min() == 0
    assert found.outputs.max() == 100


def wide_vectors():
    """A network on an array whose vectors have 256 granules of one code."""
    config = accelerator(rows=2, cols=1, lanes=128)
    assert config.vector == 256
    weights = np.random.default_rng(0).integers(-127, 128, (3, 1, 1, 256))
    return network([conv(0, weights)], (1, 2, 256), (1, 2, 3)), config


def test_the_register_holds_a_tail_of_256_granules():
    net, config = wide_vectors()
    (layer,) = compile_network(net, config).layers
    assert layer.jobs[0].runs[0].registers["tail"] == 256
    assert register_widths(config)["tail"] == 9


@pytest.mark.slow  # it builds for minutes
def test_vectors_of_more_than_255_granules():
    check(*wide_vectors())


@pytest.mark.parametrize("stream", [64, 512])
def test_depths_that_are_no_power_of_two(stream):
    config = accelerator(rows=3, cols=3, activation_buffer=1000, accumulator_buffer=123,
                         stream_bits=stream)  # fmt: skip
    rng = np.random.default_rng(2)
    first = conv(0, rng.integers(-99, 99, (7, 3, 3, 5)), padding=(1, 1, 1, 1))
    second = conv(1, rng.integers(-99, 99, (2, 1, 1, 7)), None)
    check(network([first, second], (7, 5, 5), (7, 5, 7), (7, 5, 2)), config)


def test_a_tensor_added_to_itself_and_read_long_after():
    rng = np.random.default_rng(3)
    twice = Add("twice", ("t1", "t1"), "t2", KEEP, (Rescale(0), Rescale(1)))
    late = Add("late", ("t0", "t2"), "t3", KEEP, (Rescale(20, 1 << 30, -18), Rescale(0)))
    first = conv(0, rng.integers(-9, 9, (4, 1, 1, 4)))
    check(network([first, twice, late], *[(5, 3, 4)] * 4), accelerator())


def test_ties_of_an_addition_go_away_from_zero():
    halved = Add("halved", ("t0",), "t1", KEEP, (Rescale(20, 1 << 30, -20),))
    assert (check(network([halved], *[(5, 3, 4)] * 2), accelerator()).outputs < 0).any()


@pytest.mark.parametrize("name", ["results", "sequencer", "array", "accumulate", "nest_3_out12"])
def test_names_of_parts_are_free(name):
    text = generate_accelerator(accelerator(rows=1, cols=1, name=name)).verilog
    assert text.count(f"\nmodule {name}_axi(") == 1


@pytest.mark.parametrize("padding", [(7, 7, 0, 0), (0, 0, 7, 7), (3, 2, 1, 5), (0, 0, 0, 0)])
def test_folding_a_stride_keeps_the_result(padding):
    config = accelerator(rows=64)
    weights = np.random.default_rng(0).integers(-9, 9, (2, 6, 6, 1))
    places = [(3 + padding[i] + padding[i + 2] - 6) // 6 + 1 for i in range(2)]
    if min(places) < 1:
        weights, places = weights[:, :2, :2], [1, 1]
    net = network([conv(0, weights, stride=(6, 6), padding=padding)], (3, 3, 1), (*places, 2))
    folded = fold_stride(net, config)
    assert folded is not net
    inputs = np.random.default_rng(1).integers(-128, 128, (3, 3, 3, 1))
    expected = run_network(net, inputs)["t1"]
    assert (run_network(folded, folded.encode(inputs))["t1"] == expected).all()


def levels(count):
    return Thresholds(np.arange(count)[None].repeat(4, axis=0), np.zeros(4, int), np.ones(4, int))


ONE = np.ones((4, 1, 1, 4), np.int64)


@pytest.mark.parametrize(
    ("operations", "side", "options", "message"),
    [
        ([conv(0, ONE)], 40000, {}, "must have tensors of at most 32767 rows and columns"),
        ([conv(0, ONE, bias=(1 << 31) - 9)], 2, {}, "sums of 2,147,483,.* to 2,147,484,.*, the accelerator has 32 bits"),
        ([conv(0, 300 * ONE)], 2, {}, r"16 of 16 weights \(such as 300\)"),
        ([conv(0, ONE, None), conv(1, ONE)], 2, {}, "sums must be requantized but in the last"),
        ([conv(0, ONE, FixedPoint(np.array([1]), np.array([9]), 0, -128, 127))], 2, {},
         "must have shifts of -31 to 7, not 9 to 9"),
        ([conv(0, ONE, RoundingShift(np.array([32]), 0, -128, 127))], 2, {"requantize": "shift"},
         "must have shifts of -31 to 31, not 32 to 32"),
        ([conv(0, ONE, FixedPoint(np.array([1]), np.array([0]), 128, 0, 255))], 2, {},
         "results 0 to 255, the PE has the integers -128 to 127"),
        ([conv(0, ONE, levels(9))], 2, {"requantize": "threshold", "thresholds": 5},
         "thresholds must be at least 9 for layer 'layer0', not 5"),
        ([Add("sum", ("t0",), "t1", KEEP, (Rescale(25),))], 2, {"sum_bits": 40},
         "left by 0 to 24"),
        ([Add("sum", ("t0",), "t1", KEEP, (Rescale(24),))], 2, {},
         "sum: sums of -2,147,483,648 to 2,130,706,432, the accelerator has 32 bits"),
        ([conv(0, 99 * ONE, bias=100_000)], 2, {"sum_bits": 18},
         "sums of 49,312 to 150,292, the accelerator has 18 bits"),
        ([conv(0, np.full((4, 1, 2, 4), 99), levels(3))], 2,
         {"requantize": "threshold", "thresholds": 3, "sum_bits": 18},
         "sums of -101,376 to 100,584, the accelerator has 18 bits"),
        ([conv(0, ONE)], 40, {"loop_bits": 6}, r"at most 31 rows and .* \(loop_bits 6\)"),
        ([conv(0, np.ones((4, 1, 1, 500), np.int64))], 2, {"loop_bits": 6, "rows": 1},
         "loop_bits must be at least 9 for layer 'layer0', not 6"),
        ([], 2, {}, "must have at least one operation"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused(operations, side, options, message):
    shapes = [(1, side, 4)] * (len(operations) + 1)
    with pytest.raises(UserError, match=message):
        compile_network(network(operations, *shapes), accelerator(**options))


@pytest.mark.parametrize("layout", ["packed", "aligned"])
def test_weights_stay_in_their_buffers(layout):
    """The second sample's program loads activations only, and is as right."""
    config = accelerator(rows=8, layout=layout, weight_buffer=4096)
    rng = np.random.default_rng(4)
    first = conv(0, rng.integers(-99, 99, (9, 3, 3, 5)), padding=(1, 1, 1, 1))
    pool = Pool("pool", ("t1",), "t2", KEEP, "max", (2, 2), (2, 2))
    last = conv(2, rng.integers(-99, 99, (6, 2, 2, 9)), None)
    net = network([first, pool, last], (4, 4, 5), (4, 4, 9), (2, 2, 9), (1, 1, 6))
    compiled = compile_network(net, config)
    inputs = rng.integers(-128, 128, (3, 4, 4, 5))
    golden = run_network(net, inputs)
    with CompiledModel(emit_verilog(Accelerator(config)), config.name) as model:
        for i, sample in enumerate(inputs):
            program = compiled.program(sample, every_layer=True, resident=i > 0)
            loads = [command for command in program.commands if isinstance(command, Load)]
            assert ({load.buffer for load in loads} == {"activation"}) == (i > 0)
            answer = program.read_answer(model.exchange(program.beats()))
            assert answer.cycles == cycles_of(program)
            for name, values in compiled.outputs(answer, every_layer=True).items():
                np.testing.assert_array_equal(values, golden[name][i], name)


def test_weights_that_do_not_stay_must_be_loaded():
    compiled = compile_network(network([conv(0, ONE), conv(1, ONE)], *[(1, 2, 4)] * 3),
                               accelerator(weight_buffer=16))  # fmt: skip
    with pytest.raises(ValueError, match="must fit the buffers at once to stay in them"):
        compiled.program(np.zeros((1, 2, 4), np.int64), resident=True)


def test_codes_right_after_sums():
    """What post-processing makes of sums that leave as they are does not reach the next run."""
    config = accelerator()
    sample = np.ones((1, 2, 4), np.int64)
    program = compile_network(network([conv(0, ONE, None)], *[(1, 2, 4)] * 2), config).program(
        sample
    )
    run = program.commands[-1]
    assert isinstance(run, Run)
    codes = Run({**run.registers, "mode": run.registers["mode"] - (1 << MODES["raw"])})
    program = replace(program, commands=[*program.commands, codes])
    with CompiledModel(emit_verilog(Accelerator(config)), config.name) as model:
        answer = program.read_answer(model.exchange(program.beats(), patience=1000))
    assert answer.cycles == cycles_of(program)
    assert (answer.parts[0].ravel()[:4] == 4).all()


def test_an_output_that_is_read_is_refused():
    net = network([conv(0, ONE), conv(1, ONE)], *[(1, 2, 4)] * 3)
    net = Network(net.name, net.tensors, net.operations, "t0", "t1", net.encode, net.decode)
    with pytest.raises(UserError, match="output 't1' must be made last, and read by no operation"):
        compile_network(net, accelerator())


@pytest.mark.parametrize("dataflow", ["ws", "os"])
@pytest.mark.parametrize("register_slices", [0, 1])
def test_a_run_that_its_host_holds_takes_as_long_as_predicted(dataflow, register_slices):
    """Passes that make no results yet are held, too, while those of the block before are sent."""
    config = accelerator(rows=2, cols=9, dataflow=dataflow, register_slices=register_slices)
    weights = np.random.default_rng(5).integers(-127, 128, (27, 1, 1, 4))
    for side in (8, 10):
        net = network([conv(0, weights)], (side, side, 4), (side, side, 27))
        compiled = compile_network(net, config)
        assert all(run.has("to_host") for run in compiled.layers[0].jobs[0].runs)
        check(net, config)
