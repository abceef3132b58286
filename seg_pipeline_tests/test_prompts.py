from typing import Any

import pytest

from seg_pipeline.domain import Job, check_parameters
from seg_pipeline.errors import Fault, InvalidParameter, InvalidPrompt, PromptOutside
from seg_pipeline.prompts import (
    MAX_POINTS,
    Prompt,
    check_inside,
    check_inside_either_way,
    has_prompts,
    prompts_of,
)
from seg_pipeline.store.serialization import read, write
from seg_pipeline_tests.builders import make_job


def checked(**parameters: Any) -> dict[str, Any]:
    return dict(check_parameters("demo-sam2", parameters))


def test_points_and_a_box_are_one_prompt_and_boxes_one_each() -> None:
    together = checked(points=[[3, 4.5, 1], [5, 6, 0]], box=[0, 0, 9, 8])
    assert prompts_of(together) == [Prompt(((3, 4.5, 1), (5, 6, 0)), (0, 0, 9, 8))]
    boxes = prompts_of(checked(boxes=[[0, 0, 1, 1], [2, 2, 4, 4]]))
    assert [(each.box, each.number) for each in boxes] == [((0, 0, 1, 1), 0), ((2, 2, 4, 4), 1)]
    assert prompts_of(checked(points_per_side=4)) == []


def test_a_point_without_a_label_is_on_the_object() -> None:
    assert checked(points=[[3, 4]])["points"] == ((3, 4, 1),)


def test_a_point_alone_may_mean_a_part_or_the_whole() -> None:
    assert Prompt(((1, 1, 1),)).is_ambiguous
    assert not Prompt(((1, 1, 1), (2, 2, 0))).is_ambiguous
    assert not Prompt(((1, 1, 1),), (0, 0, 4, 4)).is_ambiguous


@pytest.mark.parametrize(
    "parameters",
    [
        {"points": []},
        {"points": "1,2"},
        {"points": [[1, 2]] * (MAX_POINTS + 1)},
        {"points": [[1]]},
        {"points": [[1, 2, 3, 4]]},
        {"points": [[1, 2, 2]]},
        {"points": [[1, 2, True]]},
        {"points": [[1, 2, []]]},
        {"points": [[float("nan"), 2]]},
        {"points": [[float("inf"), 2]]},
        {"points": [[10**400, 2]]},
        {"points": [[-1, 2]]},
        {"points": [["1", 2]]},
        {"points": [[True, 2]]},
        {"points": [[1, 2, 0]]},
        {"box": [0, 0, 1]},
        {"box": [5, 0, 5, 9]},
        {"box": [0, 9, 5, 1]},
        {"box": None},
        {"boxes": []},
        {"boxes": [0, 0, 1, 1]},
        {"boxes": [[0, 0, 1, 1]], "box": [0, 0, 1, 1]},
        {"multimask": True},
        {"points": [[1, 2]], "multimask": "yes"},
        {"points": [[1, 2]], "points_per_side": 8},
    ],
    ids=str,
)
def test_what_is_no_prompt_is_refused_in_a_sentence(parameters: dict[str, Any]) -> None:
    with pytest.raises(InvalidPrompt) as error:
        checked(**parameters)
    assert error.value.code == "invalid_prompt"
    assert str(error.value).endswith(".")
    assert len(str(error.value)) < 300


def test_a_model_without_prompts_says_so() -> None:
    with pytest.raises(InvalidPrompt, match="demo-yolo takes no prompts"):
        check_parameters("demo-yolo", {"points": [[1, 2]]})


def test_an_unknown_parameter_beside_a_prompt_is_still_unknown() -> None:
    with pytest.raises(InvalidParameter, match="'colour' is unknown"):
        checked(points=[[1, 2]], colour=3)


def test_the_cutoff_of_masks_may_be_set_beside_a_prompt() -> None:
    assert checked(box=[0, 0, 5, 5], mask_threshold=1.5)["mask_threshold"] == 1.5


@pytest.mark.parametrize(
    ("parameters", "what"),
    [
        ({"points": [[10, 3]]}, r"point \(10, 3\)"),
        ({"points": [[1, 1], [3, 8, 0]]}, r"point \(3, 8\)"),
        ({"box": [0, 0, 10.5, 4]}, r"box \(0, 0, 10.5, 4\)"),
        ({"boxes": [[0, 0, 5, 5], [0, 0, 5, 9]]}, r"box \(0, 0, 5, 9\)"),
    ],
)
def test_a_prompt_outside_the_picture_is_the_clients_fault(
    parameters: dict[str, Any], what: str
) -> None:
    with pytest.raises(
        PromptOutside, match=f"{what} lies outside the picture, which is 10"
    ) as error:
        check_inside(checked(**parameters), (10, 8))
    assert error.value.fault is Fault.CLIENT
    assert error.value.permanent


def test_the_last_pixel_and_the_pictures_edge_are_inside() -> None:
    check_inside(checked(points=[[9.5, 7.5]], box=[0, 0, 10, 8]), (10, 8))


def test_before_it_is_turned_a_picture_may_have_either_size() -> None:
    upright = checked(points=[[2, 9]])
    check_inside_either_way(upright, (10, 8))
    with pytest.raises(PromptOutside, match="10 pixels wide and 8 high"):
        check_inside_either_way(checked(points=[[9, 9]]), (10, 8))


def test_a_stored_job_has_the_same_prompts() -> None:
    job = make_job(model="demo-sam2", parameters={"points": [[3, 4.5, 1]], "box": [0, 0, 9, 8]})
    again = read(Job, write(job))
    assert again == job
    assert b"[[3,4.5,1]]" in write(job)
    assert has_prompts(again.parameters)
    assert not has_prompts(make_job().parameters)
