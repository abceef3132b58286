"""Grey PNGs that are written strip by strip."""

from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image

from seg_pipeline.imaging.grey_png import grey_png


@pytest.mark.parametrize("step", [1, 4, 19])
@pytest.mark.parametrize(("bits", "kind"), [(8, np.uint8), (16, np.uint16)])
def test_every_sample_comes_back(bits: int, kind: type[np.generic], step: int) -> None:
    pixels = np.random.default_rng(bits).integers(0, 2**bits, (19, 23)).astype(kind)
    strips = (pixels[first : first + step] for first in range(0, 19, step))
    png = b"".join(grey_png((23, 19), bits, strips))
    read = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    assert read is not None
    assert read.dtype == kind
    assert np.array_equal(read, pixels)
    assert np.array_equal(np.asarray(Image.open(BytesIO(png))), pixels)
