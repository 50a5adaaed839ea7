"""The README's Python example, configuration file and commands work as they stand."""

import re
from pathlib import Path

from boards.designs import markdown
from boards.measured import DESIGNS, read_rows
from hwgen.cli import main

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def test_python_example(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102 (our own page)
    assert float(capsys.readouterr().out.split()[1]) > 0
    assert (tmp_path / "out" / "mine.v").exists()


def test_configuration_file(tmp_path):
    (text,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "array.toml").write_text(text)
    assert (
        main(["generate", "--config", str(tmp_path / "array.toml"), "--output", str(tmp_path)]) == 0
    )


def test_generate_prints_what_the_readme_shows(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command, shown = re.search(
        r"\$ hwgen (generate --pe lightpe1.*)\n((?:out/.*\n)+.*\n)", README
    ).groups()
    assert main(command.split()) == 0
    printed = capsys.readouterr().out
    sizes = re.compile(r"[\d,]+ bytes")  # change with every edit of a comment
    assert sizes.sub("", printed) == sizes.sub("", shown)


def test_designs_are_those_that_were_measured():
    assert f"\n{markdown(read_rows(DESIGNS))}\n" in README
