"""A result is made once, appears whole or not at all, and nothing of it is ever taken on trust."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hwgen.errors import UserError
from synth import store as store_module
from synth.store import Store, canonical, sha256
from testbench.tools import JobFailed

SPEC = {"job": "test", "seed": 1}


def forbidden(_):
    raise AssertionError("the result is kept, and was to be looked up")


def make(folder):
    (folder / "a.log").write_text("a log\n")
    (folder / "deep").mkdir()
    (folder / "deep" / "x").write_text("not kept")
    return {"figure": 1.5, "pair": (1, 2)}


def entries(folder):
    return sorted(p for p in folder.glob("??/*") if p.parent.name not in ("work", "aside"))


def all_bytes(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# ---- keeping -------------------------------------------------------------------------------------


def test_a_result_is_made_once(tmp_path):
    made = Store(tmp_path).run(SPEC, make)
    again = Store(tmp_path).run({"seed": 1, "job": "test"}, forbidden)  # the order is nothing
    assert again.result == {"figure": 1.5, "pair": [1, 2]}
    for entry in (made, again):
        assert entry.text("a.log") == "a log\n"
    key = sha256(canonical(SPEC))
    assert made.folder == again.folder == tmp_path / key[:2] / key[2:]
    assert sorted(p.name for p in made.folder.iterdir()) == ["a.log.gz", "result.json", "spec.json"]
    assert json.loads((made.folder / "spec.json").read_text()) == SPEC
    assert list((tmp_path / "work").iterdir()) == []


def test_the_same_job_leaves_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        Store(tmp_path / name).run(SPEC, make)
    assert all_bytes(tmp_path / "a") == all_bytes(tmp_path / "b")


@pytest.mark.parametrize("change", [{"seed": 2}, {"seed": "1"}, {"seed": 1.5}, {"more": None}])
def test_any_difference_is_another_result(tmp_path, change):
    store = Store(tmp_path)
    store.run(SPEC, lambda _: {"is": "first"})
    assert store.run(SPEC | change, lambda _: {"is": "second"}).result == {"is": "second"}
    assert store.run(SPEC, forbidden).result == {"is": "first"}


def test_what_has_no_hash_is_no_specification(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        Store(tmp_path).run({"x": float("nan")}, make)
    with pytest.raises(TypeError):
        Store(tmp_path).run({"x": tmp_path}, make)
    assert entries(tmp_path) == []


def test_a_failure_is_kept_and_raised_again(tmp_path):
    def fail(folder):
        (folder / "a.log").write_text("it hung\n")
        raise JobFailed("timeout", "the router took longer than 9 s; see a.log")

    messages = []
    for work in (fail, forbidden):
        with pytest.raises(JobFailed) as failed:
            Store(tmp_path).run(SPEC, work)
        assert failed.value.status == "timeout"
        messages.append(str(failed.value))
    (folder,) = entries(tmp_path)
    assert messages == [f"the router took longer than 9 s; see a.log in {folder}"] * 2
    assert Store(tmp_path).find(SPEC).text("a.log") == "it hung\n"
    shutil.rmtree(folder)  # how a user retries
    assert Store(tmp_path).run(SPEC, make).result["figure"] == 1.5


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_anything_else_that_goes_wrong_is_no_result(tmp_path, error):
    def stop(folder):
        (folder / "half").write_text("x")
        raise error

    with pytest.raises(error):
        Store(tmp_path).run(SPEC, stop)
    assert all_bytes(tmp_path) == {}
    assert list((tmp_path / "work").iterdir()) == []


# ---- damage --------------------------------------------------------------------------------------


def cut(path):
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "result.json").unlink(),
        lambda folder: (folder / "result.json").write_text(""),
        lambda folder: cut(folder / "result.json"),
        lambda folder: (folder / "result.json").write_bytes(b"\xff\xfe"),
        lambda folder: (folder / "result.json").write_text("[]"),
        lambda folder: (folder / "result.json").write_text((folder / "result.json").read_text().replace("1.5", "1.6")),
        lambda folder: (folder / "spec.json").unlink(),
        lambda folder: (folder / "spec.json").write_text('{"job": "of somebody else"}'),
        lambda folder: (folder / "a.log.gz").unlink(),
        lambda folder: (folder / "a.log.gz").write_bytes(b""),
        lambda folder: cut(folder / "a.log.gz"),
        lambda folder: shutil.rmtree(folder) or folder.mkdir(),
        lambda folder: shutil.rmtree(folder) or folder.write_text("a file"),
    ],
)  # fmt: skip
def test_a_damaged_entry_is_set_aside_and_made_again(tmp_path, capsys, damage):
    folder = Store(tmp_path).run(SPEC, make).folder
    damage(folder)
    assert Store(tmp_path).run(SPEC, make).text("a.log") == "a log\n"
    said = capsys.readouterr().err
    assert said.startswith(f"store entry {folder} is damaged (")
    assert said.endswith("); set aside, done again\n")
    (aside,) = (tmp_path / "aside").glob("*/*")
    assert aside.name == folder.name
    assert Store(tmp_path).run(SPEC, forbidden).result["figure"] == 1.5


def test_a_flipped_bit_in_a_kept_file_is_a_sentence(tmp_path):
    entry = Store(tmp_path).run(SPEC, make)
    path = entry.folder / "a.log.gz"
    data = bytearray(path.read_bytes())
    data[-6] ^= 1  # of the check sum
    path.write_bytes(data)
    with pytest.raises(
        UserError, match=r"is damaged .*; remove the folder, and the result is made"
    ):
        entry.text("a.log")


def test_two_find_the_same_damage(tmp_path, capsys):
    folder = Store(tmp_path).run(SPEC, make).folder
    first, second = Store(tmp_path), Store(tmp_path)
    (folder / "result.json").write_text("{")
    assert first.find(SPEC) is None
    assert second.find(SPEC) is None
    assert len(list((tmp_path / "aside").glob("*/*"))) == 1


# ---- several users -------------------------------------------------------------------------------

JOB = """
import sys, time
from pathlib import Path
from synth.store import Store
name, folder, here = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
def work(job):
    (job / "half").write_text("x" * 100)
    (here / f"{name} began").touch()
    while not (here / "go").exists():
        time.sleep(0.01)
    return {"by": name}
