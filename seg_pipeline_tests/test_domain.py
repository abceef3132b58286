"""The nouns refuse what cannot be, so that nothing past them has to ask."""

import json
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from seg_pipeline.domain import (
    MAX_RESIZE,
    MAX_TTL_SECONDS,
    SAM2_PARAMETERS,
    YOLO_PARAMETERS,
    BoolMask,
    Box,
    Job,
    Mask,
    Segment,
    check_model,
    check_parameters,
    check_resize,
    check_ttl_seconds,
    check_uuid,
    parameters_of,
    parts_of,
    shown_model,
)
from seg_pipeline.errors import (
    InvalidParameter,
    InvalidPrompt,
    InvalidResize,
    InvalidTtl,
    InvalidUuid,
    UnknownModel,
)
from seg_pipeline.store.serialization import read, to_document, write
from seg_pipeline_tests.builders import NOON, bits, drawn, make_job, make_mask

full_frames = arrays(np.bool_, st.tuples(st.integers(1, 20), st.integers(1, 20)))


class TestUuid:
    @pytest.mark.parametrize(
        "uuid", ["a", "abc123", "209d43982bc349299f45234071d1dd3d", "A-b_c", "0" * 64]
    )
    def test_the_app_servers_uuids_need_not_be_rfc_4122s(self, uuid: str) -> None:
        assert check_uuid(uuid) == uuid

    @pytest.mark.parametrize(
        "uuid",
        [
            "",
            ".",
            "..",
            "a/b",
            "../x",
            "a\\b",
            "a.b",
            "-a",
            "_a",
            "a b",
            "a\n",
            "ä",
            "0" * 65,
            None,
            7,
            "a\x00",
        ],
    )
    def test_what_is_no_path_segment_is_refused(self, uuid: Any) -> None:
        with pytest.raises(InvalidUuid):
            check_uuid(uuid)


class TestLimits:
    @pytest.mark.parametrize("resize", [None, 1, 256, MAX_RESIZE])
    def test_sizes_that_can_be(self, resize: int | None) -> None:
        assert check_resize(resize) == resize

    @pytest.mark.parametrize("resize", [0, -1, MAX_RESIZE + 1, 10**9])
    def test_sizes_that_cannot(self, resize: int) -> None:
        with pytest.raises(InvalidResize, match=str(MAX_RESIZE)):
            check_resize(resize)

    @pytest.mark.parametrize("ttl_seconds", [0, -5, MAX_TTL_SECONDS + 1])
    def test_times_that_cannot_be(self, ttl_seconds: int) -> None:
        with pytest.raises(InvalidTtl, match=str(MAX_TTL_SECONDS)):
            check_ttl_seconds(ttl_seconds)


class TestModel:
    @pytest.mark.parametrize("model", ["yolov8x-seg", "demo-yolo", "demo-sam2", "/models/mine.pt"])
    def test_what_the_operator_offers_and_demo_models_can_be_had(self, model: str) -> None:
        assert check_model(model, ("yolov8x-seg", "/models/mine.pt")) == model

    @pytest.mark.parametrize(
        "model", ["", "yolov8n-seg", "../../etc/passwd", "/models/yours.pt", "mine.pt", "demo"]
    )
    def test_nothing_else_can_and_the_refusal_names_no_file_of_the_server(self, model: str) -> None:
        with pytest.raises(
            UnknownModel, match="name yolov8x-seg, demo-yolo, demo-sam2, or leave it out"
        ) as refusal:
            check_model(model, ("yolov8x-seg", "/models/mine.pt"))
        assert "/models/mine.pt" not in str(refusal.value)


UPSTREAMS_RICHEST = {  # of its automatic mask generator's notebook
    "points_per_side": 64,
    "points_per_batch": 128,
    "pred_iou_thresh": 0.7,
    "stability_score_thresh": 0.92,
    "stability_score_offset": 0.7,
    "crop_n_layers": 1,
    "box_nms_thresh": 0.7,
    "crop_n_points_downscale_factor": 2,
    "min_mask_region_area": 25.0,
    "use_m2m": True,
}


