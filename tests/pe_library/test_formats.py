import numpy as np
import pytest

from pe_library import Accumulator, Bipolar, Integer, IntegerPE, LightPE, PowerOfTwo, get_pe


def test_lightpe1_weights_are_all_signed_powers_and_no_zero():
    powers = [1 << e for e in range(8)]
    assert PowerOfTwo().values.tolist() == [-p for p in reversed(powers)] + powers


def test_zero_code_is_the_pot4_grid():
    assert PowerOfTwo(zero="code").values.tolist() == sorted(
        [0, *(s << e for s in (1, -1) for e in range(7))]
    )


def test_two_terms_have_105_values_zero_among_them():
    # Counted for LightPE-2 by enumeration: two opposite equal terms make zero for free.
    values = PowerOfTwo(terms=2).values
    assert len(values) == 105
    assert 0 in values
    assert values.min() == -256


def test_sums_of_two_powers_is_what_two_terms_are():
    powers = [s << e for s in (1, -1) for e in range(8)]
    assert set(PowerOfTwo(terms=2).values) == {a + b for a in powers for b in powers}


@pytest.mark.parametrize("bits", range(1, 17))
def test_integers_match_numpy(bits):
    assert (Integer(bits).minimum, Integer(bits).maximum) == (
        -(1 << (bits - 1)),
        (1 << (bits - 1)) - 1,
    )
    assert (Integer(bits, signed=False).minimum, Integer(bits, signed=False).maximum) == (
        0,
        (1 << bits) - 1,
    )
    if bits in (8, 16):
        codes = np.arange(1 << bits)
        assert (
            Integer(bits).decode(codes) == codes.astype(f"u{bits // 8}").view(f"i{bits // 8}")
        ).all()


def test_lightnn_rounding():
    one, two = PowerOfTwo(), PowerOfTwo(terms=2)
    x = np.array([5.0, 6.0, -3.0, 0.2, 300.0, -0.1])
    # log2: 2.32 -> 4, 2.58 -> 8, 1.58 -> 4, below the least power, above the greatest, sign kept
    assert one.quantize_log2(x).tolist() == [4, 8, -4, 1, 128, -1]
    assert one.quantize(x).tolist() == [4, 8, -2, 1, 128, -1]
    assert two.quantize_log2(np.array([5.0, 6.0, 100.0])).tolist() == [5, 6, 96]
    assert PowerOfTwo(zero="code").quantize_log2(np.array([0.4, 0.6])).tolist() == [0, 1]


def test_quantize_is_never_further_than_lightnn():
    x = np.random.default_rng(0).normal(0, 60, 2000)
    for number_format in (PowerOfTwo(), PowerOfTwo(terms=2), PowerOfTwo(terms=3, zero="code")):
        nearest, trained = number_format.quantize(x), number_format.quantize_log2(x)
        assert number_format.contains(trained).all()
        assert (np.abs(nearest - x) <= np.abs(trained - x) + 1e-9).all()


def test_bipolar():
    assert Bipolar().decode([0, 1]).tolist() == [-1, 1]
    assert Bipolar().padding == 1


def test_accumulator_widths_of_the_literature():
    """Widths for K = 576, 1152, 4608, from the bound of numerics: K * max|a| * max|w|."""
    depths = (576, 1152, 4608)
    for name, widths in {
        "int8": [25, 26, 28],
        "lightpe1": [25, 26, 28],
        "lightpe2": [26, 27, 29],
        "int16": [41, 42, 44],
    }.items():
        assert [get_pe(name).accumulator_bits(k) for k in depths] == widths


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Integer(17), "Integer width must be an integer from 1 to 16, not 17"),
        (lambda: Integer(True), "Integer width must be an integer from 1 to 16, not True"),
        (lambda: PowerOfTwo(terms=4), "PowerOfTwo terms must be an integer from 1 to 3, not 4"),
        (lambda: LightPE(zero="free"), "PowerOfTwo zero must be one of 'none', 'code', not 'free'"),
        (lambda: IntegerPE(lanes=0), "lanes must be an integer from 1 to 256, not 0"),
        (lambda: IntegerPE(pipeline=4), "pipeline must be an integer from 0 to 3, not 4"),
        (lambda: IntegerPE(multiplier="x"), "multiplier must be one of 'dsp', 'logic', not 'x'"),
        (lambda: Accumulator(1), "accumulator_bits must be an integer from 2 to 64, not 1"),
        (
            lambda: Accumulator(64, "saturate"),
            "accumulator_bits must be an integer from 2 to 62, not 64",
        ),
        (
            lambda: Accumulator(8, "clip"),
            "overflow must be one of 'error', 'wrap', 'saturate', not 'clip'",
        ),
        (
            lambda: get_pe("int9"),
            "pe must be one of bnn32, bnn64, int16, int8, lightpe1, lightpe2, not 'int9'",
        ),
        (
            lambda: get_pe("bnn32", bits=3),
            "bnn32 option must be one of lanes, pipeline, not 'bits'",
        ),
    ],
)
def test_errors_name_parameter_rule_and_value(make, text):
    with pytest.raises((TypeError, ValueError)) as caught:
        make()
    assert str(caught.value) == text


def test_encode_refuses_what_is_off_the_grid():
    with pytest.raises(ValueError, match=r"has no value 3; it has the integers -128, -64"):
        PowerOfTwo().encode([1, 3])
