"""Draws the segments on their picture, for people who look at a result.

OpenCV draws inside each mask's box. Sixty masks take a twentieth of the time of supervision's
annotators, which work on the whole picture for each, and the import takes a hundredth.
"""

from collections.abc import Sequence
from colorsys import hsv_to_rgb
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from seg_pipeline.domain import Mask, RgbImage, Segment
from seg_pipeline.imaging.images import encode_webp, scaled_size

MAX_SIDE = 1600
THUMBNAIL_SIDE = 480

Colour = tuple[int, int, int]

_TINT = 0.45
_GOLDEN_RATIO = 0.618034
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Overlay:
    """The picture with its segments as WEBP, and a small one for pages that show many."""

    picture: bytes
    thumbnail: bytes


def overlay(image: RgbImage, segments: Sequence[Segment]) -> Overlay:
    """Draws the segments; the picture has at most 1600 px on its longer side, the thumbnail 480.

    Each mask is tinted, outlined and named by its index and label; later ones lie on top. The same
    input gives the same bytes.
    """
    drawn = _drawn(image, segments)
    picture, thumbnail = Image.fromarray(drawn), Image.fromarray(_canvas(drawn, THUMBNAIL_SIDE))
    return Overlay(
        encode_webp(picture, quality=80, method=1), encode_webp(thumbnail, quality=75, method=1)
    )


def _drawn(image: RgbImage, segments: Sequence[Segment]) -> RgbImage:
    canvas = _canvas(image, MAX_SIDE)
    corners = [
        _draw(canvas, segment.mask, colour_of(index)) for index, segment in enumerate(segments)
    ]
    for index, (segment, corner) in enumerate(zip(segments, corners, strict=True)):
        _write(canvas, f"{index} {segment.label or ''}".rstrip(), corner, colour_of(index))
    return canvas


def colour_of(index: int) -> Colour:
    """A colour for each index, neighbours far apart on the colour wheel."""
    red, green, blue = hsv_to_rgb(index * _GOLDEN_RATIO % 1, 0.85, 1)
    return round(red * 255), round(green * 255), round(blue * 255)


def _canvas(image: RgbImage, max_side: int) -> RgbImage:
    """A copy, scaled down where its longer side is more than `max_side`."""
    import cv2

    height, width = image.shape[:2]
    if max(width, height) <= max_side:
        return image.copy()
    size = scaled_size((width, height), max_side)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _draw(canvas: RgbImage, mask: Mask, colour: Colour) -> tuple[int, int]:
    """Tints and outlines the mask on the canvas. Returns its box's corner there."""
    import cv2

    bits, (x, y) = _scaled_bits(mask, (canvas.shape[1], canvas.shape[0]))
    window = canvas[y : y + bits.shape[0], x : x + bits.shape[1]]
    tinted = cv2.addWeighted(window, 1 - _TINT, np.full_like(window, colour), _TINT, 0)
    np.copyto(window, tinted, where=bits.astype(np.bool_)[..., None])
    outlines, _ = cv2.findContours(bits, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(x, y))
    cv2.drawContours(canvas, outlines, -1, colour, 2, cv2.LINE_AA)
    return x, y


def _scaled_bits(
    mask: Mask, canvas_wh: tuple[int, int]
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """The mask's box as `(h, w) uint8` of 0 and 1 at the canvas's scale, and its corner."""
    import cv2

    scale_x, scale_y = canvas_wh[0] / mask.resolution_wh[0], canvas_wh[1] / mask.resolution_wh[1]
    x, y = int(mask.box.x * scale_x), int(mask.box.y * scale_y)
    right = max(x + 1, round((mask.box.x + mask.box.width) * scale_x))
    bottom = max(y + 1, round((mask.box.y + mask.box.height) * scale_y))
    bits = cv2.resize(
        mask.bits.view(np.uint8), (right - x, bottom - y), interpolation=cv2.INTER_NEAREST
    )
    return bits.astype(np.uint8, copy=False), (x, y)


def _write(canvas: RgbImage, text: str, corner: tuple[int, int], colour: Colour) -> None:
    """Writes the text in black or white on a plate of the colour, inside the canvas."""
    import cv2

    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.5
    (width, height), below = cv2.getTextSize(text, font, scale, 1)
    x = max(0, min(corner[0], canvas.shape[1] - width))
    y = max(height + below, min(corner[1], canvas.shape[0] - below))
    cv2.rectangle(canvas, (x, y - height - below), (x + width, y + below // 2), colour, cv2.FILLED)
    ink = (0, 0, 0) if np.dot(colour, _LUMA) > 110 else (255, 255, 255)
    cv2.putText(canvas, text, (x, y - below // 2), font, scale, ink, 1, cv2.LINE_AA)
