"""A content-addressed store of results: a job is done once, then it is looked up.

The key of a result is the hash of everything that decides it (texts, scripts, tool versions, seed),
so nothing is ever stale, and two users of one store cannot disagree. An entry is a folder that
appears by one rename:

    STORE/ab/cdef…/spec.json     what the key is the hash of
    STORE/ab/cdef…/result.json   plain data, or the failure; its check sum, and sizes of the files
    STORE/ab/cdef…/*.gz          logs, scripts, netlists
    STORE/work                   jobs under way; what a killed one left is swept by the next user
    STORE/aside                  damaged entries, set aside and done again
"""

import contextlib
import errno
import fcntl
import gzip
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwgen.errors import UserError
from testbench.tools import JobFailed

__all__ = ["Entry", "Store", "canonical", "sha256"]

#: A failure with less than this many bytes free on the disk is the disk's, and no result.
_ROOM = 1 << 20


def sha256(text: str | bytes) -> str:
    """Return the SHA-256 of a text, 64 hexadecimal digits."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


def canonical(data: Any) -> str:
    """Return plain data as the one JSON text that equal data have."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True)
class Entry:
    """A result that is kept.

    Attributes
    ----------
    folder : Path
        Where it lies.
    result : dict
        Plain data.
    """

    folder: Path
    result: dict[str, Any]

    def text(self, name: str) -> str:
        """Return the content of a kept text file; raises what :meth:`data` does."""
        return self.data(name).decode(errors="replace")

    def data(self, name: str) -> bytes:
        """Return the content of a kept file.

        Raises
        ------
        UserError
            If it cannot be read.
        """
        try:
            return gzip.decompress((self.folder / f"{name}.gz").read_bytes())
        except (OSError, EOFError, ValueError) as error:
            raise UserError(
                f"store entry {self.folder} is damaged ({error}); remove the folder, and the "
                "result is made again"
            ) from error


class Store:
    """Results below one folder. Any number of threads, processes and machines may share it.

    Parameters
    ----------
    folder : Path
        Made if need be.

    Raises
    ------
    UserError
        If the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        with self._writing():
            for name in ("work", "aside"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            self._sweep()

    def run(self, spec: Mapping[str, Any], work: Callable[[Path], Mapping[str, Any]]) -> Entry:
        """Return the result of a job, done now unless it is kept.

        Parameters
        ----------
        spec : mapping
            Plain data that decide the result: whatever two different results differ in must be
            in it, as itself or as its hash.
        work : callable
            Does the job in an empty folder; what it returns is the result, and the files it
            leaves in the folder are kept, compressed.

        Raises
        ------
        JobFailed
            If the job failed, now or when it was done. Only the user retries a failure, by
            removing its entry (the message names it).
        UserError
            If the store cannot be written.
        """
        found = self.find(spec)
        if found is None:
            found = self._do(spec, work)
        if (failure := found.result.get("failure")) is not None:
            raise JobFailed(failure["status"], f"{failure['message']} in {found.folder}")
        return found

    def find(self, spec: Mapping[str, Any]) -> Entry | None:
        """Return what is kept of a job, be it a failure; a damaged entry is set aside."""
        text = canonical(spec)
        folder = self._place(text)
        if not folder.exists():
            return None
        try:
            kept = json.loads((folder / "result.json").read_text(encoding="utf-8"))
            result = kept["result"]
            if sha256(canonical(result)) != kept["sha256"]:
                raise ValueError("its check sum is wrong")
            if canonical(json.loads((folder / "spec.json").read_text(encoding="utf-8"))) != text:
                raise ValueError("it is of another job")
            for name, size in kept.get("files", {}).items():
                if (folder / name).stat().st_size != size:
                    raise ValueError(f"{name} is cut off")
        except (OSError, ValueError, KeyError, TypeError) as error:
            with self._writing():
                aside = Path(tempfile.mkdtemp(dir=self.folder / "aside")) / folder.name
                with contextlib.suppress(FileNotFoundError):  # somebody else has just done so
                    folder.rename(aside)
            sys.stderr.write(f"store entry {folder} is damaged ({error}); set aside, done again\n")
            return None
        return Entry(folder, result)

    def _place(self, spec: str) -> Path:
        key = sha256(spec)
        return self.folder / key[:2] / key[2:]

    def _do(self, spec: Mapping[str, Any], work: Callable[[Path], Mapping[str, Any]]) -> Entry:
        text = canonical(spec)
        place = self._place(text)
        with self._writing(), self._folder() as folder:
            result: dict[str, Any]
            try:
                result = dict(work(folder))
            except JobFailed as error:
                if shutil.disk_usage(folder).free < _ROOM:  # it says nothing of the design
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
                result = {"failure": {"status": error.status, "message": str(error)}}
            sizes = {}
            for path in sorted(folder.iterdir()):
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    data = gzip.compress(path.read_bytes(), compresslevel=6, mtime=0)
                    sizes[path.name + ".gz"] = path.with_name(path.name + ".gz").write_bytes(data)
                    path.unlink()
            kept = {"sha256": sha256(canonical(result)), "files": sizes, "result": result}
            (folder / "spec.json").write_text(json.dumps(spec, indent=1, sort_keys=True) + "\n")
            (folder / "result.json").write_text(json.dumps(kept, indent=1) + "\n")
            place.parent.mkdir(exist_ok=True)
            try:
                folder.rename(place)
            except OSError:
                # Another user of the store was faster. Its result counts, because a time-out, for
                # one, need not be the same twice.
                if (kept_first := self.find(spec)) is None:
                    raise
                return kept_first
        return Entry(place, result)

    @contextlib.contextmanager
    def _folder(self) -> Iterator[Path]:
        """Give an empty folder for a job. While it is held locked, nobody sweeps it."""
        base = Path(tempfile.mkdtemp(dir=self.folder / "work"))
        try:
            # It is called "lock" only when it is one, lest a sweep comes in between.
            with (base / "unlocked").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                (base / "unlocked").rename(base / "lock")
                (base / "job").mkdir()
                yield base / "job"
        finally:
            shutil.rmtree(base, ignore_errors=True)

    def _sweep(self) -> None:
        """Remove what killed jobs left."""
        for base in (self.folder / "work").iterdir():
            try:
                with (base / "lock").open() as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(base, ignore_errors=True)
            except OSError:  # under way, or just begun
                continue

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = f" ({os.strerror(error.errno)})" if error.errno else f" ({error})"
            raise UserError(
                f"store folder {self.folder} must be writable and have room{where}; what is "
                "finished is kept"
            ) from error
