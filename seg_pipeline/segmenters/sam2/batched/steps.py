"""Functions of fixed shapes, made quicker in the background: compiled, and replayed as CUDA graphs.

They answer as they are until then. A machine where one form fails takes the next: what is lost is
speed. The graphs are captured here and not by `torch.compile(mode="reduce-overhead")`, whose graphs
only the thread that compiled them can replay.
"""

import fcntl
import logging
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from seg_pipeline.segmenters.cuda_graphs import GraphRecorder
from seg_pipeline.segmenters.devices import (
    first_line,
    give_memory_back,
    raise_if_broken,
)

MOST_OFF, MOST_OFF_IN_HALF = 0.02, 0.3
"""How far a quicker form may be from the plain one, as a share of the output's own size.

It is to find graphs that read the wrong memory, which are off by 1 and more, and not rounding:
convolutions have TF32's in float32, and sixty layers of bf16 may round differently at each step.
"""

Function = Callable[..., Any]
"""Of tensors, or dataclasses and tuples of tensors; so are its results."""

COMPILER: dict[str, Any] = {"allow_buffer_reuse": False}
"""Freed memory that torch's compiler keeps for a later result is held at the peak too.

A graph that is replayed allocates nothing, so that to free it costs nothing.
"""

_compiling = threading.Lock()
"""torch compiles in one thread at a time."""

logger = logging.getLogger(__name__)


class Step:
    """A function that is called with the same shapes time and again.

    Its results are valid until the next call.
    """

    def __init__(self, name: str, plain: Function) -> None:
        self.name = name
        self.plain = plain
        self.quick: Form | None = None

    def __call__(self, *inputs: Any) -> Any:
        quick = self.quick
        return quick(*inputs) if quick and quick.takes(inputs) else self.plain(*inputs)

    @property
    def form(self) -> str:
        """Which form answers."""
        return self.quick.name if self.quick else "plain"


class Form:
    """A quicker form of a function for inputs like an example's."""

    def __init__(self, name: str, function: Function, example: tuple[Any, ...]) -> None:
        self.name = name
        self.example = example
        self._function = function

    def takes(self, inputs: tuple[Any, ...]) -> bool:
        """Whether the inputs have the example's shapes, as they may not after memory ran out."""
        held, given = tensors(self.example), tensors(inputs)
        return [(x.shape, x.dtype) for x in held] == [(x.shape, x.dtype) for x in given]

    def __call__(self, *inputs: Any) -> Any:
        return self._function(*inputs)


class Replay(Form):
    """A function captured as a CUDA graph.

    It reads the example's memory and writes the same results' at each call. Inputs that are these
    very tensors, such as another replay's results, are not copied.
    """

    def __init__(self, name: str, function: Function, example: tuple[Any, ...], place: "Place"):
        super().__init__(name, function, example)
        self._replay, self._results = captured(function, example, place)

    def __call__(self, *inputs: Any) -> Any:
        """Replays the graph on the current stream."""
        for held, given in zip(tensors(self.example), tensors(inputs), strict=True):
            if held is not given:
                held.copy_(given)
        self._replay()
        return self._results


@dataclass(frozen=True)
class Place:
    """Where graphs are captured: a device, their memory, and what nobody else may hold meanwhile.

    Graphs that share memory are replayed one after the other, and all that a later one reads of an
    earlier one are its results.
    """

    device: torch.device
    alone: AbstractContextManager[Any]
    recorder: GraphRecorder | None = None  # none on a CPU


def captured(
    function: Function, example: tuple[Any, ...], place: Place
) -> tuple[Callable[[], object], Any]:
    """A run of the function as a CUDA graph: what replays it, and the results that this writes."""
    assert place.recorder is not None
    return place.recorder(partial(function, *example), place.alone)


