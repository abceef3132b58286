"""What a device or a library raises becomes an error that says whose fault it is."""

from pathlib import Path

import pytest

from seg_pipeline.errors import (
    DeviceBroken,
    ModelError,
    ModelFailed,
    ModelOutOfMemory,
    SegPipelineError,
)
from seg_pipeline.segmenters.devices import loading_errors, running_errors

pytestmark = pytest.mark.process

ILLEGAL = RuntimeError(
    "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be reported"
    " late"
)
OUT_OF_MEMORY = RuntimeError("CUDA error: out of memory")


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (ILLEGAL, DeviceBroken),
        (RuntimeError("CUDA error: device-side assert triggered"), DeviceBroken),
        (OUT_OF_MEMORY, ModelOutOfMemory),
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
