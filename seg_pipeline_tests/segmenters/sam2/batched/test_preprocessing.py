import numpy as np
import pytest
import torch

from seg_pipeline.domain import RgbImage
from seg_pipeline.segmenters.sam2.batched.preprocessing import network_input, upload

pytestmark = pytest.mark.process

CPU = torch.device("cpu")
SIDE = 64


def make_picture(width: int, height: int) -> RgbImage:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    "size_wh", [(64, 64), (200, 90), (31, 47), (1, 1), (1, 300), (3000, 2)], ids=str
)
def test_the_network_gets_what_upstreams_transform_gives_it(size_wh: tuple[int, int]) -> None:
    from sam2.utils.transforms import SAM2Transforms

    picture = make_picture(*size_wh)
    with pytest.warns((FutureWarning, DeprecationWarning), match="jit"):
        transform = SAM2Transforms(SIDE, mask_threshold=0.0)
    ours = network_input(picture, SIDE, CPU)
    assert ours.shape == (1, 3, SIDE, SIDE)
    torch.testing.assert_close(ours, transform(picture)[None], atol=1e-6, rtol=1e-6)


def test_a_part_of_a_picture_that_may_not_be_written_is_uploaded() -> None:
    """A crop has the strides of its picture, and a decoded picture may be read-only."""
    picture = make_picture(40, 30)
    picture.setflags(write=False)
    part = picture[5:20, 7:31]
    assert np.array_equal(upload(part, CPU).numpy(), part)


def test_what_is_uploaded_no_longer_belongs_to_the_caller() -> None:
    array = np.zeros(3, np.float32)
    there = upload(array, CPU)
    array[:] = 1
    assert there.tolist() == [0, 0, 0]
