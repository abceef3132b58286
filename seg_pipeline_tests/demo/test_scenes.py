import numpy as np
import pytest

from seg_pipeline.demo.scenes import LABELS, SceneObject, make_scene
from seg_pipeline.demo.scoring import hole_of

pytestmark = pytest.mark.process

SEEDS = range(40)


def objects_of_label(label: str) -> list[SceneObject]:
    return [o for seed in SEEDS for o in make_scene(seed).objects if o.label == label]


def test_a_seed_always_makes_the_same_scene() -> None:
    """Weights, sample and measurements can only be made again if the scenes can."""
    first, second = make_scene(7), make_scene(7)
    assert np.array_equal(first.image, second.image)
    assert [o.label for o in first.objects] == [o.label for o in second.objects]
    assert all(
        np.array_equal(a.mask, b.mask) for a, b in zip(first.objects, second.objects, strict=True)
    )


def test_two_seeds_make_two_scenes() -> None:
    assert not np.array_equal(make_scene(1).image, make_scene(2).image)


def test_image_and_masks_have_the_size_asked_for() -> None:
    scene = make_scene(3, width=480, height=200)
    assert scene.image.shape == (200, 480, 3)
    assert scene.image.dtype == np.uint8
    assert all(o.mask.shape == (200, 480) and o.mask.dtype == bool for o in scene.objects)


def test_every_scene_has_one_to_six_objects_that_can_be_seen() -> None:
    for seed in SEEDS:
        objects = make_scene(seed, difficulty=1.0).objects
        assert 1 <= len(objects) <= 6
        assert all(o.mask.sum() > 500 for o in objects)


def test_no_pixel_belongs_to_two_objects() -> None:
    """A mask holds what can be seen: a pixel shows one object only, the one in front."""
    for seed in SEEDS:
        assert np.sum([o.mask for o in make_scene(seed, difficulty=1.0).objects], axis=0).max() == 1


def test_every_label_turns_up() -> None:
    assert {o.label for seed in SEEDS for o in make_scene(seed).objects} == set(LABELS)


def test_a_ring_has_a_hole() -> None:
    rings = objects_of_label("ring")
    whole = [o for o in rings if hole_of(o.mask).any()]
    assert len(whole) > 0.6 * len(rings), "only what lies in front of a ring may open its hole"
    assert all(hole_of(o.mask).sum() > 0.1 * o.mask.sum() for o in whole)


def test_nothing_but_a_ring_has_a_hole_unless_something_lies_on_it() -> None:
    for seed in SEEDS:
        scene = make_scene(seed)
        everything = np.any([o.mask for o in scene.objects], axis=0)
        for o in scene.objects:
            assert o.label == "ring" or not (hole_of(o.mask) & ~everything).any()


def test_an_object_can_be_told_from_what_is_around_it() -> None:
    """An object in the colour of its background would be no fair question to a model."""
    for seed in SEEDS:
        scene = make_scene(seed)
        nothing = ~np.any([o.mask for o in scene.objects], axis=0)
        background = np.median(scene.image[nothing], axis=0)
        for o in scene.objects:
            assert np.linalg.norm(np.median(scene.image[o.mask], axis=0) - background) > 40


def test_an_easy_scene_has_at_most_two_objects() -> None:
    assert max(len(make_scene(seed, difficulty=0.0).objects) for seed in SEEDS) == 2


def test_a_difficulty_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="it goes from 0 to 1"):
        make_scene(0, difficulty=1.5)
