"""Runs a program that torch's compiler wrote without its kernels: what it does on the host, and the
memory that it takes on the card."""

import re
import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from math import prod
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Program:
    """What a compiled function does on the card. Its inputs and weights are not in the peak."""

    launches: int
    moved_bytes: int  # at most: a kernel is taken to touch all of each tensor that it is given
    peak_bytes: int


def run(source: str, inputs: Sequence[Tensor]) -> Program:
    """Runs the program's host side."""
    memory = _Memory()
    body = source[source.index("class Runner") : source.index("\nrunner = ")]
    kernel = SimpleNamespace(run=memory.launch)
    names: dict[str, Any] = {
        **dict.fromkeys(re.findall(r"\b(\w+)\.run\(", body), kernel),
        **dict.fromkeys(re.findall(r"\b(assert_\w+)\(", body), lambda *_: None),
        "torch": _Torch(memory),
        "extern_kernels": _Operators(memory),
        "empty_strided_cuda": memory.empty,
        "reinterpret_tensor": _Tensor.viewed,
        "get_raw_stream": lambda _: 0,
        "copy_if_misaligned": lambda given: given,
    }
    exec(body, names)
    given = [_Tensor(_Block(), each.shape, each.stride(), each.dtype) for each in inputs]
    results = names["Runner"]([]).call(given)
    assert results
    return Program(memory.launches, memory.moved, memory.peak)


class Alive(TorchDispatchMode):
    """Counts the memory of the tensors that are made while it is entered, as long as they live."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = 0
        self._tensors: Counter[int] = Counter()  # by storage

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        results = func(*args, **(kwargs or {}))
        for each in tree_leaves(results):
            if isinstance(each, Tensor):
                self._add(each)
        return results

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, nbytes = storage._cdata, storage.nbytes()
        if not self._tensors[key]:
            self.held += nbytes
            self.peak = max(self.peak, self.held)
        self._tensors[key] += 1
        weakref.finalize(tensor, self._remove, key, nbytes)

    def _remove(self, key: int, nbytes: int) -> None:
        self._tensors[key] -= 1
        if not self._tensors[key]:
            self.held -= nbytes


class _Memory:
    """Counts what a program has of the card's memory, and what it asks the card to do."""

    def __init__(self) -> None:
        self.held = self.peak = self.launches = self.moved = 0

    def empty(self, size: Sequence[int], stride: Sequence[int], dtype: torch.dtype) -> "_Tensor":
        """New memory, which is free again when nothing refers to it."""
        reach = 1 + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        taken = _Block()
        nbytes = reach * dtype.itemsize
        self.held += nbytes
        self.peak = max(self.peak, self.held)
        weakref.finalize(taken, self._free, nbytes)
        return _Tensor(taken, tuple(size), tuple(stride), dtype)

    def launch(self, *given: Any, **named: Any) -> None:
        """A kernel that reads or writes the tensors among its arguments."""
        self.launches += 1
        touched = {
            id(each): each for each in [*given, *named.values()] if isinstance(each, _Tensor)
        }
        self.moved += sum(each.nbytes for each in touched.values())

    def operator(self, of: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """An operator of torch's that takes memory for its results."""
        results = of(*map(_faked, given), **{name: _faked(each) for name, each in named.items()})
        several = isinstance(results, tuple)
        made = [
            self.empty(each.shape, each.stride(), each.dtype) if isinstance(each, Tensor) else each
            for each in (results if several else [results])
        ]
        self.launch(*given, *named.values(), *made)
        return tuple(made) if several else made[0]

    def _free(self, nbytes: int) -> None:
        self.held -= nbytes


class _Block:
    """A piece of memory."""


@dataclass(frozen=True, eq=False)
class _Tensor:
    """A tensor in a piece of memory, or in what was there before."""

    block: _Block
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Without the repetitions of what is expanded."""
        own = (length for length, step in zip(self.size, self.stride, strict=True) if step)
        return prod(own) * self.dtype.itemsize

    def viewed(self, size: Sequence[int], stride: Sequence[int], _offset: int) -> "_Tensor":
        """The same memory in another shape."""
        return _Tensor(self.block, tuple(size), tuple(stride), self.dtype)


def _faked(given: Any) -> Any:
    if isinstance(given, _Tensor):
        return torch.empty_strided(given.size, given.stride, dtype=given.dtype, device="cuda")
    return given


class _Torch:
    """torch as a program uses it, with its operators for the memory alone."""

    cuda = SimpleNamespace(_DeviceGuard=lambda _: nullcontext(), set_device=lambda _: None)

    def __init__(self, memory: _Memory) -> None:
        self.ops = SimpleNamespace(aten=_Operators(memory))

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


class _Operators:
    """Operators of torch's by name: those that write into `out`, and those that take memory."""

    def __init__(self, memory: _Memory) -> None:
        self._memory = memory

    def __getattr__(self, name: str) -> Any:
        operator = getattr(torch.ops.aten, name).default

        def call(*given: Any, **named: Any) -> Any:
            if "out" in named:
                return self._memory.launch(*given, *named.values())
            return self._memory.operator(operator, *given, **named)

        call.default = call  # type: ignore[attr-defined]
        return call