class Quickening:
    """Makes the steps of a model quicker in a thread of its own.

    `chain` calls `quicken` for each step, with the results of the one before.
    """

    def __init__(self, name: str, place: Place, chain: Callable[["Quickening"], None]) -> None:
        self._name, self._place, self._chain = name, place, chain
        self._made: list[tuple[Step, Form]] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"quicken {name}", daemon=True)
        self._thread.start()

    @property
    def under_way(self) -> bool:
        """Whether steps may yet become quicker."""
        return self._thread.is_alive()

    def settle(self) -> None:
        """Waits until the steps are as quick as they get."""
        self._thread.join()

    def stop(self) -> None:
        """Nothing more is made after what is under way."""
        self._stopped.set()

    def quicken(self, step: Step, *example: Any) -> Any:
        """Makes the step's quickest form that works here, and returns its results."""
        for name, make in self._forms(step, example):
            if self._stopped.is_set():
                raise Stopped
            try:
                form = make()
                results = _checked(form, step, example)
            except Exception as error:
                raise_if_broken(error)
                logger.warning("%s: no %s of %s: %s", self._name, name, step.name, _said(error))
                continue
            self._made.append((step, form))
            return results
        return step.plain(*example)

    def _forms(
        self, step: Step, example: tuple[Any, ...]
    ) -> Iterator[tuple[str, Callable[[], Form]]]:
        """The quicker forms, the best first."""
        compiled = torch.compile(_of_its_own_code(step.plain), dynamic=False, options=COMPILER)
        if self._place.device.type == "cuda":
            for name, function in (("compiled graph", compiled), ("graph", step.plain)):
                yield name, partial(Replay, name, function, example, self._place)
        yield "compiled form", partial(Form, "compiled form", compiled, example)

    def _run(self) -> None:
        began = time.monotonic()
        try:
            with (
                _compiling,
                _compiling_alone(),
                torch.inference_mode(),
                on(self._place.device),
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")  # torch advises TF32, which is not upstream's
                try:
                    self._chain(self)
                finally:
                    _end_compilers()
                self._adopt()
            if self._place.device.type == "cuda":
                give_memory_back()  # which the plain functions took, and graphs do without
        except Stopped:
            return
        except Exception as error:
            logger.warning("%s stays as slow as it is: %s", self._name, _said(error))
            return
        forms = ", ".join(f"{step.name}: {step.form}" for step, _ in self._made)
        logger.info(
            "%s became quicker after %.0f s: %s", self._name, time.monotonic() - began, forms
        )

    def _adopt(self) -> None:
        """All steps change at once, between two pictures."""
        with self._place.alone:
            if self._stopped.is_set():
                raise Stopped
            for step, form in self._made:
                step.quick = form


class Stopped(Exception):
    """The model is closed, so nobody needs it to be quicker."""


def place_on(device: torch.device, alone: AbstractContextManager[Any]) -> Place:
    """A place on the device, with memory of its own for graphs."""
    return Place(device, alone, GraphRecorder(device) if device.type == "cuda" else None)


def on(device: torch.device) -> AbstractContextManager[Any]:
    """Makes the device this thread's: Triton and captures do not look where the tensors are."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def tensors(of: Any) -> list[Tensor]:
    """The tensors in dataclasses and tuples, in order."""
    if isinstance(of, Tensor):
        return [of]
    inner = [getattr(of, field.name) for field in fields(of)] if is_dataclass(of) else of
    return [tensor for each in inner for tensor in tensors(each)]


def _checked(form: Form, step: Step, example: tuple[Any, ...]) -> Any:
    """The form's results; ValueError if the plain function's are others.

    Tensors among the inputs are turned round, so that a graph which does not read them is found.
    """
    inputs = tuple(each.flip(-2) if isinstance(each, Tensor) else each for each in example)
    theirs = tensors(step.plain(*inputs))
    half = any(each.dtype == torch.bfloat16 for each in theirs)
    results = form(*inputs)
    for index, (ours, their) in enumerate(zip(tensors(results), theirs, strict=True)):
        off = float((ours.float() - their.float()).norm() / their.float().norm().clamp(min=1e-6))
        if not off <= (MOST_OFF_IN_HALF if half else MOST_OFF):
            raise ValueError(f"result {index} is off by {off:.3f} of its size")
    return results


def _of_its_own_code(function: Function) -> Function:
    """The function with a code object that no other has.

    torch keeps what it compiled with the code object, a few variants at most: the ninth model that
    is loaded in a process would not be compiled.
    """

    def call(*inputs: Any) -> Any:
        return function(*inputs)

    return FunctionType(
        call.__code__.replace(), call.__globals__, call.__name__, None, call.__closure__
    )


@contextmanager
def _compiling_alone() -> Iterator[None]:
    """Lets one process of this machine compile at a time. The next finds most of it in the folder.

    Workers that share a GPU start together with the same model. Where no file can be written, each
    compiles for itself.
    """
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    with ExitStack() as held:
        with suppress(OSError):
            lock = held.enter_context(Path(cache_dir(), ".compiling").open("wb"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _end_compilers() -> None:
    """Ends the processes in which torch compiles. They would wait for more as long as this one."""
    with suppress(Exception):
        from torch._inductor.async_compile import shutdown_compile_workers

        shutdown_compile_workers()


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
