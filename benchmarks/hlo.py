"""What the text of a compiled program says: loops, convolutions, collectives, bytes moved."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f64": 8, "s64": 8}
_SHAPE = re.compile(r"\b(pred|[fsu]\d+|bf16|c64)\[([\d,]*)\]")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.+?) ([\w-]+)\((.*)$")
_CALLED = re.compile(r"(?:body|condition|calls|to_apply)=%?([\w.-]+)")
_BRANCHES = re.compile(r"(?:branch_computations=\{([^}]*)\}|_computation=%?([\w.-]+))")
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
# They name values and move nothing.
_FREE = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "while", "conditional"}


class Instruction(NamedTuple):
    """One line of a program.

    Attributes:
      name: of its result.
      opcode: what it does.
      result: the type, as text.
      rest: operands and attributes, as text.
    """

    name: str
    opcode: str
    result: str
    rest: str

    @property
    def size(self) -> int:
        """Bytes of the result."""
        return sum(
            _BYTES.get(kind, 4) * math.prod(int(n) for n in dims.split(",") if n)
            for kind, dims in _SHAPE.findall(self.result)
        )

    @property
    def called(self) -> list[str]:
        """Computations that it calls."""
        branches = [
            name.strip().lstrip("%")
            for group, single in _BRANCHES.findall(self.rest)
            for name in (group or single).split(",")
        ]
        return _CALLED.findall(self.rest) + branches

    @property
    def is_convolution(self) -> bool:
        """Of XLA's own, or of cuDNN."""
        return self.opcode == "convolution" or "__cudnn$conv" in self.rest


class Hlo:
    """A compiled program.

    Args:
      text: from ``compiled.as_text()``.
    """

    def __init__(self, text: str) -> None:
        self.num_bytes = len(text)
        self._computations: dict[str, list[Instruction]] = {}
        current: list[Instruction] = []
        for line in text.splitlines():
            if line and not line[0].isspace() and line.rstrip().endswith("{"):
                name = line.removeprefix("ENTRY ").split()[0].lstrip("%")
                current = self._computations.setdefault(name, [])
            elif match := _INSTRUCTION.match(line):
                current.append(Instruction(match[1], match[3], match[2], match[4]))

    def all(self) -> Iterator[Instruction]:
        """Every instruction."""
        for instructions in self._computations.values():
            yield from instructions

    def count(self, opcode: str) -> int:
        """How many instructions do one thing."""
        return sum(instruction.opcode == opcode for instruction in self.all())

    def convolutions(self) -> tuple[int, int]:
        """How many, and of how many distinct shapes."""
        found = [i for i in self.all() if i.is_convolution]
        window = lambda i: re.findall(
            r"(window=\{[^}]*\}|dim_labels=[\w>-]+|\w+_count=\d+)", i.rest
        )
        return len(found), len({(i.result.split("{")[0], *window(i)) for i in found})

    def inside_loops(self) -> set[str]:
        """Names of the computations that loops run."""
        loops = [i for i in self.all() if i.opcode == "while"]
        return {name for loop in loops for name in self._reached(loop)}

    def _reached(self, caller: Instruction, through: tuple[str, ...] = ()) -> set[str]:
        """Computations that an instruction runs, by those that these opcodes call; () for all."""
        waiting, found = caller.called, set[str]()
        while waiting:
            name = waiting.pop()
            if name not in found and name in self._computations:
                found.add(name)
                calling = [
                    i for i in self._computations[name] if not through or i.opcode in through
                ]
                waiting += [c for i in calling for c in i.called]
        return found

    def collectives(self) -> dict[str, int]:
        """Number, bytes and number inside loops of what devices exchange.

        The TPU compiler runs a long exchange in pieces beside a loop that does not need it; the
        pieces, in fusions of their own, count as overlapped.
        """
        looped = self.inside_loops()
        names = ("collectives", "collective_bytes", "collectives_in_loops", "overlapped")
        found: dict[str, int] = dict.fromkeys(names, 0)
        for name, instructions in self._computations.items():
            for i in instructions:
                if i.opcode.removesuffix("-start") not in COLLECTIVES:
                    continue
                if name.startswith("async_collective_fusion"):
                    found["overlapped"] += 1
                    continue
                found["collectives"] += 1
                found["collective_bytes"] += i.size
                found["collectives_in_loops"] += name in looped
        return found

    def bytes_of_largest_loop(self) -> int:
        """Bytes written by one round of the loop that writes most; all branches count."""
        return max((self._written(i) for i in self.all() if i.opcode == "while"), default=0)

    def _written(self, loop: Instruction) -> int:
        # What a fusion does inside is not written.
        inside = self._reached(loop, through=("while", "conditional", "call"))
        return sum(i.size for c in inside for i in self._computations[c] if i.opcode not in _FREE)
