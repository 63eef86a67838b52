"""How many bytes a compiled program moves between devices, read from its HLO text."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest import mock

import jax

from sxt_jax.inference import tiled

COLLECTIVES = (
    'all-gather',
    'all-reduce',
    'all-to-all',
    'collective-broadcast',
    'collective-permute',
    'ragged-all-to-all',
    'reduce-scatter',
)
Traffic = dict[str, int]  # kind of collective -> bytes

_INSTRUCTION = re.compile(r'^\s*(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][a-z0-9-]*)\((.*)$')
_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.-]+) \(.*\{$')
_ARRAY = re.compile(r'([a-z]\w*)\[([\d,<=]*)\]')
_CALLED = re.compile(r'\b(?:calls|to_apply|body|condition|\w+_computations?)=(\{[^}]*\}|%?[\w.-]+)')
_DEVICES = re.compile(r'\b(?:replica_count|num_partitions)=(\d+)')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


class _Instruction(NamedTuple):
    opcode: str
    type: str
    operands: str
    attributes: str


def count_traffic(hlo: str) -> Traffic:
    """Bytes that each device gives to collective operations in one run of a program.

    Those of an operation are the bytes of its operands on one device. What wires carry depends on
    the algorithm: a ring of n devices sends an all-reduce's 2 (n − 1) / n times. What is in a loop
    counts as often as the loop runs, what is in a branch as if it were taken. One device alone
    exchanges nothing, though its programs may have such operations.

    Args:
      hlo: of a compiled program, as `compiled.as_text()` gives it.

    Returns:
      Kind of operation -> bytes, of those that the program has.

    Raises:
      ValueError: no program, or a loop that runs an unknown number of times and has a collective.
    """
    entry, computations = _parse(hlo)
    if math.prod(int(n) for n in _DEVICES.findall(hlo.partition('\n')[0])) == 1:
        return {}
    return dict(_count(entry, computations))


def _count(name: str, computations: Mapping[str, Mapping[str, _Instruction]]) -> Counter[str]:
    here = computations.get(name, {})
    total: Counter[str] = Counter()
    for instruction in here.values():
        kind = instruction.opcode.removesuffix('-start')
        if kind in COLLECTIVES:
            total[kind] += _operand_bytes(instruction, here)
            continue
        for called in _called(instruction):
            inside = _count(called, computations)
            trips = _trips(instruction) if instruction.opcode == 'while' and inside else 1
            for kind, n_bytes in inside.items():
                total[kind] += trips * n_bytes
    return total


def _parse(hlo: str) -> tuple[str, dict[str, dict[str, _Instruction]]]:
    """Name of the entry, and the instructions of each computation by name."""
    entry, computations = '', dict[str, dict[str, _Instruction]]()
    here: dict[str, _Instruction] = {}
    for line in hlo.splitlines():
        line = re.sub(r'/\*.*?\*/', '', line)
        if start := _COMPUTATION.match(line):
            here = computations[start[2]] = {}
            entry = start[2] if start[1] else entry
        elif found := _INSTRUCTION.match(line):
            name, type_, opcode, rest = found.groups()
            operands, attributes = _closed(rest)
            here[name] = _Instruction(opcode, type_, operands, attributes)
    if not entry:
        raise ValueError('no ENTRY computation: this is not the text of a compiled program')
    return entry, computations


def _closed(text: str) -> tuple[str, str]:
    """What stands before the parenthesis that closes one opened earlier, and after it."""
    depth = 1
    for i, character in enumerate(text):
        depth += (character == '(') - (character == ')')
        if not depth:
            return text[:i], text[i + 1 :]
    raise ValueError(f'a parenthesis is not closed: {text!r}')


def _operand_bytes(instruction: _Instruction, here: Mapping[str, _Instruction]) -> int:
    """Operands are given by name, in some versions of XLA with their types."""
    if _ARRAY.search(instruction.operands):
        return _bytes(instruction.operands)
    names = re.findall(r'[\w.-]+', instruction.operands)
    return sum(_bytes(here[name].type) for name in names)


def _bytes(type_: str) -> int:
    """Of all arrays in a type such as `(f32[2,3]{1,0}, bf16[])`."""
    return sum(
        -(-_bits(dtype) * math.prod(int(n.lstrip('<=')) for n in sides.split(',') if n) // 8)
        for dtype, sides in _ARRAY.findall(type_)
    )


def _bits(dtype: str) -> int:
    """Of 'f32', 'bf16', 'f8e4m3fn', 'pred', …; 0 of tokens."""
    if dtype == 'pred':
        return 8
    found = re.search(r'\d+', dtype)
    return int(found[0]) if found else 0


def _called(instruction: _Instruction) -> list[str]:
    groups = _CALLED.findall(instruction.attributes)
    return [name for group in groups for name in re.findall(r'[\w.-]+', group)]


def _trips(loop: _Instruction) -> int:
    found = _TRIPS.search(loop.attributes)
    if found is None:
        raise ValueError('a loop with a collective does not tell how often it runs')
    return int(found[1])


class Meter:
    """Counts the traffic of jitted functions that are called while it watches."""

    def __init__(self) -> None:
        self._counted: dict[Hashable, Traffic] = {}
        self._total: Counter[str] = Counter()

    @property
    def traffic(self) -> Traffic:
        """Of all calls so far."""
        return dict(self._total)

    def watch(self, function: Any) -> Watched:
        """A jitted function that counts. Its keyword arguments are static."""
        return Watched(self, function)

    def add(self, function: Any, args: Any, static: Mapping[str, Any]) -> None:
        """Count a call; a program is read once."""
        shapes = tuple((leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(args))
        key = (function, shapes, tuple(sorted(static.items())))
        if key not in self._counted:
            text = function.lower(*args, **static).compile().as_text()
            self._counted[key] = count_traffic(text)
        self._total.update(self._counted[key])


class Watched:
    """A jitted function whose calls a meter counts."""

    def __init__(self, meter: Meter, function: Any) -> None:
        self._meter, self._function = meter, function
        self.lower = function.lower

    def __call__(self, *args: Any, **static: Any) -> Any:
        self._meter.add(self._function, args, static)
        return self._function(*args, **static)


@contextmanager
def watch_inference() -> Iterator[Meter]:
    """The traffic of all that tiled inference compiles, in all threads, while the body runs."""
    meter, compile_network = Meter(), tiled.compile_network
    watched: dict[str, Any] = {
        name: meter.watch(getattr(tiled, name)) for name in ('cut_tiles', 'add_tiles', 'take_rows')
    }
    watched['compile_network'] = lambda *args: meter.watch(compile_network(*args))
    with ExitStack() as stack:
        for name, function in watched.items():
            stack.enter_context(mock.patch.object(tiled, name, function))
        yield meter
