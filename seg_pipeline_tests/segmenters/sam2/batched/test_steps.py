import fcntl
import logging
import threading
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from seg_pipeline.segmenters.sam2.batched import steps
from seg_pipeline.segmenters.sam2.batched.steps import (
    Form,
    Place,
    Quickening,
    Step,
    place_on,
    tensors,
)

pytestmark = pytest.mark.process

CPU = torch.device("cpu")
X = torch.arange(6.0).reshape(3, 2)


@dataclass(frozen=True)
class Pair:
    """Two results, as the encoder has many."""

    one: Tensor
    both: tuple[Tensor, Tensor]


def double(x: Tensor) -> Pair:
    return Pair(2 * x, (x, x + 1))


def add_up(pair: Pair, x: Tensor) -> Tensor:
    return pair.one + pair.both[1] + x


def quicken(step: Step, *example: Any) -> Quickening:
    """Begins to make one step quicker."""
    return Quickening(
        "a model", place_on(CPU, threading.Lock()), lambda made: made.quicken(step, *example)
    )


def test_a_step_answers_as_it_is_until_a_quicker_form_is_there() -> None:
    step = Step("doubling", lambda x: 2 * x)
    assert step(X).tolist() == (2 * X).tolist()
    assert step.form == "plain"
    step.quick = Form("slow motion", lambda x: 3 * x, (X,))
    assert step(X).tolist() == (3 * X).tolist()
    assert step.form == "slow motion"


def test_a_quicker_form_is_for_inputs_like_its_example_alone() -> None:
    """After memory ran out batches are smaller, and nothing was compiled for these."""
    step = Step("doubling", lambda x: 2 * x)
    step.quick = Form("slow motion", lambda x: 3 * x, (X,))
    assert step(X[:2]).tolist() == (2 * X[:2]).tolist()
    assert step(X.double()).tolist() == (2 * X).tolist()


def test_steps_are_compiled_in_the_background_each_with_the_results_of_the_one_before() -> None:
    first, second = Step("doubling", double), Step("adding up", add_up)

    def chain(made: Quickening) -> None:
        made.quicken(second, made.quicken(first, X), X)

    quickening = Quickening("a model", place_on(CPU, threading.Lock()), chain)
    quickening.settle()
    assert not quickening.under_way
    assert (first.form, second.form) == ("compiled form", "compiled form")
    with torch.inference_mode():
        assert second(first(X), X).tolist() == add_up(double(X), X).tolist()


def test_what_cannot_be_compiled_stays_as_it_is_and_the_log_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_compiler(function: Any, **_: Any) -> Any:
        def fail(*_: Any) -> Any:
            raise RuntimeError("Failed to find C compiler.")

        return fail

    monkeypatch.setattr(torch, "compile", no_compiler)
    step = Step("doubling", double)
    with caplog.at_level(logging.WARNING):
        quicken(step, X).settle()
    assert step.form == "plain"
    assert step(X).one.tolist() == (2 * X).tolist()
    assert [record.getMessage() for record in caplog.records] == [
        "a model: no compiled form of doubling: RuntimeError: Failed to find C compiler."
    ]


def test_a_form_with_other_results_is_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as a graph that reads memory which something else writes."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: lambda x: 1.1 * function(x))
    step = Step("doubling", lambda x: 2 * x)
    quicken(step, X).settle()
    assert step.form == "plain"
    assert "result 0 is off by 0.100" in caplog.text


def test_a_form_that_always_gives_the_examples_results_is_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: lambda _: function(X))
    step = Step("doubling", lambda x: 2 * x)
    quicken(step, X).settle()
    assert step.form == "plain"
    assert "is off by" in caplog.text


def test_steps_change_while_nobody_uses_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a picture could begin with one form and end with another."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    step, in_use = Step("doubling", double), threading.Lock()
    checked = threading.Event()

    def chain(made: Quickening) -> None:
        made.quicken(step, X)
        checked.set()

    with in_use:
        quickening = Quickening("a model", Place(CPU, in_use), chain)
        assert checked.wait(60)
        assert step.form == "plain"
    quickening.settle()
    assert step.form == "compiled form"


def test_a_model_that_is_closed_meanwhile_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    step, go_on = Step("doubling", double), threading.Event()

    def chain(made: Quickening) -> None:
        go_on.wait(60)
        made.quicken(step, X)

    with caplog.at_level(logging.WARNING):
        quickening = Quickening("a model", place_on(CPU, threading.Lock()), chain)
        quickening.stop()
        go_on.set()
        quickening.settle()
    assert step.form == "plain"
    assert not caplog.records


def test_processes_that_share_a_folder_compile_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The second finds what the first has compiled, instead of taking its cores."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    step, began = Step("doubling", double), threading.Event()

    def chain(made: Quickening) -> None:
        began.set()
        made.quicken(step, X)

    with (tmp_path / ".compiling").open("wb") as other_process:
        fcntl.flock(other_process, fcntl.LOCK_EX)
        quickening = Quickening("a model", place_on(CPU, threading.Lock()), chain)
        assert not began.wait(0.2)
        assert quickening.under_way
    quickening.settle()
    assert step.form == "compiled form"


def test_a_replay_reads_and_writes_its_own_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another replay has written into the very memory that it reads is not copied."""
    written = torch.zeros(3, 2)
    example = (double(X.clone()), X.clone())

    def capture(function: Any, held: tuple[Any, ...], place: Place) -> tuple[Any, Tensor]:
        return (lambda: written.copy_(function(*held))), written

    monkeypatch.setattr(steps, "captured", capture)
    replay = steps.Replay("graph", add_up, example, Place(CPU, threading.Lock()))
    assert replay(example[0], 10 * X) is written
    assert written.tolist() == add_up(example[0], 10 * X).tolist()
    assert example[1].tolist() == (10 * X).tolist()
    assert replay(double(2 * X), X).tolist() == add_up(double(2 * X), X).tolist()


def test_the_memory_that_plain_functions_took_on_a_gpu_is_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Workers share the GPU, and torch would keep it for as long as the process lives."""

    def capture(function: Any, held: tuple[Any, ...], place: Place) -> tuple[Any, Tensor]:
        written = function(*held)
        return (lambda: written.copy_(function(*held))), written

    step, forms = Step("doubling", lambda x: 2 * x), []
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setattr(steps, "captured", capture)
    monkeypatch.setattr(steps, "on", lambda _: nullcontext())
    monkeypatch.setattr(steps, "give_memory_back", lambda: forms.append(step.form))
    place = Place(torch.device("cuda"), threading.Lock())
    Quickening("a model", place, lambda made: made.quicken(step, X.clone())).settle()
    assert forms == ["compiled graph"]


def test_each_function_has_a_code_object_of_its_own() -> None:
    """torch compiles one code object eight times and no more, however many models come and go."""
    one, other = steps._of_its_own_code(double), steps._of_its_own_code(double)
    assert one.__code__ is not other.__code__
    assert one(X).one.tolist() == (2 * X).tolist()


def test_tensors_are_found_in_dataclasses_and_tuples() -> None:
    pair = double(X)
    assert [id(each) for each in tensors((pair, X))] == [
        id(each) for each in (pair.one, *pair.both, X)
    ]
