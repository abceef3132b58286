"""How a picture is fitted into a YOLO network's input, and where its pixels then lie."""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from seg_pipeline.domain import RgbImage

PROTO_STRIDE = 4
"""Mask prototypes have a quarter of the network's input resolution."""

PADDING_GREY = 114

Positions = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Letterbox:
    """How a picture is fitted into the network's input: scaled to `inner_wh`, grey around.

    Its corner is at `left`, `top`. The geometry is that of ultralytics' `LetterBox(auto=True)`: the
    smallest rectangle of whole strides.
    """

    picture_wh: tuple[int, int]
    inner_wh: tuple[int, int]
    outer_wh: tuple[int, int]
    left: int
    top: int

    @classmethod
    def of(cls, picture_wh: tuple[int, int], size: int, stride: int) -> "Letterbox":
        """The letterbox whose longer inner side is `size`."""
        scale = size / max(picture_wh)
        inner_width, inner_height = (max(round(side * scale), 1) for side in picture_wh)
        pad_x, pad_y = (size - inner_width) % stride, (size - inner_height) % stride
        return cls(
            picture_wh,
            (inner_width, inner_height),
            (inner_width + pad_x, inner_height + pad_y),
            left=round(pad_x / 2 - 0.1),
            top=round(pad_y / 2 - 0.1),
        )

    @property
    def scale_xy(self) -> tuple[float, float]:
        """Input pixels for one pixel of the picture."""
        return self.inner_wh[0] / self.picture_wh[0], self.inner_wh[1] / self.picture_wh[1]

    def apply(self, image: RgbImage, outer: RgbImage | None = None) -> RgbImage:
        """The picture as the network sees it, `(outer height, outer width, 3) uint8`.

        It is written into `outer` if that is given.
        """
        width, height = self.inner_wh
        if outer is None:
            outer = np.empty((self.outer_wh[1], self.outer_wh[0], 3), dtype=np.uint8)
        inner = image if image.shape[:2] == (height, width) else cv2.resize(image, self.inner_wh)
        outer[:] = PADDING_GREY
        outer[self.top : self.top + height, self.left : self.left + width] = inner
        return outer

    def boxes_to_picture(self, xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes `(n, 4)` of the network's input in pixels of the picture, clipped to it."""
        corner = np.array([self.left, self.top] * 2, dtype=np.float32)
        scale = np.array(self.scale_xy * 2, dtype=np.float32)
        return np.clip((xyxy - corner) / scale, 0, np.array(self.picture_wh * 2, dtype=np.float32))

    def prototype_positions(
        self, columns: Positions, rows: Positions
    ) -> tuple[Positions, Positions]:
        """Where these positions of the picture lie on the grid of the prototypes.

        They stay within the centres of the outermost prototypes inside the picture. Those in the
        grey say that nothing is there, and would cut a rim off every object at the picture's edge.
        """
        return (
            self._along(columns, self.picture_wh[0], self.inner_wh[0], self.left),
            self._along(rows, self.picture_wh[1], self.inner_wh[1], self.top),
        )

    @staticmethod
    def _along(centres: Positions, picture_side: int, inner_side: int, start: int) -> Positions:
        inset = min(PROTO_STRIDE / 2, inner_side / 2)
        inside = np.clip(centres * inner_side / picture_side, inset, inner_side - inset)
        return (inside + start) / PROTO_STRIDE - 0.5
