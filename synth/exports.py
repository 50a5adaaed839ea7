"""Measured costs of PEs for other tools: Accelergy's reference tables, ZigZag's hardware.

``accelergy`` is version 0.4: ``ERT.yaml`` (energy of an action, pJ) and ``ART.yaml`` (area, um^2),
with the keys that Accelergy's ``accelergy/ERT_generator.py`` and ``accelergy/ART_generator.py``
write and ``accelergy/raw_inputs_2_dicts.py`` reads. A component's one action is ``compute``, which
is what Timeloop 4 asks of a multiplier.

``zigzag`` is ZigZag 3.7: one file per PE with the ``operational_array`` that ZigZag's
``zigzag/parser/accelerator_validator.py`` accepts, to be completed by memories and the array's
size. Its ``unit_area`` has no unit of its own; here it is um^2.

All costs are per product: a PE of several lanes is as many multipliers. Energies are those of
switching; leakage, a power, is not in them.
"""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from hwgen.errors import UserError
from pe_library import get_pe

from .table import Row, canonical, identity, labels

__all__ = ["ENERGIES", "KINDS", "export"]

#: The energy that is exported: the first of these that all rows with an energy have.
ENERGIES = (
    "energy__mac__uniform__glitch",
    "energy__mac__trained__glitch",
    "energy__mac__uniform__zero_delay",
    "energy__mac__trained__zero_delay",
)


def export(rows: Iterable[Mapping[str, Any]], kind: str) -> dict[str, str]:
    """Return the costs of PEs as files of another tool.

    Of the rows, those count that were measured of single PEs in standard cells.

    Parameters
    ----------
    rows : iterable of mapping
        Rows as :func:`~synth.table.read_table` returns them.
    kind : str
        ``"accelergy"`` or ``"zigzag"``.

    Returns
    -------
    dict
        Name and text of each file, YAML.

    Raises
    ------
    UserError
        If there is no such kind, no such row, none with an energy, no energy that all have, or a PE
        that is not installed.
    TypeError, ValueError
        If a row is not as :func:`~synth.table.canonical` wants it, not finite for one.
    """
    if kind not in KINDS:
        raise UserError(f"export must be one of {', '.join(KINDS)}, not {kind!r}")
    cells = [
        row for row in canonical(rows)
        if row["design__unit"] == "pe" and row["flow__status"] == "ok"
        and row["flow__source"] != "predicted" and row["design__instance__area"] is not None
    ]  # fmt: skip
    if not cells:
        raise UserError(f"{kind} needs measured rows of unit pe with an area; the table has none")
    costed = [row for row in cells if any(row[name] is not None for name in ENERGIES)]
    if not costed:
        raise UserError(
            f"{kind} needs an energy per product; none of the {len(cells)} rows of unit pe has one"
        )
    energy = next((name for name in ENERGIES if all(row[name] is not None for row in costed)), None)
    if energy is None:
        raise UserError(
            f"{kind} needs the same energy of all rows of unit pe, but none of "
            f"{', '.join(ENERGIES)} is in all {len(costed)}"
        )
    names = labels(cells)
    found = {}
    for row in costed:
        name = re.sub(r"[^A-Za-z0-9]+", "_", names[identity(row)].replace(" pe ", " ", 1))
        if name in found:
            raise UserError(f"{kind} needs rows with distinct names, but two are {name}")
        found[name] = row
    left_out = [names[identity(row)] for row in cells if row not in costed]
    return KINDS[kind](found, energy, [f"left out, without energy: {name}" for name in left_out])


def _accelergy(rows: Mapping[str, Row], energy: str, notes: list[str]) -> dict[str, str]:
    comments = "".join(
        _comment(words)
        for words in [
            *(f"{name}: {_provenance(row)}" for name, row in rows.items()), *notes
        ]
    )  # fmt: skip
    energies = "".join(
        f"    - name: {name}\n"
        "      actions:\n"
        "        - name: compute\n"
        "          arguments: {}\n"
        f"          energy: {_number(row[energy])}\n"
        for name, row in rows.items()
    )
    areas = "".join(
        f"    - name: {name}\n      area: {_number(_area(row))}\n" for name, row in rows.items()
    )
    return {
        "ERT.yaml": _comment(f"{energy} [pJ]")
        + f"{comments}ERT:\n  version: '0.4'\n  tables:\n{energies}",
        "ART.yaml": _comment("design__instance__area per product [um^2]")
        + f"{comments}ART:\n  version: '0.4'\n  tables:\n{areas}",
    }


def _zigzag(rows: Mapping[str, Row], energy: str, notes: list[str]) -> dict[str, str]:
    found = {}
    for name, row in rows.items():
        lanes = row["design__lanes"]
        sizes = [1, 1] if lanes == 1 else [1, 1, lanes]
        dimensions = ", ".join(f"D{i + 1}" for i in range(len(sizes)))
        found[f"{name}.yaml"] = (
            "".join(_comment(words) for words in [_provenance(row), *notes])
            + "operational_array:\n"
            f"  input_precision: {_precision(row)}  # activations, weights [bit]\n"
            f"  unit_energy: {_number(row[energy])}  # pJ a product, {energy}\n"
            f"  unit_area: {_number(_area(row))}  # um^2 a product\n"
            f"  dimensions: [{dimensions}]\n"
            f"  sizes: {sizes}  # one PE: rows, columns{', lanes' if lanes > 1 else ''}\n"
        )
    return found


#: What can be exported: a function of rows by name, the energy's column and remarks.
KINDS = {"accelergy": _accelergy, "zigzag": _zigzag}


def _precision(row: Row) -> list[int]:
    """Return the bits of an activation and of a weight."""
    options = dict(word.partition("=")[::2] for word in row["design__pe_options"].split())
    try:
        pe = get_pe(row["design__pe"], **{name: _option(text) for name, text in options.items()})
    except (TypeError, ValueError) as error:
        raise UserError(f"zigzag needs the PE of each row: {error}") from error
    return [pe.activation.bits, pe.weight.bits]


def _option(text: str) -> Any:
    """Return the value of an option: a number, a truth value or a text."""
    try:
        return json.loads(text.lower() if text in ("True", "False") else text)
    except ValueError:
        return text


def _area(row: Row) -> float:
    return float(row["design__instance__area"] / row["design__lanes"])


def _number(value: float) -> str:
    """Return a number with a point, without which YAML 1.1 takes 1e-05 for a text."""
    text = repr(float(f"{value:.5g}"))
    return text if "." in text else text.replace("e", ".0e")


def _provenance(row: Row) -> str:
    return (
        f"{row['flow__mapping']}, period {row['timing__period']} ns, {row['flow__tools']}, "
        f"library {row['flow__library_sha256'][:12]}, RTL {row['flow__rtl_sha256'][:12]}"
    )


def _comment(text: str) -> str:
    """Return a line of comment; no character of a text may end it."""
    return "# " + "".join(c if c.isprintable() else "?" for c in text) + "\n"
