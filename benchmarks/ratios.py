"""PEs against the best INT16: area, clock and energy in standard cells, of a measured table.

Each PE is a cell with its best mapping (named), its sums exact for 4,608 products. Perf/area is of
the mapping that is best by area × period, energy of that and of the one that is best by energy.

    python benchmarks/ratios.py [TABLE.csv] [TARGET]     # synth/tables/presets.csv, nangate45
"""

import sys
from pathlib import Path

from synth.table import Row, read_table

TABLES = Path(__file__).resolve().parents[1] / "synth" / "tables"
ENERGIES = ("energy__mac__uniform__glitch", "energy__mac__trained__glitch")


def cells(rows: list[Row], target: str, objective: str) -> dict[str, Row]:
    """Return the rows of weight-stationary cells by PE."""
    return {
        row["design__pe"]: row
        for row in rows
        if row["design__unit"] == "pe"
        and row["design__dataflow"] == "ws"
        and row["flow__target"] == target
        and row["flow__objective"] == objective
        and row["flow__status"] == "ok"
    }


def main(path: Path, target: str) -> None:
    """Print the table."""
    rows = read_table(path)
    for objective in ("area_delay", "energy"):
        found = cells(rows, target, objective)
        if "int16" not in found:
            continue
        base = found["int16"]
        print(f"{target}, ws, mapped for {objective}; energies with glitches, clock included\n")
        print("| PE (sum bits) | mapping | µm² | ns | GMAC/s/mm² | ÷ int16 | pJ/MAC uniform | "
              "int16 ÷ | pJ/MAC trained | int16 ÷ |")  # fmt: skip
        print("|---|---|---|---|---|---|---|---|---|---|")
        for name, row in found.items():
            energies = "".join(
                f" {row[column]:.3f} | {base[column] / row[column]:.2f} |" for column in ENERGIES
            )
            print(
                f"| {name} ({row['design__accumulator_bits']}) | {row['flow__mapping']} "
                f"| {row['design__instance__area']:,.0f} | {row['timing__period']:.2f} "
                f"| {row['perf__area']:,.0f} | {row['perf__area'] / base['perf__area']:.2f} "
                f"|{energies}"
            )
        print()
    print("tools:", ", ".join(sorted({row["flow__tools"] for row in rows})))


if __name__ == "__main__":
    main(
        Path(sys.argv[1]) if len(sys.argv) > 1 else TABLES / "presets.csv",
        sys.argv[2] if len(sys.argv) > 2 else "nangate45",
    )
