"""docs/add-a-pe.md, followed literally: its files, an installed entry point, every command."""

import importlib
import json
import re
import sys
from pathlib import Path

import pytest

from hwgen.cli import main

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "add-a-pe.md").read_text(encoding="utf-8")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Make the page's two files and what pip would record of them."""
    blocks = dict(re.findall(r"^`(\S+)`:\n\n```\w+\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE))
    assert set(blocks) == {"ternary_pe.py", "pyproject.toml"}
    for name, text in blocks.items():
        (tmp_path / name).write_text(text)
    entry = re.search(
        r'^\[project.entry-points."hwgen.pes"\]\n(.*)$', blocks["pyproject.toml"], re.M
    )
    record = tmp_path / "ternary_pe-0.1.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: ternary-pe\nVersion: 0.1\n")
    (record / "entry_points.txt").write_text(f"[hwgen.pes]\n{entry[1].replace(chr(34), '')}\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield tmp_path
    sys.modules.pop("ternary_pe", None)


def test_commands_of_the_page(installed, capsys):
    commands = re.findall(r"^\$ hwgen (.*)$", PAGE, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        words = [str(installed / "out") if word == "out" else word for word in command.split()]
        assert main(words) == 0, command
    out, _ = capsys.readouterr()
    assert "ternary" in out
    assert json.loads((installed / "out" / "ternary.json").read_text())["name"] == "ternary"


def test_proof_of_the_page(installed):
    (code,) = [
        block for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "assert" in block
    ]
    exec(compile(code, "docs/add-a-pe.md", "exec"), {})  # noqa: S102 (our own page)


def test_a_wrong_pe_is_caught(installed):
    from dataclasses import dataclass

    from testbench.conformance import check_pe

    module = importlib.import_module("ternary_pe")

    @dataclass(frozen=True, kw_only=True)
    class Wrong(module.TernaryPE):
        def addends(self, m, activations, weights):
            return [addend._replace(carry=weights[0][0]) for addend in
                    super().addends(m, activations, weights)]  # fmt: skip

    with pytest.raises(AssertionError, match=r"sums are wrong; with partial"):
        check_pe(Wrong())


def test_two_packages_with_one_name_are_told_apart(installed, capsys):
    record = installed / "other-0.1.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 0.1\n")
    (record / "entry_points.txt").write_text("[hwgen.pes]\nint8 = other:INT8\n")
    assert main(["list"]) == 2
    assert "PE 'int8' must be registered once" in capsys.readouterr()[1]


def test_a_pe_that_cannot_be_loaded_is_named(installed, capsys):
    (installed / "ternary_pe.py").write_text("import nothing_of_that_name\n")
    assert main(["list"]) == 2
    out, err = capsys.readouterr()
    assert "PE 'ternary' (ternary_pe:TERNARY) cannot be loaded" in err
    assert "lightpe1" in out  # the others are listed all the same
