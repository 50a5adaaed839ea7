"""The PEs by name: entry points of the group ``hwgen.pes``, from this and any other package.

Each entry point names a :class:`~pe_library.pe.ProcessingElement` object, a *preset*; options
replace its dataclass fields. The presets of this library are entry points too (``pyproject.toml``),
so that there is one way to be listed.
"""

import dataclasses
import functools
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Any

from .pe import ProcessingElement

__all__ = ["GROUP", "get_pe", "list_pes"]

GROUP = "hwgen.pes"


def _entries() -> dict[str, EntryPoint]:
    return _search(tuple(sys.path), entry_points)


@functools.lru_cache(maxsize=8)
def _search(_path: tuple[str, ...], find: Callable[..., EntryPoints]) -> dict[str, EntryPoint]:
    """Look through all installed packages, which takes milliseconds: once for each search path."""
    found: dict[str, EntryPoint] = {}
    for entry in sorted(find(group=GROUP), key=lambda entry: (entry.name, entry.value)):
        if entry.name in found and entry.value != found[entry.name].value:
            raise ValueError(
                f"PE {entry.name!r} must be registered once, not by both "
                f"{found[entry.name].value} and {entry.value}; uninstall one of the packages"
            )
        found[entry.name] = entry
    return found


def list_pes() -> list[str]:
    """Return the names of all registered PEs, sorted."""
    return list(_entries())


def get_pe(name: str, **options: Any) -> ProcessingElement:
    """Return the preset ``name`` with the fields in ``options`` replaced.

    Raises
    ------
    ValueError
        If there is no such PE or no such field, or a value is out of range.
    TypeError
        If a value or the registered object is of the wrong kind.
    """
    entries = _entries()
    if name not in entries:
        raise ValueError(
            f"pe must be one of {', '.join(entries) or '(none registered)'}, not {name!r}"
        )
    try:
        preset = entries[name].load()
    except Exception as error:  # whatever somebody's module may raise
        raise ValueError(
            f"PE {name!r} ({entries[name].value}) cannot be loaded: {error}"
        ) from error
    if not isinstance(preset, ProcessingElement):
        raise TypeError(
            f"PE {name!r} ({entries[name].value}) must be a ProcessingElement, not {preset!r}"
        )
    fields = [field.name for field in dataclasses.fields(preset)]
    for option in options:
        if option not in fields:
            raise ValueError(f"{name} option must be one of {', '.join(fields)}, not {option!r}")
    return dataclasses.replace(preset, **options)
