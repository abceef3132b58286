"""Scores predicted masks against the true ones. All are (H, W) bool and share their shape."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np


class Score(NamedTuple):
    """True masks found, true masks missed, and predicted masks that meet no true one."""

    found: int
    missed: int
    false: int

    def plus(self, other: "Score") -> "Score":
        """The two scores added up, field by field."""
        return Score(self.found + other.found, self.missed + other.missed, self.false + other.false)

    @property
    def found_share(self) -> float:
        """The share of the true masks that was found; 1.0 if there were none."""
        return self.found / max(self.found + self.missed, 1) if self.found + self.missed else 1.0

    @property
    def false_share(self) -> float:
        """The share of the predicted masks that meet no true one; 0.0 if there were none."""
        return self.false / max(self.found + self.false, 1)


def mask_iou_matrix(predicted: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> np.ndarray:
    """Intersection over union of every pair, (predicted, truth) float64; 0 where both are empty."""
    if not len(predicted) or not len(truth):
        return np.zeros((len(predicted), len(truth)))
    ours, theirs = (
        np.reshape(masks, (len(masks), -1)).astype(np.float32) for masks in (predicted, truth)
    )
    shared = (ours @ theirs.T).astype(np.float64)
    union = ours.sum(1)[:, None] + theirs.sum(1)[None, :] - shared
    iou: np.ndarray = shared / np.maximum(union, 1.0)
    return iou


def match_masks(
    predicted: Sequence[np.ndarray], truth: Sequence[np.ndarray]
) -> list[tuple[int, int, float]]:
    """Pairs `(predicted index, true index, IoU)` that touch: the best first, no mask used twice."""
    iou = mask_iou_matrix(predicted, truth)
    pairs = []
    while iou.size and iou.max() > 0.0:
        ours, theirs = np.unravel_index(iou.argmax(), iou.shape)
        pairs.append((int(ours), int(theirs), float(iou[ours, theirs])))
        iou[ours, :] = iou[:, theirs] = 0.0
    return pairs


def score_scene(
    predicted: Sequence[np.ndarray], truth: Sequence[np.ndarray], iou_threshold: float = 0.75
) -> Score:
    """Counts the true masks that have a predicted mask of their own at the IoU threshold."""
    found = sum(iou >= iou_threshold for _, _, iou in match_masks(predicted, truth))
    return Score(found, len(truth) - found, len(predicted) - found)


def hole_of(mask: np.ndarray) -> np.ndarray:
    """Pixels (H, W) bool outside the mask that cannot be reached from the picture's border."""
    outside = np.pad(~mask, 1, constant_values=True).astype(np.uint8)
    cv2.floodFill(outside, None, (0, 0), 0)
    return outside[1:-1, 1:-1].astype(bool)
