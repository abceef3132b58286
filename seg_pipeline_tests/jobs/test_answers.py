"""What goes out is what docs/job-result.schema.json promises."""

import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, ValidationError
from pycocotools import mask as coco

from seg_pipeline.domain import Job, JobStatus, Parameters, Segment
from seg_pipeline.errors import NotAnImage, SegPipelineError, WorkerLost
from seg_pipeline.jobs.answers import callback, finished_job, unfinished_job
from seg_pipeline.jobs.file_links import FileLinks
from seg_pipeline.jobs.model_output import ModelOutput
from seg_pipeline.jobs.records import Result, completed_result, failed_result
from seg_pipeline.store import Store
from seg_pipeline.store.folder_store import FolderStore
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline.store.serialization import read, to_document, write
from seg_pipeline_tests.builders import (
    NOON,
    bits,
    make_found,
    make_job,
    make_mask,
    make_segment,
    make_timing,
)
from seg_pipeline_tests.jobs.test_model_output import found_segments

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "job-result.schema.json").read_text())

VALIDATORS = {
    "any": Draft202012Validator(SCHEMA),
    **{
        kind: Draft202012Validator({**SCHEMA, "anyOf": [{"$ref": f"#/$defs/{kind}"}]})
        for kind in ("answer", "callback")
    },
}

Document = dict[str, Any]

SQUARE = "..../.##./.##./...."
RING = "####/#..#/#..#/####"
BASE_URL = "http://api.example"