print(Store(folder).run({"job": "shared"}, work).result["by"])
"""


def begin(tmp_path, name):
    process = subprocess.Popen(
        [sys.executable, "-c", JOB, name, str(tmp_path / "store"), str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    limit = time.monotonic() + 60
    while not (tmp_path / f"{name} began").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.02)
    return process


def test_two_at_once_agree(tmp_path):
    both = [begin(tmp_path, name) for name in ("one", "two")]
    assert len(list((tmp_path / "store" / "work").glob("*/job"))) == 2
    Store(tmp_path / "store")  # a third comes, and sweeps nothing of theirs
    (tmp_path / "go").touch()
    said = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    kept = Store(tmp_path / "store").run({"job": "shared"}, forbidden).result["by"]
    assert [out.strip() for out, _ in said] == [kept, kept]
    assert len(entries(tmp_path / "store")) == 1
    assert list((tmp_path / "store" / "work").iterdir()) == []


def test_what_a_killed_job_leaves_is_swept(tmp_path):
    process = begin(tmp_path, "one")
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    folder = tmp_path / "store"
    assert entries(folder) == []
    assert len(list((folder / "work").glob("*/job/half"))) == 1
    store = Store(folder)
    assert list((folder / "work").iterdir()) == []
    assert store.run({"job": "shared"}, lambda _: {"by": "me"}).result == {"by": "me"}


def test_the_faster_one_is_right(tmp_path):
    store = Store(tmp_path)

    def overtaken(folder):
        Store(tmp_path).run(SPEC, lambda _: {"by": "the faster"})
        raise JobFailed("timeout", "took longer than 1 s")

    assert store.run(SPEC, overtaken).result == {"by": "the faster"}
    assert list((tmp_path / "work").iterdir()) == []


def test_a_sweep_does_not_take_a_job_that_is_about_to_begin(tmp_path, monkeypatch):
    store = Store(tmp_path)
    lock = store_module.fcntl.flock

    def swept_first(file, how):
        if how == store_module.fcntl.LOCK_EX:
            monkeypatch.setattr(store_module.fcntl, "flock", lock)
            Store(tmp_path)  # another user, in the worst of moments
        lock(file, how)

    monkeypatch.setattr(store_module.fcntl, "flock", swept_first)
    assert store.run(SPEC, make).result["figure"] == 1.5


# ---- no room -------------------------------------------------------------------------------------


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


SENTENCE = r"^store folder {} must be writable and have room \(No space left on device\); what is finished is kept$"


@pytest.mark.parametrize("call", ["write_text", "write_bytes", "mkdir", "rename"])
def test_a_full_disk_is_a_sentence_and_loses_nothing(tmp_path, monkeypatch, call):
    store = Store(tmp_path)
    store.run({"job": "before"}, make)
    before = all_bytes(tmp_path)

    def work(folder):
        (folder / "a.log").write_text("x")
        if call != "write_text":
            monkeypatch.setattr(Path, call, full)
        else:
            full()
        return {}

    with pytest.raises(UserError, match=SENTENCE.format(tmp_path)):
        store.run(SPEC, work)
    monkeypatch.undo()
    assert all_bytes(tmp_path) == before
    assert Store(tmp_path).run({"job": "before"}, forbidden).result["figure"] == 1.5
    assert store.run(SPEC, make).result["figure"] == 1.5


def test_a_tool_that_had_no_room_has_not_failed(tmp_path, monkeypatch):
    store = Store(tmp_path)

    def fail(_):
        raise JobFailed("failed", "yosys failed: ERROR: cannot write")

    usage = shutil._ntuple_diskusage(1 << 30, 1 << 30, 4096)
    monkeypatch.setattr(store_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=SENTENCE.format(tmp_path)):
        store.run(SPEC, fail)
    assert entries(tmp_path) == []


def test_a_file_that_may_not_grow(tmp_path):
    """What a quota does: a real limit, of this process, on the size of files."""
    store = Store(tmp_path)
    store.run({"job": "before"}, make)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    data = os.urandom(1 << 16)

    def work(folder):
        (folder / "large").write_bytes(data)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, limits[1]))
        return {}

    try:
        with pytest.raises(UserError, match=r"must be writable and have room \(File too large\)"):
            store.run(SPEC, work)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert store.run({"job": "before"}, forbidden).result["figure"] == 1.5
    assert len(entries(tmp_path)) == 1


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/store must be writable and have room \(Not a dir"):
        Store(tmp_path / "file" / "store")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied"):
        Store(tmp_path / "store")
