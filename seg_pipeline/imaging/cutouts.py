"""Cuts one segment out of its picture: RGBA WEBP, tight, transparent outside the mask."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seg_pipeline.domain import BoolMask, Mask, RgbImage, check_resize
from seg_pipeline.imaging.images import WEBP_MAX_SIDE, encode_webp, large_ones_in_turn, scaled_size
from seg_pipeline.imaging.pixels import strips

_NEARBY = (31, 31)


def cut_out_size(mask: Mask, resize: int | None) -> tuple[int, int]:
    """Width and height of a segment's cut-out."""
    return scaled_size(
        (mask.box.width, mask.box.height), min(resize or max(mask.bits.shape), WEBP_MAX_SIDE)
    )


def cut_out(image: RgbImage, mask: Mask, resize: int | None = None) -> bytes:
    """The masked pixels as RGBA WEBP (colour lossy, alpha exact), as large as the mask's box.

    With `resize` the longer side becomes exactly that, upscaled if needed, aspect kept. Sides over
    16383 px, the format's limit, are scaled down to it.
    """
    if image.shape[1::-1] != mask.resolution_wh:
        raise ValueError(
            f"the mask is of a picture of {mask.resolution_wh}, not {image.shape[1::-1]}"
        )
    check_resize(resize)
    size = cut_out_size(mask, resize)
    with large_ones_in_turn(max(mask.bits.size, size[0] * size[1])):
        rgba = _rgba(image[mask.box.slices], mask.bits)
        if size != (mask.box.width, mask.box.height):
            # Not as RGBA: weighting by alpha makes Lanczos overshoot at the edge, a bright rim of
            # up to 20%.
            rgba = np.asarray(_picture(rgba, "RGBX").resize(size, Image.Resampling.LANCZOS))
        # A little better than an original, which keeps a flat colour flat to the edge. It still
        # takes fewer bytes than the defaults.
        return encode_webp(_picture(rgba, "RGBA"), quality=79)


def _picture(rgba: NDArray[np.uint8], mode: str) -> Image.Image:
    """The four channels as a Pillow image that shares their memory."""
    height, width = rgba.shape[:2]
    return Image.frombuffer(mode, (width, height), rgba, "raw", mode, 0, 1)


def _rgba(crop: RgbImage, bits: BoolMask) -> NDArray[np.uint8]:
    """Colours bled outward, and the mask as alpha, `(h, w, 4) uint8`.

    It works in strips, since the sums that bleeding needs take 28 bytes a pixel.
    """
    import cv2

    rgba = np.empty((*bits.shape, 4), dtype=np.uint8)
    inside = bits.view(np.uint8)
    mean = cv2.mean(crop, inside)[:3]
    for rows in strips(*bits.shape):
        around = slice(max(rows.start - _NEARBY[1] // 2, 0), rows.stop + _NEARBY[1] // 2)
        bled = _bleed_outward(crop[around], inside[around], mean)
        strip = rgba[rows]
        cv2.cvtColor(bled[rows.start - around.start :][: len(strip)], cv2.COLOR_RGB2RGBA, dst=strip)
        cv2.insertChannel(inside[rows] * np.uint8(255), strip, 3)
    return rgba


def _bleed_outward(crop: RgbImage, inside: NDArray[np.uint8], mean: Sequence[float]) -> RgbImage:
    """The crop, with the mean colour of nearby mask pixels outside the mask.

    Where no mask pixel is near, it is `mean`. Scaling and WEBP's blocks mix neighbouring pixels,
    and so cannot bring the background into the edge.
    """
    import cv2

    weight = np.maximum(cv2.boxFilter(inside, cv2.CV_32F, _NEARBY, normalize=False), 0.5)
    total = cv2.boxFilter(cv2.copyTo(crop, inside), cv2.CV_32F, _NEARBY, normalize=False)
    bled = cv2.divide(total, cv2.merge([weight] * 3), dtype=cv2.CV_8U)
    bled[weight < 1] = mean
    return cv2.copyTo(crop, inside, bled).astype(np.uint8, copy=False)