REPLACED_FIELDS = [
    "segment_id",
    "mask_url",
    "bbox",
    "area",
    "stability_score",
    "predicted_iou",
    "center_point",
]


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Addresses differ by where the files are."""
    if request.param == "folder":
        return FolderStore(tmp_path / "assets", tmp_path / "state")
    return ObjectStore.in_memory()


def over_the_wire(document: Document) -> Any:
    """As a client reads it: strict JSON, so that neither NaN nor a numpy number slips through."""
    return json.loads(json.dumps(document, allow_nan=False))


def check(document: Document, kind: str) -> None:
    """Holds the document against one definition of the schema, and against the whole."""
    for validator in (VALIDATORS[kind], VALIDATORS["any"]):
        validator.validate(over_the_wire(document))


def answer_document(result: Result, links: FileLinks, base_url: str) -> Document:
    return to_document(finished_job(result, links, base_url))


def callback_document(result: Result, links: FileLinks, base_url: str) -> Document:
    return to_document(callback(result, links, base_url))


def unfinished_document(job: Job, status: JobStatus) -> Document:
    return to_document(unfinished_job(job, status))


def stored(result: Result) -> Result:
    """As it is read back."""
    return read(Result, write(result))


def completed(*drawings: str, **job: Any) -> Result:
    return completed_result(make_job(**job), make_found(*drawings), make_timing(segments=0.5))


class TestCompleted:
    def test_files_are_the_original_then_the_cut_outs_in_the_segments_order(
        self, store: Store
    ) -> None:
        answer = answer_document(completed(RING, SQUARE), store, BASE_URL)
        assert [name.rsplit("/", 1)[1] for name in answer["file_names"][:1]] == ["original.webp"]
        assert answer["urls"][1:] == [segment["crop_url"] for segment in answer["segments"]]
        assert len(answer["file_names"]) == 3

    def test_addresses_are_those_of_the_store(self, tmp_path: Path) -> None:
        answer = answer_document(
            completed(SQUARE), FolderStore(tmp_path / "a", tmp_path / "s"), BASE_URL
        )
        assert answer["file_names"][0] == "job-1/original.webp"
        assert answer["urls"][0] == f"{BASE_URL}/assets/job-1/original.webp"
        assert (
            answer["segments"][0]["mask_url"] == f"{BASE_URL}/assets/job-1/mask_images/mask_000.png"
        )
        assert answer["overlay_url"] == f"{BASE_URL}/assets/job-1/overlay.webp"

    def test_a_segment_has_the_seeds_fields_first_and_as_they_were(self, store: Store) -> None:
        segment = make_segment(SQUARE, predicted_iou=0.88, stability_score=0.92)
        result = completed_result(make_job(), make_found(segments=[segment]), make_timing())
        (public,) = answer_document(result, store, BASE_URL)["segments"]
        assert list(public)[: len(REPLACED_FIELDS)] == REPLACED_FIELDS
        assert public["segment_id"] == 0
        assert public["bbox"] == {"x": 1, "y": 1, "width": 2, "height": 2}
        assert (public["area"], public["area_percent"]) == (4, 25.0)
        assert (public["predicted_iou"], public["stability_score"]) == (0.88, 0.92)
        assert public["center_point"] == {"x": 2, "y": 2}

    def test_scores_that_the_model_does_not_give_are_null(self, store: Store) -> None:
        (public,) = answer_document(completed(SQUARE), store, BASE_URL)["segments"]
        assert (public["label"], public["confidence"]) == ("disc", 0.75)
        assert public["predicted_iou"] is public["stability_score"] is None

    def test_a_point_in_the_mask_is_given_where_the_centre_is_outside_it(self) -> None:
        ring, square = completed(RING, SQUARE).segments
        assert square.interior_point is None
        point = ring.interior_point
        assert point is not None
        assert make_mask(RING).full()[point.y, point.x]

    def test_every_segment_has_its_own_files(self) -> None:
        result = completed(RING, SQUARE, SQUARE)
        assert [segment.segment_id for segment in result.segments] == [0, 1, 2]
        assert len(result.files_of_segments) == 6

    def test_times_and_expiry(self) -> None:
        result = completed_result(
            make_job(ttl_seconds=60),
            make_found(SQUARE),
            make_timing(NOON, NOON + timedelta(seconds=9), segments=1 / 3),
        )
        document = to_document(result)
        assert document["completed_at"] == "2026-01-02T12:00:09+00:00"
        assert document["expires_at"] == "2026-01-02T12:01:09+00:00"
        assert document["seconds"] == {"segments": 0.3333}

    def test_what_nobody_asked_for_is_not_there(self, store: Store) -> None:
        """Clients of the replaced services get what they always got, to the letter."""
        answer = answer_document(completed(SQUARE), store, BASE_URL)
        assert "parameters" not in answer
        assert list(answer["segments"][0]) == [
            *REPLACED_FIELDS, "area_percent", "label", "confidence", "crop_url"
        ]  # fmt: skip

    def test_parameters_are_shown_where_the_job_set_some(self, store: Store) -> None:
        asked: dict[str, Any] = {"parameters": {"confidence": 0.5}}
        assert answer_document(completed(SQUARE, **asked), store, BASE_URL)["parameters"] == {
            "confidence": 0.5
        }
        assert unfinished_document(make_job(**asked), JobStatus.QUEUED)["parameters"] == {
            "confidence": 0.5
        }

    # pycocotools' decoder is not written for numpy 2's copy keyword.
    @pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
    @pytest.mark.parametrize("to_document", [answer_document, callback_document])
    def test_run_lengths_decode_to_the_mask_for_the_client_and_the_app_server(
        self, store: Store, to_document: Callable[[Result, FileLinks, str], Document]
    ) -> None:
        document = over_the_wire(to_document(completed(RING, SQUARE, rle=True), store, BASE_URL))
        decoded = [coco.decode(segment["rle"]).astype(np.bool_) for segment in document["segments"]]
        assert [full.tolist() for full in decoded] == [bits(RING).tolist(), bits(SQUARE).tolist()]

    def test_nothing_private_goes_out(self, store: Store) -> None:
        text = json.dumps(answer_document(completed(SQUARE), store, BASE_URL))
        assert "_key" not in text

    def test_nothing_found_is_completed_with_the_original_alone(self, store: Store) -> None:
        answer = answer_document(completed(), store, BASE_URL)
        assert (answer["status"], answer["segments"], len(answer["file_names"])) == (
            "completed",
            [],
            1,
        )


class TestCallback:
    def test_it_is_the_seeds_payload(self, store: Store) -> None:
        payload = callback_document(completed(SQUARE), store, BASE_URL)
        assert list(payload) == ["uuid", "status", "segments"]
        assert (payload["uuid"], payload["status"]) == ("job-1", "completed")
        assert list(payload["segments"][0])[: len(REPLACED_FIELDS)] == REPLACED_FIELDS

    def test_a_failed_job_says_why(self, store: Store) -> None:
        result = failed_result(make_job(), NotAnImage("The bytes are no picture."), make_timing())
        assert callback_document(result, store, BASE_URL) == {
            "uuid": "job-1",
            "status": "failed",
            "segments": [],
            "error": {"code": "not_an_image", "message": "The bytes are no picture."},
        }


class TestSchema:
    def test_it_is_a_schema(self) -> None:
        Draft202012Validator.check_schema(SCHEMA)

    @given(
        found_segments,
        st.none() | st.integers(1, 8192),
        st.booleans(),
        st.sampled_from([{}, {"use_m2m": True}]),
    )
    @pytest.mark.process
    def test_every_completed_job_keeps_to_it(
        self, segments: Sequence[Segment], resize: int | None, rle: bool, parameters: Parameters
    ) -> None:
        found = ModelOutput("demo-sam2", "0" * 64, (13, 9), 0.25, segments)
        job = make_job(model="demo-sam2", resize=resize, rle=rle, parameters=parameters)
        result = completed_result(job, found, make_timing(source_image=0.1, segments=2.0))
        store = ObjectStore.in_memory()
        check(answer_document(stored(result), store, BASE_URL), "answer")
        check(callback_document(stored(result), store, BASE_URL), "callback")

    @pytest.mark.parametrize(
        "error", [NotAnImage("No picture."), WorkerLost("job-1", 3), SegPipelineError("So.")]
    )
    def test_every_failed_job_keeps_to_it(self, store: Store, error: SegPipelineError) -> None:
        result = stored(failed_result(make_job(), error, make_timing()))
        check(answer_document(result, store, BASE_URL), "answer")
        check(callback_document(result, store, BASE_URL), "callback")

    @pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.PROCESSING])
    def test_every_unfinished_job_keeps_to_it(self, status: JobStatus) -> None:
        check(unfinished_document(make_job(resize=256), status), "answer")

    def test_it_refuses_what_no_job_answers(self, store: Store) -> None:
        """A schema that lets everything through would hold nothing."""
        answer = answer_document(completed(SQUARE), store, BASE_URL)
        broken = [
            {**answer, "surprise": 1},
            {**answer, "status": "failed"},
            {**answer, "file_names": []},
            {**answer, "accepted_at": "yesterday"},
            {**answer, "parameters": {}},
            {**answer, "segments": [{**answer["segments"][0], "rle": None}]},
            {**answer, "segments": [{**answer["segments"][0], "area": 0}]},
            {**answer, "segments": [{**answer["segments"][0], "mask_url": None}]},
            {name: value for name, value in answer.items() if name != "uuid"},
        ]
        for document in broken:
            with pytest.raises(ValidationError):
                check(document, "answer")

    def test_it_refuses_a_failed_callback_without_a_reason(self) -> None:
        with pytest.raises(ValidationError):
            check({"uuid": "a", "status": "failed", "segments": []}, "callback")
        with pytest.raises(ValidationError):
            check(
                {
                    "uuid": "a",
                    "status": "completed",
                    "segments": [],
                    "error": {"code": "x", "message": "y"},
                },
                "callback",
            )
