"""Polygons that say all that the mask says."""

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from seg_pipeline.domain import BoolMask
from seg_pipeline.exports import Export
from seg_pipeline_tests.exports.exporting import blobs, export_of, exported, mask_of

Geometry = list[list[list[list[float]]]]


def features(export: Export) -> list[dict[str, Any]]:
    document = json.loads(exported("polygons", export))
    assert document["type"] == "FeatureCollection"
    found: list[dict[str, Any]] = document["features"]
    return found


def inside(geometry: Geometry, shape: tuple[int, int]) -> BoolMask:
    """The pixels whose centres lie in the polygons, by the even-odd rule."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    odd = np.zeros(shape, dtype=np.bool_)
    for ring in (ring for part in geometry for ring in part):
        assert ring[0] == ring[-1]
        for (x0, y0), (x1, y1) in pairwise(ring):
            if y0 != y1:
                crosses = (min(y0, y1) <= y) & (y < max(y0, y1))
                odd ^= crosses & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    return odd


def test_rasterised_they_are_the_mask_to_the_pixel() -> None:
    export = export_of(*blobs(4))
    for index, feature in enumerate(features(export)):
        mask = mask_of(export, index)
        assert feature["id"] == index
        assert np.array_equal(inside(feature["geometry"]["coordinates"], mask.shape), mask)


def test_parts_and_holes_have_their_places() -> None:
    (feature,) = features(export_of("###.#/#.#.#/###.#"))
    assert feature["geometry"] == {
        "type": "MultiPolygon",
        "coordinates": [
            [
                [[0, 0], [3, 0], [3, 3], [0, 3], [0, 0]],
                [[1, 1], [1, 2], [2, 2], [2, 1], [1, 1]],
            ],
            [[[4, 0], [5, 0], [5, 3], [4, 3], [4, 0]]],
        ],
    }


@pytest.mark.parametrize("tolerance", [0.5, 1.0, 2.0])
def test_simplified_no_corner_is_farther_than_the_tolerance(tolerance: float) -> None:
    masks = blobs(3, 320, 240)
    exact = features(export_of(*masks))
    fewer = features(export_of(*masks, tolerance=tolerance))
    for one, other in zip(exact, fewer, strict=True):
        rings = [ring for part in one["geometry"]["coordinates"] for ring in part]
        lines = [ring for part in other["geometry"]["coordinates"] for ring in part]
        assert sum(map(len, lines)) < sum(map(len, rings))
        for ring, line in zip(rings, lines, strict=True):
            assert farthest(np.array(ring, float), np.array(line, float)) <= tolerance + 1e-6


def farthest(points: np.ndarray, line: np.ndarray) -> float:
    """The greatest distance of a point from a line of segments."""
    start, step = line[:-1], np.diff(line, axis=0)
    along = ((points[:, None] - start) * step).sum(axis=2) / (step**2).sum(axis=1)
    nearest = start + np.clip(along, 0, 1)[..., None] * step
    return float(np.hypot(*(points[:, None] - nearest).transpose(2, 0, 1)).min(axis=1).max())


def test_label_and_scores_are_properties() -> None:
    (feature,) = features(export_of("##/##", labels="disc"))
    assert feature["properties"] == {"label": "disc", "area": 4, "confidence": 0.75}


def test_a_long_ring_is_written_in_pieces_that_make_one() -> None:
    """More than ten thousand points, of which a whole would take a hundred bytes each."""
    comb = np.zeros((4, 12_001), dtype=np.bool_)
    comb[0], comb[:, ::2] = True, True
    (feature,) = features(export_of(comb))
    ((ring,),) = feature["geometry"]["coordinates"]
    assert len(ring) > 20_000
    assert ring[0] == ring[-1]


def test_a_picture_without_segments_has_no_features() -> None:
    assert features(export_of()) == []
