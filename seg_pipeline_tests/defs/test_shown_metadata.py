"""Links, pictures, tables and moments in the UI."""

from dataclasses import replace
from datetime import UTC, datetime

import dagster as dg
import pytest

from seg_pipeline.defs.shown_metadata import ROWS, segments_table, shown_metadata
from seg_pipeline.domain import Box
from seg_pipeline.jobs.records import Point, SegmentRecord
from seg_pipeline.store.object_store import ObjectStore

BASE = "https://segments.example"
FILES = ObjectStore.in_memory()
SEGMENT = SegmentRecord(
    segment_id=0,
    mask_key="assets/a/mask_images/mask_000.png",
    bbox=Box(1, 2, 30, 40),
    area=600,
    center_point=Point(16, 22),
    area_percent=12.3456,
    label="dog",
    confidence=0.87654,
    crop_key="assets/a/crops/b.webp",
)


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        (
            "overlay_key",
            "assets/a/overlay.webp",
            dg.MetadataValue.url(f"{BASE}/assets/a/overlay.webp"),
        ),
        ("answer_path", "/jobs/a", dg.MetadataValue.url(f"{BASE}/jobs/a")),
        ("seconds", 0.5, 0.5),
        (
            "expires_at",
            datetime(2026, 1, 2, tzinfo=UTC),
            dg.MetadataValue.timestamp(datetime(2026, 1, 2, tzinfo=UTC)),
        ),
    ],
)
def test_names_and_types_say_how_a_value_is_shown(name: str, value: object, shown: object) -> None:
    (found,) = shown_metadata({name: value}, FILES, BASE).values()
    assert found == shown


def test_a_row_names_the_segment_and_links_to_its_files() -> None:
    row = segments_table((SEGMENT,), FILES, BASE).splitlines()[2]
    assert row == (
        f"| 0 | dog | 0.877 | 600 (12.3%) | 1, 2, 30 x 40 | [mask]({BASE}/{SEGMENT.mask_key})"
        f" | [cut-out]({BASE}/{SEGMENT.crop_key}) |"
    )


def test_a_mask_of_everything_shows_its_predicted_iou() -> None:
    segment = replace(SEGMENT, label=None, confidence=None, predicted_iou=0.9)
    assert "| 0 |  | 0.900 |" in segments_table((segment,), FILES, BASE)


def test_a_label_cannot_write_markdown() -> None:
    segment = replace(SEGMENT, label="a|b](javascript:alert(1))")
    row = segments_table((segment,), FILES, BASE).splitlines()[2]
    assert "javascript:" not in row
    assert row.count("|") == 8


def test_many_segments_are_cut_and_the_rest_is_counted() -> None:
    table = segments_table((SEGMENT,) * (ROWS + 3), FILES, BASE)
    assert table.count("[mask]") == ROWS
    assert "3 smaller ones" in table
