"""What a device or a library raises becomes an error that says whose fault it is."""

import os
from pathlib import Path

import pytest
import torch

from seg_pipeline.errors import (
    DeviceBroken,
    ModelError,
    ModelFailed,
    ModelOutOfMemory,
    SegPipelineError,
)
from seg_pipeline.segmenters.devices import (
    give_memory_back,
    has_bf16,
    keep_compiled_in,
    kernel_or_plain,
    loading_errors,
    raise_if_broken,
    running_errors,
)

pytestmark = pytest.mark.process

ILLEGAL = RuntimeError(
    "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be reported"
    " late"
)
BREAKING = [
    torch.AcceleratorError(f"CUDA error: {words}\nSearch for `cudaError` in CUDA's documentation")
    for words in (
        "an illegal memory access was encountered",
        "device-side assert triggered",
        "unspecified launch failure",
        "uncorrectable ECC error encountered",
        "misaligned address",
        "the launch timed out and was terminated",
        "CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`",
    )
] + [
    RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
    RuntimeError("CUDA driver error: an illegal memory access was encountered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
]
"""As torch and Triton word them; torch's class is a RuntimeError."""

PASSING = [
    torch.AcceleratorError("CUDA error: operation not permitted when stream is capturing"),
    torch.AcceleratorError("CUDA error: dependency created on uncaptured work in another stream"),
    torch.AcceleratorError("CUDA error: operation would result in a merge of separate captures"),
    torch.AcceleratorError("CUDA error: invalid configuration argument"),
    RuntimeError("Triton Error [CUDA]: device kernel image is invalid"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED"),
]

OUT_OF_MEMORY = RuntimeError("CUDA error: out of memory")


@pytest.mark.parametrize(
    "message",
    ["CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublas`"],
)
def test_want_of_memory_breaks_no_gpu(message: str) -> None:
    """A graph that does not fit is told so, and the worker that asked for it goes on without."""
    raise_if_broken(torch.AcceleratorError(message))


def test_a_kernel_that_breaks_the_gpu_is_not_replaced_in_silence() -> None:
    def check(_: object) -> None:
        raise ILLEGAL

    with pytest.raises(DeviceBroken):
        kernel_or_plain(torch.device("cuda"), object, check, object(), "made")


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), False), ((8, 0), True)])
def test_gpus_have_bf16_since_ampere(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: bool
) -> None:
    """Older ones do it in software, slower than float32."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert has_bf16("cuda:1") is expected


def test_a_gpu_that_takes_no_memory_back_keeps_nobody_from_unloading(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a capture that failed, or on one that is broken."""

    def refuse() -> None:
        raise ILLEGAL

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", refuse)
    give_memory_back()
    assert "the GPU takes no memory back: CUDA error: an illegal memory" in caplog.text


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (ILLEGAL, DeviceBroken),
        *((error, DeviceBroken) for error in BREAKING),
        *((error, ModelFailed) for error in PASSING),
        (OUT_OF_MEMORY, ModelOutOfMemory),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), ModelOutOfMemory),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
            ModelOutOfMemory,
        ),
        (MemoryError(), ModelOutOfMemory),
        (ValueError("shapes differ"), ModelFailed),
    ],
)
def test_what_a_model_raises_at_work_is_told_apart(
    raised: Exception, expected: type[SegPipelineError]
) -> None:
    with pytest.raises(SegPipelineError) as caught, running_errors("demo-yolo"):
        raise raised
    assert type(caught.value) is expected


@pytest.mark.parametrize(
    ("raised", "expected"),
    [(ILLEGAL, DeviceBroken), (OUT_OF_MEMORY, ModelOutOfMemory), (KeyError("model"), ModelError)],
)
def test_what_a_model_raises_while_it_loads_is_told_apart(
    raised: Exception, expected: type[SegPipelineError]
) -> None:
    """Weights that are wrong end a job for good; a GPU that is gone must not."""
    with (
        pytest.raises(SegPipelineError) as caught,
        loading_errors(Path("a.pt"), "YOLO-seg", "cuda"),
    ):
        raise raised
    assert type(caught.value) is expected
    assert caught.value.permanent is (
        expected is not DeviceBroken and expected is not ModelOutOfMemory
    )


def test_a_broken_device_is_one_sentence() -> None:
    with pytest.raises(DeviceBroken) as caught, running_errors("demo-yolo"):
        raise ILLEGAL
    assert (
        str(caught.value)
        == "this process can use the GPU no more: CUDA error: an illegal memory access was"
        " encountered"
    )


def test_what_is_compiled_is_kept_where_the_operator_has_room_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A minute's work, which the next process then has in seconds."""
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    (tmp_path / "file").write_text("in the way")
    keep_compiled_in(tmp_path / "file" / "compiled")
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ
    keep_compiled_in(tmp_path / "weights" / "compiled")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "weights" / "compiled")
    assert os.environ["TRITON_CACHE_DIR"] == str(tmp_path / "weights" / "compiled" / "triton")
    keep_compiled_in(tmp_path / "elsewhere")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "weights" / "compiled")


def test_what_is_an_error_of_ours_already_is_said_once() -> None:
    with pytest.raises(DeviceBroken) as caught, running_errors("demo-yolo"):
        raise_if_broken(ILLEGAL)
    assert str(caught.value).count("this process can use the GPU no more") == 1
