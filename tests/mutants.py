"""Break the RTL on purpose, one way at a time, and see the tests catch each.

    python tests/mutants.py            all mutants (about 15 minutes on two cores)
    python tests/mutants.py --list     what they are
    python tests/mutants.py NAME ...   some of them

It needs what the tests need (`pip install -e '.[test]'`). A mutant is one edit of a generator's
source. It is made in a copy of the packages, on which the conformance suite, or the accelerator's
tests, run with `-x`; it is caught when a test fails (an error of the edit itself, such as a design
that does not elaborate, does not count). The unbroken copy must pass the same tests.
Exit status 1 if a mutant survives, or if an edit no longer fits its source.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Mutant:
    """``old`` stands once in ``file`` and becomes ``new``; ``tests`` (-k) are tried first."""

    name: str
    file: str
    old: str
    new: str
    tests: str
    suite: str = "tests/test_conformance.py"


def _pe(name: str, file: str, old: str, new: str) -> Mutant:
    return Mutant(name, f"pe_library/{file}.py", old, new, "test_pe")


def _array(name: str, file: str, old: str, new: str) -> Mutant:
    return Mutant(name, f"hwgen/{file}.py", old, new, "test_array or latency or any_gemm or larger")


def _accelerator(name: str, file: str, old: str, new: str, tests: str = "random") -> Mutant:
    suite = "tests/accelerator/test_accelerator.py"
    return Mutant(name, f"hwgen/accelerator/{file}.py", old, new, tests, suite)


def _arithmetic(name: str, file: str, old: str, new: str) -> Mutant:
    suite = "tests/accelerator/test_arithmetic.py"
    return Mutant(name, f"hwgen/accelerator/{file}.py", old, new, "test", suite)


MUTANTS = [
    # Arithmetic common to all PEs
    _pe("adder drops its carry-in", "pe", "Cat(left.carry, left.value)", "Cat(0, left.value)"),
    _pe(
        "carry of the right addend lost",
        "pe",
        "total[1:].as_signed(), right.carry)",
        "total[1:].as_signed())",
    ),
    _pe(
        "carry lost where the left one is constant",
        "pe",
        "left.value + right.value, right.carry)",
        "left.value + right.value)",
    ),
    _pe(
        "partial sum subtracted",
        "pe",
        "_add(total, Addend(self.partial_in)).value",
        "(self.partial_in - total.value)",
    ),
    _pe(
        "lane 0 in every lane", "pe", "operand[lane * bits : (lane + 1) * bits]", "operand[0:bits]"
    ),
    _pe(
        "register without enable",
        "pe",
        "with m.If(self.en):\n                m.d.sync += stage",
        "with m.If(1):\n                m.d.sync += stage",
    ),
    _pe(
        "carry not delayed with its sum",
        "pe",
        'register(total.carry, "sum_carry_q")',
        "total.carry",
    ),
    _pe(
        "carry not registered within the adder tree",
        "pe",
        'sums = registers(sums, "middle", "middle_carry")',
        'sums = [Addend(register(s.value, "middle"), s.carry) for s in sums]',
    ),
    _pe(
        "no register within the adder tree",
        "pe",
        "if pe.pipeline == 3 and level == levels // 2:",
        "if pe.pipeline > 3 and level == levels // 2:",
    ),
    _pe("addends not registered", "pe", "if pe.pipeline >= 2:", "if pe.pipeline > 3:"),
    _pe(
        "odd addend of the tree dropped",
        "pe",
        "for i in range(0, len(sums), 2)]",
        "for i in range(0, len(sums) - (len(sums) > 2) * (len(sums) % 2), 2)]",
    ),
    _pe(
        "unsigned activation taken as signed",
        "pe",
        "code.as_signed() if number_format.signed else Cat(code, Const(0, 1)).as_signed()",
        "code.as_signed()",
    ),
    # Accumulators
    _pe(
        "saturates one bit early",
        "accumulator",
        "total[self.bits - 1 :] == sign.replicate(len(total) - self.bits + 1)",
        "total[self.bits - 2 :] == sign.replicate(len(total) - self.bits + 2)",
    ),
    _pe("saturates to the wrong end", "accumulator", "with m.Elif(sign):", "with m.Elif(~sign):"),
    _pe(
        "does not saturate downwards",
        "accumulator",
        "Const(self.minimum, signed(self.bits))",
        "total[: self.bits]",
    ),
    _pe(
        "saturation off by one",
        "accumulator",
        "Const(self.maximum, signed(self.bits))",
        "Const(self.maximum - 1, signed(self.bits))",
    ),
    # Integer PE
    _pe("weight taken as unsigned", "integer", "multiplicand * w.as_signed()", "multiplicand * w"),
    _pe(
        "product one bit short",
        "integer",
        "signed(len(multiplicand) + len(w))",
        "signed(len(multiplicand) + len(w) - 1)",
    ),
    _pe("Booth digit 2 forgotten", "integer", "Mux(two, multiplicand << 1, 0)", "Mux(two, 0, 0)"),
    _pe(
        "Booth row shifted by one digit less",
        "integer",
        "Cat(high.replicate(2 * digit), magnitude",
        "Cat(high.replicate(2 * digit - (digit > 0)), magnitude",
    ),
    _pe(
        "Booth row without negation carry",
        "integer",
        "rows.append(Addend(row, high))",
        "rows.append(Addend(row))",
    ),
    _pe(
        "Booth fill without sign",
        "integer",
        "Cat(high.replicate(2 * digit), ",
        "Cat(Const(0, 2 * digit), ",
    ),
    _pe(
        "Booth sign bit missing",
        "integer",
        "multiplier, multiplier[-1])",
        "multiplier, Const(0, 1))",
    ),
    # LightPE
    _pe(
        "wrong sign",
        "lightpe",
        "negative.replicate(len(shifted)).as_signed()",
        "(~negative).replicate(len(shifted)).as_signed()",
    ),
    _pe("negation without carry", "lightpe", "Addend(addend, negative)", "Addend(addend)"),
    _pe("shift off by one", "lightpe", "activation << exponent", "activation << (exponent ^ 1)"),
    _pe("first term used for all", "lightpe", "w.word_select(term,", "w.word_select(0,"),
    _pe("term one bit short", "lightpe", "signed(len(shifted))", "signed(len(shifted) - 1)"),
    _pe(
        "zero code ignored",
        "lightpe",
        "Mux(exponent.any(), shifted[1:].as_signed(), 0)",
        "shifted[1:].as_signed()",
    ),
    # Binary PE
    _pe("XOR for XNOR", "binary", "sum(~(a ^ w) for", "sum((a ^ w) for"),
    _pe(
        "last lane not counted",
        "binary",
        "for a, w in group)",
        "for a, w in group[: max(1, len(group) - 1)])",
    ),
    _pe(
        "popcount too narrow", "binary", "Signal(range(len(group) + 1)", "Signal(range(len(group))"
    ),
    _pe("popcount not doubled", "binary", "(popcount << 1) - less", "popcount - less"),
    _pe("every group less all lanes", "binary", "0 if start else len(pairs)", "len(pairs)"),
    # Weight-stationary dataflow
    _array("weights never swap", "weight_stationary", "with m.If(self.swap):", "with m.If(0):"),
    _array(
        "weights not double-buffered",
        "weight_stationary",
        "with m.If(self.swap):",
        "with m.If(self.load):",
    ),
    _array("swap after every beat", "weight_stationary", "first.eq(self.act_last)", "first.eq(1)"),
    _array(
        "swap one row late", "weight_stationary", "self.swap.eq(swap_way)", "self.swap.eq(swaps)"
    ),
    _array(
        "all rows shift at each load",
        "weight_stationary",
        "Mux(load, reach, 0)",
        "Mux(load, ~0, 0)",
    ),
    _array(
        "weights overwritten before the swap",
        "weight_stationary",
        "self.weight_ready.eq(self.en & (~loaded | swap))",
        "self.weight_ready.eq(self.en)",
    ),
    _array(
        "activations do not wait for weights",
        "weight_stationary",
        "self.act_ready.eq(self.en & (~first | loaded))",
        "self.act_ready.eq(self.en)",
    ),
    _array(
        "a stall loses an activation",
        "weight_stationary",
        "self.act_ready.eq(self.en & (~first",
        "self.act_ready.eq((~first",
    ),
    _array(
        "a stall loses a weight",
        "weight_stationary",
        "self.weight_ready.eq(self.en & (~loaded | swap))",
        "self.weight_ready.eq(~loaded | swap)",
    ),
    _array(
        "weights of a pass wait for the pass before",
        "weight_stationary",
        "(~loaded | swap)",
        "~loaded",
    ),
    _array(
        "sums one cycle early",
        "weight_stationary",
        "self.sum_valid.eq(valid[-1])",
        "self.sum_valid.eq(valid[-2])",
    ),
    _array(
        "last mark one cycle late",
        "weight_stationary",
        "last.eq(Cat(self.act_last, last))",
        "last.eq(Cat(last[0], last))",
    ),
    _array(
        "PE enable stuck", "weight_stationary", "arithmetic.en.eq(self.en)", "arithmetic.en.eq(1)"
    ),
    # Output-stationary dataflow
    _array(
        "sum not cleared between passes",
        "output_stationary",
        "Mux(self.last, 0, arithmetic.partial_out)",
        "arithmetic.partial_out",
    ),
    _array(
        "idle beats accumulate",
        "output_stationary",
        "with m.If(self.valid):",
        "with m.If(self.en):",
    ),
    _array(
        "drain keeps the sum before the last",
        "output_stationary",
        "m.d.sync += drain.eq(arithmetic.partial_out)",
        "m.d.sync += drain.eq(running)",
    ),
    _array("drain overwritten by the chain", "output_stationary", "shifts.eq(~1)", "shifts.eq(~0)"),
    _array(
        "short passes run into the drain",
        "output_stationary",
        "self.act_last & lasts[: self.rows - 1].any()",
        "0",
    ),
    _array(
        "short passes held one cycle too few",
        "output_stationary",
        "lasts[: self.rows - 1].any()",
        "lasts[: max(0, self.rows - 2)].any()",
    ),
    _array(
        "activations taken without weights",
        "output_stationary",
        "self.act_ready.eq(free & self.weight_valid)",
        "self.act_ready.eq(free)",
    ),
    _array("a stall loses a pair", "output_stationary", "free.eq(self.en & ~(", "free.eq(~("),
    _array(
        "pairs one row late",
        "output_stationary",
        "self.valid.eq(pairs[rows])",
        "self.valid.eq(Cat(0, pairs)[rows])",
    ),
    _array(
        "last mark without a pair counts",
        "output_stationary",
        "last.eq(pair & self.act_last)",
        "last.eq(free & self.weight_valid & self.act_last)",
    ),
    _array(
        "idle last mark ends the pass",
        "weight_stationary",
        "with m.If(act):",
        "with m.If(act | (self.act_ready & self.act_last)):",
    ),
    # Structure
    _array("a stalled sum is lost", "array", "~self.o_sum.valid | self.o_sum.ready", "1"),
    _array("skew one register short", "skew", "else lane):", "else max(0, lane - 1)):"),
    _array("skew moves while the array stalls", "skew", "with m.If(en):", "with m.If(1):"),
    _array(
        "group delay one group short",
        "skew",
        "for step in range(group):",
        "for step in range(max(0, group - 1)):",
    ),
    _array(
        "control line moves while the array stalls",
        "grid",
        "with m.If(self.en):\n            m.d.sync += line.eq(way)",
        "with m.If(1):\n            m.d.sync += line.eq(way)",
    ),
    _array(
        "control bits not gated by the enable",
        "grid",
        "now.eq(Mux(self.en, way, 0))",
        "now.eq(way)",
    ),
    _array(
        "control line one column short",
        "grid",
        "Cat(now, line[-1])",
        "Cat(now[1:], line[-1], line[-1])",
    ),
    # The accelerator
    _accelerator(
        "a row below the input is read",
        "streamers",
        "step.y < registers.height",
        "step.y <= registers.height",
    ),
    _accelerator(
        "a granule too many of the last channel block",
        "streamers",
        "registers.tail <= i",
        "registers.tail < i",
    ),
    _accelerator(
        "weights of a block are not begun again",
        "streamers",
        "self.registers.weight_back if loop in order.pixels else 1",
        "1",
        "os",
    ),
    _accelerator(
        "a loop begins at 1 again",
        "nest",
        "index.eq(1), end.eq(extent == 0)",
        "index.eq(2), end.eq(extent == 1)",
    ),
    _accelerator(
        "a vector stays in its row of the banks",
        "buffer",
        "row + (bank < first_read)",
        "row",
        "8x3 or 3x8 or 6x4 or 6x9",
    ),
    _accelerator(
        "a shorter vector is read from the beginning of its word",
        "streamers",
        "value.word_select(place, width)",
        "value.word_select(0 * place, width)",
        "random and (aligned or small)",
    ),
    _accelerator(
        "the place of a shorter vector is that of the next one",
        "streamers",
        "place.eq(place_1)",
        "place.eq(step.act)",
        "random and (aligned or small)",
    ),
    _accelerator(
        "words of which the array takes a part have a tail",
        "streamers",
        "if not whole:",
        "if True:",
        "random",
    ),
    _accelerator(
        "a vector is written to all of its word",
        "buffer",
        "Mux(self.write_en, 1 << first, 0)",
        "Mux(self.write_en, ~0, 0)",
        "random and (aligned or small)",
    ),
    _accelerator(
        "every beat of a weight is its first part",
        "accelerator",
        "1 << sequencer.load_part",
        "1",
        "random and small",
    ),
    _accelerator(
        "the one set of registers changes during a run",
        "sequencer",
        "(opcode == Opcode.SET) & one_set",
        "(opcode == Opcode.SET) & 0",
        "random and small",
    ),
    _accelerator(
        "registers change during a run",
        "sequencer",
        "m.If(~busy):\n                m.d.sync += self.reg",
        "m.If(1):\n                m.d.sync += self.reg",
    ),
    _accelerator(
        "of a word that is loaded only the first part is written",
        "buffer",
        "mask.eq(~0)",
        "mask.eq(1)",
    ),
    _accelerator(
        "what was kept is forgotten", "slices", "Mux(full, kept, self.i.payload)", "self.i.payload"
    ),
    _accelerator(
        "what was kept and nobody took is lost",
        "slices",
        "full.eq(self.o.valid & ~self.o.ready)",
        "full.eq(self.i.valid & ~full & ~self.o.ready)",
    ),
    _accelerator(
        "a loop ends a step late",
        "nest",
        "end.eq(index == extent)",
        "end.eq(index == extent + 1)",
    ),
    _accelerator(
        "the first pass is added to what was there",
        "accumulate",
        "Mux(first, 0, Mux(near, 1,",
        "Mux(0, 0, Mux(near, 1,",
    ),
    _accelerator(
        "what was just written is read old",
        "accumulate",
        "Mux(older[0], 4, 8)",
        "8",
    ),
    _accelerator("a total is not forwarded", "accumulate", "Mux(near, 1,", "Mux(0, 1,"),
    _accelerator(
        "a total is not forwarded as it is written",
        "accumulate",
        "Mux(far, 2,",
        "Mux(0, 2,",
    ),
    _accelerator(
        "what is no total is forwarded",
        "accumulate",
        "came & (read.addr == there)",
        "(read.addr == there)",
    ),
    _accelerator(
        "a total is not forwarded after it was written",
        "accumulate",
        "Mux(older[1], written, stored)",
        "stored",
    ),
    _accelerator(
        "nothing is held before the FIFO is full",
        "results",
        "self.hold.eq(fifo.r_level >= self.enough(self.config))",
        "self.hold.eq(0)",
    ),
    _accelerator(
        "the FIFO has no room for what is on its way",
        "results",
        "(1 << (cls.enough(config) + cls.to_come(config) - 1).bit_length()) + 1",
        "cls.enough(config) + cls.to_come(config) // 2",
    ),
    _accelerator(
        "a result that waits is forgotten at the end",
        "results",
        "nest.valid | fifo.r_level.any() |",
        "nest.valid |",
    ),
    _accelerator("what was kept is overwritten", "slices", "with m.If(~full):", "with m.If(1):"),
    _accelerator(
        "what the array has not taken is overwritten",
        "slices",
        "self.i.ready.eq(~self.o.valid | self.o.ready)",
        "self.i.ready.eq(1)",
    ),
    _accelerator(
        "what waits to be sent is overwritten",
        "slices",
        "self.i.ready.eq(~self.o.valid), self.o",
        "self.i.ready.eq(1), self.o",
    ),
    _accelerator(
        "a stored word is read before there is room",
        "results",
        "self.storing & ~ended & ~word.valid",
        "self.storing & ~ended",
    ),
    _accelerator(
        "a sum that is wanted counts as dropped",
        "results",
        "self.i.valid & ~wanted",
        "self.i.valid",
        "os",
    ),
    Mutant(
        "ties below zero go upwards",
        "hwgen/accelerator/direct.py",
        "shift.up.eq(~high[-1])",
        "shift.up.eq(1)",
        "ties",
        "tests/accelerator/test_edges.py",
    ),
    _accelerator(
        "both inputs have the first one's zero point",
        "direct",
        'zero.eq(set_for("direct_zero"))',
        'zero.eq(registers["direct_zero_0"])',
    ),
    Mutant(
        "sums stay behind as codes",
        "hwgen/accelerator/postprocess.py",
        "biased_valid & ~raw",
        "biased_valid",
        "right_after",
        "tests/accelerator/test_edges.py",
    ),
    _accelerator(
        "the high half is rounded down",
        "postprocess",
        "product.product >> 30) + 1",
        "product.product >> 30)",
    ),
    _accelerator(
        "ties go downwards", "postprocess", "self.sum.bit_select(shift[:5], 1)", "0", "shift"
    ),
    _arithmetic(
        "a digit too low", "product", "place_a + place_b, registered", "place_a, registered"
    ),
    _arithmetic("half the divisor is lost", "product", "Cat(carry, below_half)", "carry"),
    _arithmetic(
        "a scaled sum wraps",
        "postprocess",
        "saturated(scaled, self.scaled_bits)",
        "scaled[: self.scaled_bits].as_signed()",
    ),
    _arithmetic(
        "a sum that is shifted left wraps",
        "postprocess",
        "saturated(self.sum, bits)",
        "self.sum[:bits].as_signed()",
    ),
    _arithmetic(
        "what is shifted left wraps",
        "postprocess",
        "saturated(small << places, bits)",
        "(small << places)[:bits].as_signed()",
    ),
    _arithmetic(
        "a longer shift to the left is a short one",
        "postprocess",
        "Mux(-shift < bits - 1, -shift, bits - 1)",
        "-shift",
    ),
    _arithmetic("all shifts go right", "postprocess", "Mux(to_left, at_end,", "Mux(0, at_end,"),
    _accelerator(
        "a run does not hold the one behind it at once",
        "sequencer",
        "self.store | begins)",
        "self.store)",
    ),
    _accelerator(
        "weights in a memory of one port are loaded during a run",
        "sequencer",
        'load |= number[:7] == BUFFERS["weight"]',
        "load |= 0",
        "random and small",
    ),
    _accelerator(
        "a memory of one port is read where it is written",
        "buffer",
        "Mux(writes, self.write_addr, self.read_addr)",
        "self.read_addr",
        "random and small",
    ),
    _accelerator(
        "nothing is clamped above",
        "postprocess",
        "Mux(total > self.high, self.high, total)",
        "total",
    ),
    _accelerator(
        "a falling activation rises",
        "postprocess",
        "Mux(falling, base - total, base + total)",
        "base + total",
        "threshold or bnn",
    ),
]


def _suite(copy: Path, cache: Path, suite: str, tests: str | None) -> tuple[str, str]:
    """Run a suite on a copy: ``passed``, ``caught`` or ``broken``, and how it ended."""
    env = {**os.environ, "PYTHONPATH": str(copy), "HWGEN_CACHE": str(cache)}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider"]
    command += [
        "--rootdir",
        str(copy),
        *(["-k", tests] if tests else []),
        suite,
    ]
    run = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True, check=False)
    failed = re.findall(r"^(?:FAILED|ERROR) \S*?::(.*)$", run.stdout, re.MULTILINE)
    if run.returncode == 0:
        return "passed", run.stdout.strip().splitlines()[-1]
    # Caught by a comparison: the edit elaborated and ran.
    if run.returncode == 1 and re.search(r"^E +(?:AssertionError|testbench\.\S*ProtocolError|ValueError: answer|assert)",
                                         run.stdout, re.MULTILINE):  # fmt: skip
        return "caught", failed[0] if failed else "?"
    return "broken", "\n".join((run.stdout + run.stderr).splitlines()[-15:])


def _try(mutant: Mutant | None, cache: Path) -> tuple[str, str]:
    """Run the suite on a copy with the mutant's edit; on the copy as it is if there is none."""
    with tempfile.TemporaryDirectory(prefix="hwgen-mutant-") as folder:
        copy = Path(folder)
        for package in ("pe_library", "hwgen", "testbench", "tests"):
            shutil.copytree(
                ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__")
            )
        shutil.copy(ROOT / "pyproject.toml", copy)
        if mutant is None:
            return _suite(copy, cache, Mutant.suite, None)
        source = copy / mutant.file
        text = source.read_text(encoding="utf-8")
        if text.count(mutant.old) != 1:
            return (
                "broken",
                f"{mutant.old!r} stands {text.count(mutant.old)} times in {mutant.file}",
            )
        source.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
        found = _suite(copy, cache, mutant.suite, mutant.tests)
        return _suite(copy, cache, mutant.suite, None) if found[0] == "passed" else found


