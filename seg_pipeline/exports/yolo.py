"""A segmentation dataset of one picture, which ultralytics trains on and validates with."""

import json
from collections.abc import Iterator

import numpy as np

from seg_pipeline.exports.categories import UNLABELLED, class_names
from seg_pipeline.exports.pictures import ORIGINAL, Export, ExportedSegment
from seg_pipeline.exports.rings import at_least_three, mask_line, segment_outlines
from seg_pipeline.exports.zip_pieces import ZipEntry, zip_pieces

TOLERANCE = 1.0


def yolo_dataset(export: Export) -> Iterator[bytes]:
    """A ZIP of `data.yaml`, the picture, and its file of labels."""
    return zip_pieces(yolo_entries(export), export.picture.completed_at)


def yolo_entries(export: Export) -> Iterator[ZipEntry]:
    """The files of that ZIP."""
    picture = export.picture
    yield ZipEntry("data.yaml", [_data_yaml(class_names(picture.labels) or [UNLABELLED])])
    yield ZipEntry(f"labels/{picture.uuid}.txt", label_lines(export))
    yield ZipEntry(f"images/{picture.file_name}", export.files.stream(ORIGINAL), is_packed=True)


def label_lines(export: Export) -> Iterator[bytes]:
    """A line for each segment: its class and the points of one polygon, `x y` from 0 to 1.

    Points are the centres of pixels, so that ultralytics, which rounds down, draws the very pixels.
    Parts and holes hang on lines of one pixel's width, which are drawn as well.
    """
    numbers = {name: number for number, name in enumerate(class_names(export.picture.labels))}
    for segment in export.picture.segments:
        yield b"%d %s\n" % (numbers[segment.label], _points(export, segment))


def _points(export: Export, segment: ExportedSegment) -> bytes:
    tolerance = TOLERANCE if export.tolerance is None else export.tolerance
    line = at_least_three(mask_line(segment_outlines(export, segment), tolerance))
    shares = (line + 0.5) / np.array(export.picture.resolution_wh)
    return " ".join(f"{share:.7g}" for share in shares.ravel().tolist()).encode()


def _data_yaml(names: list[str]) -> bytes:
    """The description of the dataset; its folder is the one that the file is in."""
    listed = "".join(f"  {number}: {json.dumps(name)}\n" for number, name in enumerate(names))
    return f"train: images\nval: images\nnames:\n{listed}".encode()
