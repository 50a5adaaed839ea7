import pytest

from hwgen.config import ArrayConfig
from pe_library import INT8, LightPE

BASE = {"pe": "int8", "rows": 4, "cols": 4}


def test_widths_follow_the_longest_reduction():
    # 4 rows * 128 * 128 = 2^16: 18 bits signed; 4608 * 2^14 needs 28 (see numerics)
    assert ArrayConfig.from_options(BASE).accumulator.bits == 18
    assert ArrayConfig.from_options({**BASE, "dataflow": "os"}).accumulator.bits == 28
    assert ArrayConfig.from_options({**BASE, "dataflow": "os", "max_k": 4}).accumulator.bits == 18


def test_options_and_python_agree():
    options = {**BASE, "pe": "lightpe1", "lanes": 2, "pe_options": {"zero": "code"}}
    python = ArrayConfig(pe=LightPE(lanes=2, zero="code"), rows=4, cols=4, name="lightpe1")
    assert ArrayConfig.from_options(options) == python
    assert ArrayConfig.from_options(options).digest == python.digest


def test_toml(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('pe = "lightpe1"\nrows = 2\ncols = 3\n[pe_options]\nterms = 3\n')
    config = ArrayConfig.from_options(ArrayConfig.read_options(path))
    assert config.pe == LightPE(terms=3)
    for text in ("rows = ", "\xff"):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(ValueError, match=r"must be readable TOML"):
            ArrayConfig.read_options(path)
    with pytest.raises(ValueError, match=r"must be readable TOML"):
        ArrayConfig.read_options(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"rows": 0}, "rows must be an integer from 1 to 1024, not 0"),
        ({"cols": 1025}, "cols must be an integer from 1 to 1024, not 1025"),
        ({"rows": 2.0}, "rows must be an integer from 1 to 1024, not 2.0"),
        ({"dataflow": "rs"}, "dataflow must be one of 'ws', 'os', not 'rs'"),
        ({"max_k": 5}, "max_k must be left out with dataflow 'ws', where a pass sums rows * lanes "
                       "products, not 5"),
        ({"accumulator_bits": 17}, "accumulator_bits must be at least 18 to hold a sum of 4 "
                                   "products exactly, not 17 (or choose overflow 'wrap' or "
                                   "'saturate')"),
        ({"lanes": 300}, "lanes must be an integer from 1 to 256, not 300"),
        ({"name": "9x"}, "name must be a Verilog identifier of lower-case letters, digits and "
                         "underscores that begins with a letter and is not reserved, not '9x'"),
        ({"name": "wire"}, "name must be a Verilog identifier of lower-case letters, digits and "
                           "underscores that begins with a letter and is not reserved, not 'wire'"),
        ({"lanes": 2, "pe_options": {"lanes": 3}},
         "lanes must be given once, not in pe_options too"),
        ({"pe": 8}, "pe must be the name of a registered PE, not 8"),
        ({"pe_options": 8}, "pe_options must be a table of names and values, not 8"),
        ({"colour": 1}, "option must be one of pe, rows, cols, dataflow, accumulator_bits, "
                        "overflow, max_k, name, lanes, pipeline, pe_options, not 'colour'"),
        ({"rows": 1024, "lanes": 16}, "rows * lanes * activation bits must be at most 65536, not "
                                      "131072"),
    ],
)  # fmt: skip
def test_errors(options, text):
    with pytest.raises((TypeError, ValueError)) as caught:
        ArrayConfig.from_options({**BASE, **options})
    assert str(caught.value) == text


def test_missing_options():
    with pytest.raises(ValueError, match=r"^rows must be given$"):
        ArrayConfig.from_options({"pe": "int8", "cols": 1})
    with pytest.raises(TypeError, match=r"^pe must be a ProcessingElement"):
        ArrayConfig(pe="int8", rows=1, cols=1)


def test_digest_tells_configurations_apart():
    digests = {
        ArrayConfig(pe=INT8, rows=4, cols=4, **more).digest
        for more in ({}, {"dataflow": "os"}, {"accumulator_bits": 20}, {"name": "other"})
    }
    assert len(digests) == 4