def main() -> int:
    """Run the mutants; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="mutants to run (all if none)")
    parser.add_argument("--list", action="store_true", help="list the mutants")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    chosen = [m for m in MUTANTS if not arguments.names or m.name in arguments.names]
    if arguments.list:
        print("\n".join(f"{m.file:<32} {m.name}" for m in chosen))
        return 0
    counts = dict.fromkeys(("caught", "passed", "broken"), 0)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="hwgen-mutants-cache-") as folder:
        cache = Path(folder)
        outcome, how = _try(None, cache)
        print(f"the suite on the unbroken RTL: {outcome}, {how}", flush=True)
        if outcome != "passed":
            return 1
        with ThreadPoolExecutor(arguments.jobs) as pool:
            for mutant, (outcome, how) in zip(
                chosen, pool.map(lambda m: _try(m, cache), chosen), strict=True
            ):
                counts[outcome] += 1
                word = {"caught": "caught  ", "passed": "SURVIVED", "broken": "BROKEN  "}[outcome]
                print(f"{word} {mutant.name}: {how}", flush=True)
    print(
        f"{counts['caught']} caught, {counts['passed']} survived, {counts['broken']} broken, "
        f"{time.monotonic() - start:.0f} s"
    )
    return 0 if counts["caught"] == len(chosen) > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
