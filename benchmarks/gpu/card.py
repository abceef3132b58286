"""The card itself, and what of torch works on it: what explains the figures of the other parts."""

import shutil
import sysconfig
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks.gpu.findings import Asked, Finding
from benchmarks.gpu.timing import in_turns, milliseconds
from benchmarks.tables import Row, row_of

SIDE = 4096
COMPILERS = ("cc", "gcc", "clang")


def measure(asked: Asked) -> Iterator[Finding]:
    """Facts, a matrix product in each precision, a copy, and whether compiling works."""
    yield Row("libraries", ", ".join(f"{name} {_version(name)}" for name in _LIBRARIES))
    yield Row("a C compiler, and Python's headers", f"{_compiler()}, {_headers()}")
    if asked.on_cuda:
        yield from _memory(asked.device)
    yield from _products(asked)
    for name, attempt in _ATTEMPTS.items():
        yield _attempted(name, attempt, asked)


_LIBRARIES = ("torch", "triton", "torchvision", "ultralytics", "sam2", "numpy", "dagster")


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "missing"


def _compiler() -> str:
    return next((found for name in COMPILERS if (found := shutil.which(name))), "no compiler")


def _headers() -> str:
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    return str(header) if header.exists() else f"no {header}"


def _memory(device: str) -> Iterator[Row]:
    free, total = torch.cuda.mem_get_info(device)
    yield Row("memory", f"{total / 2**30:.1f} GiB", f"{free / 2**30:.1f} GiB free")
    yield Row("compute capability", ".".join(map(str, torch.cuda.get_device_capability(device))))


def _products(asked: Asked) -> Iterator[Finding]:
    side = asked.scaled(SIDE, 256)
    for precision in (torch.float32, torch.bfloat16, torch.float16):
        factor = torch.randn(side, side, device=asked.device, dtype=precision)
        product = partial(torch.matmul, factor, factor)
        spent = in_turns({"product": product}, asked.device, 5)["product"]
        rates = [2 * side**3 / each / 1e9 for each in spent]
        yield row_of(f"a product of {side}x{side}, {precision}", rates, "TFLOP/s")


def _compiled(device: str) -> object:
    doubled = torch.compile(lambda x: torch.sin(x) * 2, dynamic=False)
    return doubled(torch.ones(1000, device=device))


def _captured(device: str) -> None:
    if not device.startswith("cuda"):
        raise NotImplementedError("a graph needs CUDA")
    graph, given = torch.cuda.CUDAGraph(), torch.ones(1000, device=device)
    torch.sin(given)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        torch.sin(given)
    graph.replay()


_ATTEMPTS: dict[str, Callable[[str], object]] = {
    "torch.compile": _compiled,
    "a CUDA graph": _captured,
}


def _attempted(name: str, attempt: Callable[[str], object], asked: Asked) -> Row:
    """What does not work here is a fact, and no failure: the product falls back."""
    try:
        spent = milliseconds(lambda: attempt(asked.device), asked.device)
        return Row(f"{name} works", "yes", f"{spent:.0f} ms", "yes")
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        return Row(f"{name} works", "no", f"{type(error).__name__}: {lines[0][:200]}", "yes")
