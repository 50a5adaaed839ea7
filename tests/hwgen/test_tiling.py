import numpy as np
import pytest

from hwgen.config import ArrayConfig
from hwgen.tiling import Tiling, pack_codes


def config(**options):
    return ArrayConfig.from_options({"pe": "int8", "rows": 2, "cols": 3, **options})


@pytest.mark.parametrize("bits", [1, 3, 4, 8, 13, 16])
@pytest.mark.parametrize("with_last", [False, True])
def test_pack_codes_puts_the_first_code_lowest(bits, with_last):
    rng = np.random.default_rng(bits)
    codes = rng.integers(0, 1 << bits, (7, 5))
    last = rng.integers(0, 2, 7).astype(bool) if with_last else None
    packed = pack_codes(codes, bits, last)
    for row in range(7):
        word = sum(int(code) << (i * bits) for i, code in enumerate(codes[row]))
        word += int(last[row]) << (5 * bits) if with_last else 0
        assert int.from_bytes(packed[row].tobytes(), "little") == word
        assert packed.shape[1] == -(-(5 * bits + with_last) // 8)


@pytest.mark.parametrize("dataflow", ["ws", "os"])
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 8), (2, 2, 3), (4, 9, 6)])
def test_passes_cover_each_product_once(shape, dataflow):
    m, k, n = shape
    tiling = Tiling(config(dataflow=dataflow, **({"max_k": 4} if dataflow == "os" else {})), *shape)
    seen = np.zeros((m, k, n), dtype=int)
    passes = list(tiling)
    for part in passes:
        seen[part.m, part.k, part.n] += 1
    assert (seen == 1).all()
    assert len(passes) == len(tiling)
    assert [part.index for part in passes] == list(range(len(passes)))


def test_weight_rows_go_bottom_first():
    beats = Tiling(config(), 1, 2, 3).weights(np.array([[1, 2, 3], [4, 5, 6]]))
    assert [list(beat) for beat in beats] == [[4, 5, 6], [1, 2, 3]]


def test_packed_operands_are_used_again():
    tiling = Tiling(config(), 4, 2, 9)
    beats = tiling.activations(np.arange(8).reshape(4, 2))
    assert len(beats.data) == 4
    assert beats.count == 12
    assert len(list(beats)) == 12


def test_saturation_with_padding_in_a_format_without_zero_is_refused():
    options = {"pe": "bnn32", "lanes": 4, "overflow": "saturate", "accumulator_bits": 4}
    with pytest.raises(ValueError, match=r"^K must be a multiple of 8 with overflow 'saturate'"):
        Tiling(config(**options), 1, 7, 1)
    assert len(Tiling(config(**options), 1, 8, 1)) == 1
