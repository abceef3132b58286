from collections.abc import Sequence

import pytest

from seg_pipeline.domain import Segment
from seg_pipeline.imaging.naming import Naming, name_masks
from seg_pipeline_tests.builders import drawn, make_mask

WHOLE = "######../######../######../######../......../........"
MOST = "#####.../#####.../#####.../#####.../......../........"
PART = "......../.##...../.##...../......../......../........"
OTHER = "......../......../......../......../......##/......##"


def mask(drawing: str, predicted_iou: float = 0.9) -> Segment:
    return Segment(make_mask(drawing), predicted_iou=predicted_iou, stability_score=0.95)


def detection(drawing: str, label: str, confidence: float = 0.8) -> Segment:
    return Segment(make_mask(drawing), label=label, confidence=confidence)


def names(segments: Sequence[Segment]) -> list[tuple[str | None, str | None, float | None]]:
    return [(each.name, each.label, each.confidence) for each in segments]


def parents(segments: Sequence[Segment]) -> list[int | None]:
    places = {id(each): place for place, each in enumerate(segments)}
    return [places[id(each.parent)] if each.parent else None for each in segments]


def test_masks_get_the_label_that_they_agree_with_and_keep_their_scores() -> None:
    found = name_masks(
        [mask(OTHER, 0.7), mask(WHOLE), mask(PART)], [detection(MOST, "dog", 0.6)], Naming()
    )
    assert names(found) == [("dog 1", "dog", 0.6), (None, None, None), (None, None, None)]
    assert [each.predicted_iou for each in found] == [0.9, 0.7, 0.9]
    assert drawn(found[0].mask) == WHOLE, "the mask is SAM-2's"


def test_the_threshold_decides_what_agrees() -> None:
    pair = [mask(WHOLE)], [detection(MOST, "dog")]  # an IoU of 20 / 24
    assert name_masks(*pair, Naming(label_iou=0.83))[0].name == "dog 1"
    assert name_masks(*pair, Naming(label_iou=0.84))[0].name is None


def test_of_several_detections_the_one_that_agrees_most_gives_the_label() -> None:
    detections = [detection(MOST, "dog"), detection(WHOLE, "wolf", 0.3)]
    assert names(name_masks([mask(WHOLE)], detections, Naming())) == [("wolf 1", "wolf", 0.3)]


def test_things_of_one_label_are_numbered_and_masks_of_one_thing_share_its_name() -> None:
    detections = [detection(OTHER, "dog"), detection(WHOLE, "dog")]
    found = name_masks([mask(OTHER), mask(MOST), mask(WHOLE)], detections, Naming())
    assert [each.name for each in found] == ["dog 1", "dog 1", "dog 2"]


def test_a_mask_lies_in_the_smallest_one_around_it() -> None:
    found = name_masks([mask(PART), mask(WHOLE), mask(MOST), mask(OTHER)], [], Naming())
    assert [drawn(each.mask) for each in found] == [WHOLE, MOST, PART, OTHER]
    assert parents(found) == [None, 0, 1, None]


def test_equal_masks_lie_in_the_one_before() -> None:
    assert parents(name_masks([mask(PART), mask(PART)], [], Naming())) == [None, 0]


def test_of_near_duplicates_the_surer_one_stays() -> None:
    both = [mask(WHOLE, 0.8), mask(MOST, 0.9)]
    (kept,) = name_masks(both, [], Naming(distinct=True))
    assert drawn(kept.mask) == MOST
    assert len(name_masks(both, [], Naming(distinct=True, duplicate_iou=0.9))) == 2


def test_of_the_copies_of_a_thing_the_one_that_agrees_most_stays() -> None:
    masks = [mask(WHOLE, 0.99), mask(MOST, 0.5), mask(PART)]
    naming = Naming(distinct=True, duplicate_iou=1)
    found = name_masks(masks, [detection(MOST, "dog")], naming)
    assert [(drawn(each.mask), each.name) for each in found] == [(MOST, "dog 1"), (PART, None)]
    assert parents(found) == [None, 0]


@pytest.mark.parametrize("distinct", [False, True])
def test_without_masks_there_is_nothing_to_name(distinct: bool) -> None:
    assert name_masks([], [detection(WHOLE, "dog")], Naming(distinct=distinct)) == []
