"""A hundred megapixels stay within the memory that the README promises, all but the model's."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

WORK = """
    from io import BytesIO
    from pathlib import Path
    import numpy as np
    from PIL import Image
    from seg_pipeline.imaging.cutouts import cut_out
    from seg_pipeline.domain import Box, Mask, Segment
    from seg_pipeline.imaging.images import decode
    from seg_pipeline.imaging.masks import (
        contains, decode_mask_png, encode_mask_png, interior_point, mask_to_rle
    )
    from seg_pipeline.imaging.overlays import overlay

    def peak_mb():  # not getrusage's, which begins with that of the process that started this one
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))

    buffer = BytesIO()
    Image.new("L", (12_000, 8_400), 100).save(buffer, "JPEG")
    picture = decode(buffer.getvalue(), 110_000_000)
    assert picture.shape == (8_400, 12_000, 3)
    print("decode", peak_mb())
    bits = np.ones((8_400, 12_000), np.bool_)
    bits[3_000:5_400, 4_000:8_000] = False
    ring = Mask((12_000, 8_400), Box(0, 0, 12_000, 8_400), bits)
    assert np.array_equal(decode_mask_png(encode_mask_png(ring), 110_000_000).bits, bits)
    assert contains(ring, interior_point(ring))
    mask_to_rle(ring)
    overlay(picture, [Segment(ring)])
    print("masks", peak_mb())
    cut_out(picture, ring, 1_000)
    print("cut-out", peak_mb())
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="only Linux tells a process its peak this way"
)
def test_a_hundred_megapixels_are_handled_without_many_copies() -> None:
    """The picture is 302 MB, a mask that fills it 101 MB; done all at once, cutting that out took
    three gigabytes."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(WORK)],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    peaks = {
        name: float(megabytes)
        for name, megabytes in (line.split() for line in done.stdout.splitlines())
    }
    assert peaks["decode"] < 950, peaks
    assert peaks["masks"] < 950, peaks
    assert peaks["cut-out"] < 1200, peaks
