"""What a model found is read back exactly as it was stored."""

import json
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from seg_pipeline.domain import Mask, Segment
from seg_pipeline.imaging.masks import decode_mask_png, encode_mask_png
from seg_pipeline.jobs.model_output import ModelOutput, StoredOutput
from seg_pipeline.store.serialization import read, write
from seg_pipeline_tests.builders import drawn, make_found, make_mask

SQUARE = "..../.##./.##./...."
RING = "####/#..#/#..#/####"

scores = st.none() | st.floats(0, 1)
found_masks = arrays(np.bool_, (9, 13)).map(Mask.from_full).filter(lambda mask: mask is not None)
found_segments = st.lists(
    st.builds(
        Segment,
        found_masks,
        st.none() | st.text(),
        scores,
        scores,
        scores,
    ),
    max_size=5,
)


@given(found_segments)
def test_masks_and_document_restore_what_was_found_exactly(segments: Sequence[Segment]) -> None:
    """The cut-outs can be made again on another machine from what is stored, scores and pixels
    alike."""
    found = ModelOutput("demo-yolo", "f" * 64, (13, 9), 0.25, segments)
    masks = [decode_mask_png(encode_mask_png(segment.mask), 1000) for segment in segments]
    restored = read(StoredOutput, write(StoredOutput.of(found))).with_masks(masks)
    assert (restored.model, restored.weights_sha256, restored.seconds) == (
        "demo-yolo",
        "f" * 64,
        0.25,
    )
    assert restored.resolution_wh == (13, 9)
    for before, after in zip(segments, restored.segments, strict=True):
        assert drawn(after.mask) == drawn(before.mask)
        assert (after.label, after.confidence) == (before.label, before.confidence)
        assert (after.predicted_iou, after.stability_score) == (
            before.predicted_iou,
            before.stability_score,
        )


def test_the_tree_and_names_of_named_masks_are_restored() -> None:
    outer = Segment(make_mask("####/####/####/####"), "dog", 0.9, name="dog 1")
    missing = Segment(make_mask("####/####/####/...."), parent=outer)
    inner = Segment(make_mask(SQUARE), name="eye 1", label="eye", parent=missing, prompt=2)
    found = make_found()
    found = ModelOutput(found.model, found.weights_sha256, (4, 4), 0.1, [outer, inner])
    stored = read(StoredOutput, write(StoredOutput.of(found)))
    assert [each.parent for each in stored.segments] == [None, 0], "the next one that is there"
    restored = stored.with_masks([outer.mask, inner.mask]).segments
    assert restored[1].parent is restored[0]
    assert [(each.name, each.prompt) for each in restored] == [("dog 1", None), ("eye 1", 2)]


def test_what_has_neither_names_nor_prompts_is_stored_as_before() -> None:
    document = json.loads(write(StoredOutput.of(make_found(SQUARE))))
    assert not {"name", "parent", "prompt"} & document["segments"][0].keys()


def test_a_parent_that_is_not_before_its_child_is_noticed() -> None:
    stored = StoredOutput.of(make_found(SQUARE, SQUARE))
    wrong = replace(stored, segments=(replace(stored.segments[0], parent=1), stored.segments[1]))
    with pytest.raises(ValueError, match="mask 0 is wrong: no larger segment has the place 1"):
        wrong.with_masks([make_mask(SQUARE), make_mask(SQUARE)])


def test_too_few_masks_are_noticed() -> None:
    stored = StoredOutput.of(make_found(SQUARE, RING))
    with pytest.raises(ValueError, match="2 segments, but there are 1"):
        stored.with_masks([make_mask(SQUARE)])


def test_masks_in_another_order_are_noticed() -> None:
    stored = StoredOutput.of(make_found(SQUARE, RING))
    with pytest.raises(ValueError, match="mask 0"):
        stored.with_masks([make_mask(RING), make_mask(SQUARE)])