class TestParameters:
    def test_upstreams_richest_example_is_within_the_limits(self) -> None:
        checked = check_parameters("sam2.1_hiera_large", UPSTREAMS_RICHEST)
        assert checked == {**UPSTREAMS_RICHEST, "min_mask_region_area": 25, "use_m2m": 1}
        assert {type(number) for number in checked.values()} == {int, float}

    @pytest.mark.parametrize("model", ["yolov8x-seg", "demo-yolo", "/models/mine.pt"])
    def test_yolo_has_its_confidence(self, model: str) -> None:
        assert check_parameters(model, {"confidence": 0.5}) == {"confidence": 0.5}

    @pytest.mark.parametrize(
        "value", ["8", True, None, 0, 65, 8.5, float("nan"), float("inf"), 10**400, [8], {}]
    )
    def test_a_value_that_cannot_be_is_named_with_its_limits(self, value: object) -> None:
        with pytest.raises(
            InvalidParameter, match=r"points_per_side .* must be a whole number from 1 to 64\."
        ):
            check_parameters("demo-sam2", {"points_per_side": value})

    @pytest.mark.parametrize("value", [2, -1, "true", 1.0, None])
    def test_a_switch_is_true_or_false(self, value: object) -> None:
        with pytest.raises(InvalidParameter, match=r"use_m2m .* must be true or false\."):
            check_parameters("demo-sam2", {"use_m2m": value})

    @pytest.mark.parametrize("model", ["demo-sam2", "sam2_hiera_tiny", "demo-yolo", "yolo11n-seg"])
    def test_a_name_of_no_or_the_other_family_is_refused_with_those_that_exist(
        self, model: str
    ) -> None:
        mine, other = SAM2_PARAMETERS, YOLO_PARAMETERS
        if "yolo" in model:
            mine, other = other, mine
        for name in (*other, "pointers", ""):
            with pytest.raises(
                InvalidParameter, match=f"unknown to {model}, which has {', '.join(mine)}"
            ):
                check_parameters(model, {name: 0.5})

    @pytest.mark.parametrize(
        "greedy",
        [
            {"points_per_side": 64, "crop_n_layers": 1},
            {"crop_n_layers": 2},
            {**UPSTREAMS_RICHEST, "points_per_side": 64, "crop_n_layers": 2},
        ],
    )
    def test_what_is_modest_alone_may_be_too_much_together(self, greedy: dict[str, object]) -> None:
        """Every layer of crops has four times as many as the one before: 86,000 prompts take a
        worker long."""
        with pytest.raises(InvalidParameter, match="prompts, more than 8192"):
            check_parameters("demo-sam2", greedy)

    def test_crops_without_a_point_are_refused(self) -> None:
        """Upstream divides by the points of a side."""
        thin = {"points_per_side": 8, "crop_n_layers": 2, "crop_n_points_downscale_factor": 4}
        with pytest.raises(InvalidParameter, match="leaves no point"):
            check_parameters("demo-sam2", thin)
        assert check_parameters("demo-sam2", thin | {"points_per_side": 16})


class TestMask:
    @given(full_frames)
    def test_a_full_frame_comes_back_as_it_was(self, full: BoolMask) -> None:
        mask = Mask.from_full(full)
        if mask is None:
            assert not full.any()
            return
        assert np.array_equal(mask.full(), full)
        assert mask.area == np.count_nonzero(full)
        assert mask.resolution_wh == full.shape[::-1]

    def test_the_box_is_tight(self) -> None:
        assert make_mask("...../..##./...../.#.../.....").box == Box(1, 1, 3, 3)

    def test_a_loose_box_is_refused(self) -> None:
        """Masks are stored as pictures and read back with a tight box; both must be the same."""
        with pytest.raises(ValueError, match="not tight"):
            Mask((4, 4), Box(0, 0, 3, 2), bits(".##/.##"))

    def test_a_box_outside_the_picture_is_refused(self) -> None:
        with pytest.raises(ValueError, match="outside"):
            Mask((4, 4), Box(3, 3, 2, 2), bits("##/##"))

    @pytest.mark.parametrize("wrong", [bits("###/###"), bits("##/##").astype(np.uint8)])
    def test_bits_of_another_shape_or_kind_are_refused(self, wrong: Any) -> None:
        with pytest.raises(ValueError, match="bits must be"):
            Mask((4, 4), Box(0, 0, 2, 2), wrong)

    def test_drawings_read_back(self) -> None:
        assert drawn(make_mask("..#/##.")) == "..#/##."


class TestBox:
    @pytest.mark.parametrize("sides", [(-1, 0, 1, 1), (0, -1, 1, 1), (0, 0, 0, 1), (0, 0, 1, 0)])
    def test_boxes_that_cannot_be(self, sides: tuple[int, int, int, int]) -> None:
        with pytest.raises(ValueError, match="a box needs"):
            Box(*sides)


class TestSegment:
    @pytest.mark.parametrize("score", [float("nan"), float("inf"), np.float32(0.5), "0.5"])
    def test_a_score_that_json_cannot_hold_is_refused(self, score: Any) -> None:
        with pytest.raises(ValueError, match="score"):
            Segment(make_mask(), confidence=score)


