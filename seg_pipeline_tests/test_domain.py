"""The nouns refuse what cannot be, so that nothing past them has to ask."""

import json
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from seg_pipeline.domain import (
    MAX_RESIZE,
    MAX_TTL_SECONDS,
    Box,
    Job,
    Mask,
    Segment,
    check_model,
    check_resize,
    check_ttl_seconds,
    check_uuid,
)
from seg_pipeline.errors import InvalidResize, InvalidTtl, InvalidUuid, UnknownModel
from seg_pipeline_tests.builders import NOON, bits, drawn, make_job, make_mask

full_frames = arrays(np.bool_, st.tuples(st.integers(1, 20), st.integers(1, 20)))


class TestUuid:
    @pytest.mark.parametrize("uuid", ["a", "abc123", "209d43982bc349299f45234071d1dd3d", "A-b_c", "0" * 64])
    def test_the_app_servers_uuids_need_not_be_rfc_4122s(self, uuid):
        assert check_uuid(uuid) == uuid

    @pytest.mark.parametrize(
        "uuid", ["", ".", "..", "a/b", "../x", "a\\b", "a.b", "-a", "_a", "a b", "a\n", "ä", "0" * 65, None, 7, "a\x00"]
    )
    def test_what_is_no_path_segment_is_refused(self, uuid):
        with pytest.raises(InvalidUuid):
            check_uuid(uuid)


class TestLimits:
    @pytest.mark.parametrize("resize", [None, 1, 256, MAX_RESIZE])
    def test_sizes_that_can_be(self, resize):
        assert check_resize(resize) == resize

    @pytest.mark.parametrize("resize", [0, -1, MAX_RESIZE + 1, 10**9])
    def test_sizes_that_cannot(self, resize):
        with pytest.raises(InvalidResize, match=str(MAX_RESIZE)):
            check_resize(resize)

    @pytest.mark.parametrize("ttl_seconds", [0, -5, MAX_TTL_SECONDS + 1])
    def test_times_that_cannot_be(self, ttl_seconds):
        with pytest.raises(InvalidTtl, match=str(MAX_TTL_SECONDS)):
            check_ttl_seconds(ttl_seconds)


class TestModel:
    @pytest.mark.parametrize(
        "model", ["yolov8x-seg", "yolo11n-seg", "sam2.1_hiera_large", "sam2_hiera_tiny", "demo-yolo", "demo-sam2"]
    )
    def test_published_and_demo_models_are_known(self, model):
        assert check_model(model) == model

    @pytest.mark.parametrize("model", ["", "yolov8x", "../../etc/passwd", "/models/mine.pt", "yolov8x-seg.pt", "demo"])
    def test_a_client_cannot_name_a_file(self, model):
        with pytest.raises(UnknownModel):
            check_model(model)

    def test_an_operator_can(self):
        assert check_model("/models/mine.pt", configured=("/models/mine.pt",)) == "/models/mine.pt"


class TestMask:
    @given(full_frames)
    def test_a_full_frame_comes_back_as_it_was(self, full):
        mask = Mask.from_full(full)
        if mask is None:
            assert not full.any()
            return
        assert np.array_equal(mask.full(), full)
        assert mask.area == np.count_nonzero(full)
        assert mask.resolution_wh == full.shape[::-1]

    def test_the_box_is_tight(self):
        assert make_mask("...../..##./...../.#.../.....").box == Box(1, 1, 3, 3)

    def test_a_loose_box_is_refused(self):
        """Masks are stored as pictures and read back with a tight box; both must be the same."""
        with pytest.raises(ValueError, match="not tight"):
            Mask((4, 4), Box(0, 0, 3, 2), bits(".##/.##"))

    def test_a_box_outside_the_picture_is_refused(self):
        with pytest.raises(ValueError, match="outside"):
            Mask((4, 4), Box(3, 3, 2, 2), bits("##/##"))

    @pytest.mark.parametrize("wrong", [bits("###/###"), bits("##/##").astype(np.uint8)])
    def test_bits_of_another_shape_or_kind_are_refused(self, wrong):
        with pytest.raises(ValueError, match="bits must be"):
            Mask((4, 4), Box(0, 0, 2, 2), wrong)

    def test_drawings_read_back(self):
        assert drawn(make_mask("..#/##.")) == "..#/##."


class TestBox:
    @pytest.mark.parametrize("sides", [(-1, 0, 1, 1), (0, -1, 1, 1), (0, 0, 0, 1), (0, 0, 1, 0)])
    def test_boxes_that_cannot_be(self, sides):
        with pytest.raises(ValueError, match="a box needs"):
            Box(*sides)


class TestSegment:
    @pytest.mark.parametrize("score", [float("nan"), float("inf"), np.float32(0.5), "0.5"])
    def test_a_score_that_json_cannot_hold_is_refused(self, score):
        with pytest.raises(ValueError, match="score"):
            Segment(make_mask(), confidence=score)


class TestJob:
    def test_it_survives_json(self):
        job = make_job(resize=256, ttl_seconds=60)
        assert Job.from_json(json.loads(json.dumps(job.to_json()))) == job

    def test_fields_of_newer_versions_are_ignored(self):
        assert Job.from_json({**make_job().to_json(), "colour": "red"}) == make_job()

    @pytest.mark.parametrize("asked", [{"source_sha256": None}, {"image_url": "http://h/a.png", "source_sha256": "ab"}])
    def test_it_is_an_upload_or_a_url(self, asked):
        with pytest.raises(ValueError, match="not both"):
            make_job(**asked)

    def test_the_same_picture_model_and_size_ask_the_same_whenever_they_came(self):
        assert make_job().asks_the_same_as(make_job(accepted_at=NOON + timedelta(hours=1)))
        assert not make_job().asks_the_same_as(make_job(resize=5))
        assert not make_job().asks_the_same_as(make_job(source_sha256="cd" * 32))

    def test_it_expires_its_ttl_after_it_finished(self):
        assert make_job(ttl_seconds=90).expires_at(NOON) == NOON + timedelta(seconds=90)
