"""The quick start runs, is right, and is the same again."""

import pytest

from hwgen.config import ArrayConfig


def test_quickstart(capsys):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    import json

    from hwgen.cli import main

    assert main(["quickstart", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] is True
    assert report["images"] == 450
    assert list(report["pes"]) == ["int8", "lightpe1", "lightpe2", "bnn32"]
    for name, found in report["pes"].items():
        assert found["mismatches"] == 0
        assert found["checks"] > 0
        # Chance is 0.1; int8 and LightPE keep what the float network knows.
        least = 0.85 if name == "bnn32" else report["float_accuracy"] - 0.02
        assert found["accuracy"] > least, name


def test_quickstart_of_a_broken_array_fails(monkeypatch):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    from dataclasses import replace

    from hwgen import generate as module
    from testbench import quickstart, simulate

    whole = module.generate

    def broken(config):
        made = whole(config)
        text = made.verilog.replace("$signed(product_0) +", "$signed(product_0) -")
        assert text != made.verilog
        return replace(made, verilog=text)

    monkeypatch.setattr(simulate, "generate", broken)
    config = ArrayConfig.from_options({"pe": "int8", "rows": 8, "cols": 8})
    report = quickstart.quickstart([config])
    assert not report.passed