class TestJob:
    def test_it_survives_json(self) -> None:
        job = make_job(resize=256, ttl_seconds=60)
        assert read(Job, write(job)) == job

    def test_parameters_survive_json_too(self) -> None:
        job = make_job(
            model="demo-sam2", parameters={"points_per_side": 8, "use_m2m": True}, rle=True
        )
        again = read(Job, write(job))
        assert again == job
        assert (again.parameters, again.rle) == ({"points_per_side": 8, "use_m2m": 1}, True)

    def test_a_request_of_an_older_version_asks_for_nothing_special(self) -> None:
        document = to_document(make_job())
        del document["parameters"], document["rle"]
        assert read(Job, json.dumps(document).encode()) == make_job()

    def test_it_holds_no_parameter_that_its_model_has_not(self) -> None:
        with pytest.raises(InvalidParameter):
            make_job(model="demo-yolo", parameters={"points_per_side": 8})

    def test_fields_of_newer_versions_are_ignored(self) -> None:
        assert (
            read(Job, json.dumps({**to_document(make_job()), "colour": "red"}).encode())
            == make_job()
        )

    @pytest.mark.parametrize(
        "asked", [{"source_sha256": None}, {"image_url": "http://h/a.png", "source_sha256": "ab"}]
    )
    def test_it_is_an_upload_or_a_url(self, asked: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="not both"):
            make_job(**asked)

    def test_the_same_picture_model_and_size_ask_the_same_whenever_they_came(self) -> None:
        assert make_job().asks_the_same_as(make_job(accepted_at=NOON + timedelta(hours=1)))
        assert not make_job().asks_the_same_as(make_job(resize=5))
        assert not make_job().asks_the_same_as(make_job(parameters={"confidence": 0.5}))
        assert not make_job().asks_the_same_as(make_job(rle=True))
        assert not make_job().asks_the_same_as(make_job(source_sha256="cd" * 32))

    def test_it_expires_its_ttl_after_it_finished(self) -> None:
        assert make_job(ttl_seconds=90).expires_at(NOON) == NOON + timedelta(seconds=90)


class TestNamedMasks:
    OFFERED = ("yolov8n-seg", "sam2.1_hiera_tiny", "/srv/best.pt")

    def test_a_sam2_and_a_yolo_that_are_offered_may_be_named_together(self) -> None:
        for model in ("sam2.1_hiera_tiny+yolov8n-seg", "demo-sam2+demo-yolo"):
            assert check_model(model, self.OFFERED) == model
        for model in ("sam2.1_hiera_large+demo-yolo", "demo-yolo+demo-sam2", "demo-sam2+", "a+b"):
            with pytest.raises(UnknownModel):
                check_model(model, self.OFFERED)

    @pytest.mark.parametrize(
        "model", ["demo-sam2+demo-sam2", "demo-sam2 demo-sam2", "sam2+sam2", "demo-sam2+sam2"]
    )
    def test_two_sam2s_are_no_model(self, model: str) -> None:
        """The worker waited for ever for the model that it had borrowed, and so did all jobs."""
        with pytest.raises(UnknownModel):
            check_model(model, self.OFFERED)
        assert len(parts_of(model)) == 1

    def test_the_short_name_stands_for_the_first_of_each_that_is_offered(self) -> None:
        assert check_model("sam2+yolo", self.OFFERED) == "sam2.1_hiera_tiny+yolov8n-seg"
        assert check_model("sam2+yolo") == "demo-sam2+demo-yolo"

    def test_a_space_that_a_query_made_of_the_plus_is_read_as_it(self) -> None:
        assert check_model("demo-sam2 demo-yolo") == "demo-sam2+demo-yolo"
        assert check_model("sam2 yolo") == "demo-sam2+demo-yolo"

    def test_of_a_path_clients_see_the_last_part(self) -> None:
        assert shown_model("demo-sam2+/srv/best.pt") == "demo-sam2+best.pt"

    def test_it_has_the_parameters_of_both_and_its_own(self) -> None:
        known = parameters_of("demo-sam2+demo-yolo")
        assert {"points_per_side", "confidence", "label_iou", "distinct"} <= known.keys()
        asked = {"points_per_side": 8, "confidence": 0.5, "distinct": True}
        assert check_parameters("demo-sam2+demo-yolo", asked) == {**asked, "distinct": 1}
        with pytest.raises(InvalidPrompt, match="takes no prompts"):
            check_parameters("demo-sam2+demo-yolo", {"points": [[1, 1]]})
