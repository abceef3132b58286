"""What an export reads of an answer and of a job's files."""

import pytest

from seg_pipeline.errors import ObjectNotFound, StoreError
from seg_pipeline.exports import ExportedPicture
from seg_pipeline.imaging.masks import encode_mask_png
from seg_pipeline_tests.builders import make_mask
from seg_pipeline_tests.exports.exporting import MemoryFiles, blobs, export_of


def test_files_are_found_by_their_addresses_wherever_these_lead() -> None:
    """In a bucket, below a prefix, or signed."""
    answer = dict(export_of(*blobs(1)).picture.answer)
    (segment,) = answer["segments"]
    for base in ("https://s3.example/bucket/assets", "http://host/prefix/assets"):
        address = f"{base}/job-1/mask_images/mask_000.png?expires=1&signature=ab"
        answer["segments"] = [{**segment, "mask_url": address}]
        (read,) = ExportedPicture.of(answer).segments
        assert read.mask_name == "mask_images/mask_000.png"


def test_the_segments_of_a_model_are_ranked_by_the_score_it_gives() -> None:
    (yolo,) = export_of(*blobs(1), labels="disc").picture.segments
    (sam2,) = export_of(*blobs(1)).picture.segments
    assert (yolo.score, yolo.label, yolo.scores) == (0.75, "disc", {"confidence": 0.75})
    assert (sam2.score, sam2.label) == (0.875, "object")
    assert sam2.scores == {"predicted_iou": 0.875, "stability_score": 0.9375}


def test_a_mask_that_is_not_the_segments_is_a_fault_of_the_store() -> None:
    """A rerun may be writing others."""
    export = export_of(*blobs(1))
    assert isinstance(export.files, MemoryFiles)
    (segment,) = export.picture.segments
    for data in (b"no picture", encode_mask_png(make_mask())):
        export.files.files[segment.mask_name] = data
        with pytest.raises(StoreError, match=r"mask_images/mask_000\.png"):
            export.mask_rows(segment)
    export.files.files.clear()
    with pytest.raises(ObjectNotFound):
        export.mask_rows(segment)
