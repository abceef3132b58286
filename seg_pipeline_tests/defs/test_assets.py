"""The stages as Dagster sees them: steps, partitions, materialisations and failures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from seg_pipeline.defs.alarms import service_asset
from seg_pipeline.defs.asset_specs import ARRIVALS
from seg_pipeline.defs.assets import CALLBACK, STAGES, segmentation_assets
from seg_pipeline.defs.jobs import segment_images
from seg_pipeline.defs.partitions import RANGE_END_TAG, RANGE_START_TAG
from seg_pipeline.defs.pruning import pruned
from seg_pipeline.defs.resources import PassedJobs
from seg_pipeline.defs.result_checks import audited_asset
from seg_pipeline.defs.run_config import run_config_for
from seg_pipeline.domain import Lane, Parameters, RgbImage, Segment
from seg_pipeline.errors import FetchGivenUp, ModelOutOfMemory
from seg_pipeline.jobs.claims import Claim
from seg_pipeline.jobs.deliveries import Policy, Reply
from seg_pipeline.jobs.giving_way import ask_to_give_way
from seg_pipeline.jobs.records import FailureReason, StoredResult
from seg_pipeline.pipeline.stages import StageContext
from seg_pipeline.store import Store, keys
from seg_pipeline.store.serialization import write
from seg_pipeline_tests.builders import (
    NOON,
    BarSegmenter,
    accept_address,
    accept_upload,
    bring_picture,
    end_queue_job,
    error_of,
    make_context,
    make_job,
    make_queue_job,
    make_scene_picture,
    picture_bytes,
    result_of,
    stored_files,
    waiting_uuids,
)

pytestmark = pytest.mark.process

SEGMENTING = [name for name in STAGES if name != CALLBACK]


def run_job(
    stage_context: StageContext,
    instance: dg.DagsterInstance,
    *uuids: str,
    only: list[str] | None = None,
    run_key: str | None = None,
    lane: Lane = Lane.SINGLE,
) -> dg.ExecuteInProcessResult:
    """The job over its partitions, as the inbox's sensor asks for it, or for some stages as an
    operator does."""
    missing = [uuid for uuid in uuids if not instance.has_dynamic_partition("jobs", uuid)]
    instance.add_dynamic_partitions("jobs", missing)
    job = definitions_over(stage_context).get_repository_def().get_job("segment_images")
    range_tags = {RANGE_START_TAG: uuids[0], RANGE_END_TAG: uuids[-1]} if len(uuids) > 1 else {}
    key_tags = {"dagster/run_key": run_key} if run_key else {}
    return job.execute_in_process(
        instance=instance,
        partition_key=uuids[0] if len(uuids) == 1 else None,
        run_config={} if only else run_config_for(uuids),
        raise_on_error=False,
        tags={**range_tags, **key_tags, "seg/lane": lane.name.lower()},
        asset_selection=[dg.AssetKey(name) for name in only] if only else None,
    )


def definitions_over(stage_context: StageContext) -> dg.Definitions:
    """The product's definitions on a test's stage_context."""
    resources = {"stage_context": stage_context, "passed_jobs": PassedJobs()}
    return dg.Definitions(
        assets=[segmentation_assets],
        jobs=[segment_images],
        resources=resources,
        executor=dg.in_process_executor,
    )


def materialized(instance: dg.DagsterInstance, stage: str) -> set[str]:
    """The partitions of a stage that are green."""
    return set(instance.get_materialized_partitions(dg.AssetKey(stage)))


def sentence_of(result: dg.ExecuteInProcessResult, stage: str) -> str | None:
    """Why a stage's step failed, as Dagster shows it."""
    data = result.failure_data_for_node(f"segmentation.{stage}")
    assert data is not None
    assert data.user_failure_data is not None
    return data.user_failure_data.description


def metadata_of(instance: dg.DagsterInstance, stage: str) -> dict[str, Any]:
    """What the last materialisation of a stage shows."""
    event = instance.get_latest_materialization_event(dg.AssetKey(stage))
    assert event is not None
    assert event.asset_materialization is not None
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def steps(result: dg.ExecuteInProcessResult) -> set[str]:
    """The steps that were executed; those that were skipped are not among them."""
    return {
        str(event.step_key).removeprefix("segmentation.")
        for event in result.get_step_success_events()
    }


def test_every_stage_is_a_step_and_materialises_its_partition(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    stage_context = make_context(tmp_path)
    accept_upload(stage_context, "job-1")
    result = run_job(stage_context, instance, "job-1")
    assert result.success
    assert steps(result) == set(SEGMENTING)
    assert all(materialized(instance, stage) == {"job-1"} for stage in SEGMENTING)


def test_a_materialisation_tells_counts_seconds_the_weights_and_links(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    stage_context = make_context(tmp_path, base_url="https://segments.example")
    accept_upload(stage_context, "job-1")
    run_job(stage_context, instance, "job-1")
    metadata = {name: metadata_of(instance, name) for name in SEGMENTING}
    assert metadata["source_image"]["width"] == 64
    assert metadata["segments"]["segments"] == 2
    assert metadata["segments"]["weights_sha256"] == "f" * 64
    assert metadata["segments"]["inference_mode"] == "exact"
    assert metadata["cutouts"]["overlay"] == "https://segments.example/assets/job-1/overlay.webp"
    assert metadata["result"]["total_seconds"] >= 0
    assert metadata["result"]["answer"] == "https://segments.example/jobs/job-1"


def test_a_result_shows_the_picture_first_then_its_segments_and_when_it_expires(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    stage_context = make_context(tmp_path, base_url="https://segments.example")
    accept_upload(stage_context, "job-1")
    run_job(stage_context, instance, "job-1")
    event = instance.get_latest_materialization_event(dg.AssetKey("result"))
    assert event is not None
    assert event.asset_materialization is not None
    metadata = event.asset_materialization.metadata
    thumbnail = "https://segments.example/assets/job-1/thumbnail.webp"
    assert next(iter(metadata.items())) == (
        "overlay_picture",
        dg.MarkdownMetadataValue(f"[![picture]({thumbnail})]({thumbnail})"),
    )
    table = str(metadata["found"].value)
    assert "[mask](https://segments.example/assets/job-1/mask_images/mask_001.png)" in table
    result = stage_context.repository.result("job-1")
    assert result is not None
    assert metadata["expires_at"].value == pytest.approx(result.expires_at.timestamp())
    assert metadata["came_by"].value == "http"


def test_every_asset_has_a_description_an_owner_and_a_kind_of_its_own() -> None:
    specs = [
        *(*segmentation_assets.specs, *ARRIVALS, *pruned.specs),
        *(service_asset, audited_asset),
    ]
    assert len({spec.description for spec in specs}) == len(specs)
    assert all(spec.description and spec.owners and spec.kinds for spec in specs)


def test_the_lineage_begins_with_uploads_and_messages_and_ends_with_the_prune() -> None:
    graph = dg.Definitions(
        assets=[*ARRIVALS, segmentation_assets, pruned],
        resources={"stage_context": None, "passed_jobs": PassedJobs()},
    ).resolve_asset_graph()
    parents = graph.get(dg.AssetKey("source_image")).parent_keys
    assert parents == {spec.key for spec in ARRIVALS}
    assert graph.get(dg.AssetKey("pruned")).parent_keys == {dg.AssetKey("result")}


def test_in_a_batch_exactly_the_good_partitions_turn_green(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    stage_context = make_context(tmp_path)
    accept_upload(stage_context, "good-1")
    accept_upload(stage_context, "bad", picture_bytes(make_scene_picture())[:-40])
    accept_upload(stage_context, "good-2")
    assert run_job(stage_context, instance, "good-1", "bad", "good-2").success
    assert all(materialized(instance, stage) == {"good-1", "good-2"} for stage in SEGMENTING)
    assert stage_context.repository.result("bad") is None


def test_a_bad_picture_alone_ends_as_a_failed_run_with_one_sentence(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    stage_context = make_context(tmp_path)
    accept_upload(stage_context, "bad", picture_bytes(make_scene_picture())[:-40])
    stage_context.repository.claims.claim(["bad"], "bad:1")
    result = run_job(stage_context, instance, "bad", run_key="bad:1")
    assert not result.success
    (failure,) = result.get_failed_step_keys()
    assert failure == "segmentation.source_image"
    error = error_of(stage_context.repository, "bad")
    assert sentence_of(result, "source_image") == error.message
    assert error.code == "truncated_image"


def test_a_picture_that_could_not_be_had_fails_its_own_run_at_the_first_attempt(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    stage_context = make_context(tmp_path)
    stage_context.repository.acceptance.accept(
        make_job("job-1", image_url="https://pictures.example/a.png")
    )
    bring_picture(stage_context.repository, error=FetchGivenUp("The server does not answer."))
    stage_context.repository.claims.claim(["job-1"], "job-1:1")
    result = run_job(stage_context, instance, "job-1", run_key="job-1:1")
    sentence = "The server does not answer."
    assert sentence_of(result, "source_image") == sentence
    assert error_of(stage_context.repository, "job-1") == FailureReason(
        "fetch_unavailable", sentence
    )
    assert stage_context.repository.claims.inflight() == []


def test_a_failed_run_and_its_partition_say_why(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    stage_context = make_context(tmp_path)
    accept_upload(stage_context, "bad", picture_bytes(make_scene_picture())[:-40])
    result = run_job(stage_context, instance, "bad")
    run = instance.get_run_by_id(result.run_id)
    assert run is not None
    assert (run.tags["seg/code"], run.tags["seg/fault"]) == ("truncated_image", "client")
    (record,) = instance.fetch_observations(dg.AssetKey("result"), limit=1).records
    observation = record.asset_observation
    assert observation is not None
    assert observation.partition == "bad"
    assert observation.metadata["why"].value == sentence_of(result, "source_image")


def test_of_several_only_an_operators_run_says_on_each_partition_why_it_failed(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """The run itself goes well. After a sensor's, recovery runs each bad job alone."""
    stage_context = make_context(tmp_path)
    accept_upload(stage_context, "good")
    accept_upload(stage_context, "bad", picture_bytes(make_scene_picture())[:-40])
    stage_context.repository.claims.claim(["good", "bad"], "good:1")
    assert run_job(stage_context, instance, "good", "bad", run_key="good:1").success
    assert instance.fetch_observations(dg.AssetKey("result"), limit=5).records == []
    assert run_job(stage_context, instance, "good", "bad").success
    (record,) = instance.fetch_observations(dg.AssetKey("result"), limit=5).records
    observation = record.asset_observation
    assert observation is not None
    assert (observation.partition, observation.metadata["code"].value) == ("bad", "truncated_image")


def test_a_run_without_its_picture_sends_the_job_to_be_fetched(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """As after an upgrade, while an older version had jobs with addresses in flight."""
    stage_context = make_context(tmp_path)
    stage_context.repository.acceptance.accept(
        make_job("job-1", image_url="https://pictures.example/a.png")
    )
    stage_context.store.create(keys.inflight("job-1"), write(Claim("job-1", 2, "job-1:2", NOON)))
    result = run_job(stage_context, instance, "job-1", run_key="job-1:2")
    assert "It is being fetched" in str(sentence_of(result, "source_image"))
    assert (
        stage_context.repository.claims.inflight(),
        stage_context.repository.fetches.uuids(),
    ) == ([], ["job-1"])
    assert stage_context.repository.status("job-1") == "queued"


def test_what_source_image_shows_says_who_gave_the_picture_and_no_secret(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    stage_context = make_context(tmp_path)
    accept_address(
        stage_context, "job-1", image_url="https://pictures.example/a.png?X-Amz-Signature=topsecret"
    )
    result = run_job(stage_context, instance, "job-1")
    (event,) = result.asset_materializations_for_node("segmentation.source_image")
    shown = {name: value.value for name, value in event.metadata.items()}
    assert shown["image_url"] == "https://pictures.example/a.png"
    assert (shown["fetched_from"], shown["fetch_seconds"], shown["fetch_attempts"],
            shown["http_status"]) == (
        "pictures.example:443", 0.25, 1, 200,
    )  # fmt: skip
    assert not any("topsecret" in str(event) for event in result.all_events)


class _NoMemory(BarSegmenter):
    """A model whose device is full just now."""

    def segment(
        self, images: Sequence[RgbImage], parameters: Parameters | None = None
    ) -> list[list[Segment]]:
        raise ModelOutOfMemory("The memory of the GPU is full.")


def test_a_passing_error_leaves_the_job_to_the_sweeper(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    stage_context = make_context(tmp_path, segmenter=_NoMemory())
    accept_upload(stage_context, "job-1")
    stage_context.repository.claims.claim(["job-1"], "job-1:1")
    assert not run_job(stage_context, instance, "job-1", run_key="job-1:1").success
    assert stage_context.repository.result("job-1") is None
    assert [claim.uuid for claim in stage_context.repository.claims.inflight()] == ["job-1"]


@pytest.mark.parametrize("stage", SEGMENTING)
def test_an_operator_can_materialise_any_stage_again(
    tmp_path: Path, instance: dg.DagsterInstance, stage: str
) -> None:
    stage_context = make_context(tmp_path)
    accept_upload(stage_context, "job-1")
    run_job(stage_context, instance, "job-1")
    before = stored_files(stage_context, "job-1")
    again = run_job(make_context(tmp_path, stage_context.store), instance, "job-1", only=[stage])
    assert again.success
    assert stored_files(stage_context, "job-1") == before
    events = again.get_asset_materialization_events()
    assert [(event.asset_key, event.partition) for event in events] == [
        (dg.AssetKey(stage), "job-1")
    ]


FILES = {
    "source_image": {"source.json"},
    "segments": {"mask_images", "segments.json"},
    "cutouts": {"crops", "original.webp", "overlay.webp", "thumbnail.webp"},
    "result": {"result.json"},
}


@pytest.mark.parametrize("uuids", [["job-1"], ["job-1", "job-2", "job-3"]])
@pytest.mark.parametrize("only", [
    ["source_image"],
    ["source_image", "segments"],
    ["source_image", "cutouts"],
    ["segments"],
    ["segments", "cutouts"],
    ["cutouts", "result"],
])  # fmt: skip
def test_a_run_writes_the_files_of_its_own_stages_alone(
    tmp_path: Path,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    only: list[str],
    uuids: list[str],
) -> None:
    """A stage may begin before the one above it ends, but not one that nobody asked for."""
    stage_context = make_context(tmp_path)
    for uuid in uuids:
        accept_upload(stage_context, uuid)
    assert run_job(stage_context, instance, *uuids).success
    again, written = make_context(tmp_path, stage_context.store), set()
    put = stage_context.store.put

    def note(key: str, data: bytes) -> None:
        written.update([key] if key.startswith(keys.ASSETS) else [])
        put(key, data)

    monkeypatch.setattr(again.store, "put", note)
    assert run_job(again, instance, *uuids, only=only).success
    names = {name for stage in only for name in FILES[stage]}
    assert {"/".join(key.split("/")[1:3]) for key in written} == {
        f"{uuid}/{name}" for uuid in uuids for name in names
    }


# Callback


def make_telling_context(folder: Path, store: Store | None = None) -> StageContext:
    """A stage_context with an app server that waits for what comes by the queue."""
    return make_context(folder, store, app_server_url="https://app.example")


def accept_queue_job(stage_context: StageContext, uuid: str, data: bytes | None = None) -> None:
    """A job that came by the queue and whose picture was fetched."""
    accept_address(stage_context, uuid, data, via="sqs", callback=True)


def waiting(stage_context: StageContext) -> list[str]:
    """Jobs that the app server is to be told of now."""
    return [
        marker.uuid
        for marker in stage_context.repository.outbox.waiting(NOON.replace(year=2100), 10)
    ]


def test_a_job_from_the_queue_is_recorded_for_the_app_server_and_not_green_before_it_knows(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    stage_context = make_telling_context(tmp_path)
    accept_queue_job(stage_context, "job-1")
    result = run_job(stage_context, instance, "job-1")
    assert (result.success, steps(result)) == (True, set(STAGES))
    assert waiting(stage_context) == ["job-1"]
    assert materialized(instance, "result") == {"job-1"}
    assert materialized(instance, CALLBACK) == set()


def test_in_a_batch_only_those_go_on_that_the_app_server_waits_for(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    stage_context = make_telling_context(tmp_path)
    accept_upload(stage_context, "upload")
    accept_queue_job(stage_context, "queued")
    result = run_job(stage_context, instance, "upload", "queued")
    assert (result.success, steps(result), waiting(stage_context)) == (
        True,
        set(STAGES),
        ["queued"],
    )


def test_a_failed_job_is_recorded_too(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    stage_context = make_telling_context(tmp_path)
    accept_queue_job(stage_context, "job-1", b"<html>")
    stage_context.repository.claims.claim(["job-1"], "job-1:1")
    assert not run_job(stage_context, instance, "job-1", run_key="job-1:1").success
    assert waiting(stage_context) == ["job-1"]
    assert result_of(stage_context.repository, "job-1").status == "failed"


def test_an_app_server_that_was_told_while_the_run_went_on_is_not_told_twice(
    tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The courier is quicker than the step."""
    stage_context = make_telling_context(tmp_path)
    accept_queue_job(stage_context, "job-1")
    record = stage_context.repository.outbox.record

    def record_and_deliver(stored: StoredResult, host_id: str | None = None) -> None:
        record(stored, host_id=host_id)
        uuid = stored.result.uuid
        delivery = stage_context.repository.outbox.delivery(uuid)
        assert delivery is not None
        delivered = delivery.after(Reply(0.1, 200), NOON, Policy(60, 60), None)
        stage_context.repository.outbox.note(delivered, delivery)

    monkeypatch.setattr(stage_context.repository.outbox, "record", record_and_deliver)
    assert steps(run_job(stage_context, instance, "job-1")) == set(STAGES)
    assert waiting(stage_context) == []


def test_materialising_callback_tells_once_more(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    """An operator replays a parked delivery so, one partition or many at a time."""
    stage_context = make_telling_context(tmp_path)
    uuids = ["job-1", "job-2"]
    for uuid in uuids:
        end_queue_job(stage_context.repository, uuid)
        delivery = stage_context.repository.outbox.delivery(uuid)
        assert delivery is not None
        stage_context.repository.outbox.note(delivery.parked("404", NOON, Policy(60, 60)), delivery)
    result = run_job(
        make_telling_context(tmp_path, stage_context.store), instance, *uuids, only=[CALLBACK]
    )
    assert result.success
    assert {
        str((stage_context.repository.outbox.delivery(uuid) or pytest.fail(uuid)).state)
        for uuid in uuids
    } == {"pending"}


@pytest.mark.parametrize(("prepare", "sentence"), [
    (accept_upload, "did not come by the queue"),
    (
        lambda context, uuid: context.repository.acceptance.accept(make_queue_job(uuid)),
        "has not ended yet",
    ),
])  # fmt: skip
def test_what_cannot_be_told_fails_the_run_and_not_the_job(
    tmp_path: Path, instance: dg.DagsterInstance, prepare: Any, sentence: str
) -> None:
    stage_context = make_telling_context(tmp_path)
    prepare(stage_context, "job-1")
    result = run_job(stage_context, instance, "job-1", only=[CALLBACK])
    assert not result.success
    assert sentence in str(sentence_of(result, CALLBACK))
    assert stage_context.repository.result("job-1") is None


def test_without_an_app_server_the_step_is_skipped(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    stage_context = make_context(tmp_path)
    accept_queue_job(stage_context, "job-1")
    result = run_job(stage_context, instance, "job-1")
    assert (result.success, steps(result)) == (True, set(SEGMENTING))


class HeldUp(BarSegmenter):
    """While it segments, a job of an earlier lane comes and is held up by the run."""

    def __init__(self) -> None:
        super().__init__()
        self.context: StageContext | None = None

    def segment(
        self, images: Sequence[RgbImage], parameters: Parameters | None = None
    ) -> list[list[Segment]]:
        assert self.context is not None
        run_id = self.context.run.identity.run_id
        ask_to_give_way(self.context.store, [run_id], [run_id])
        return super().segment(images, parameters)


def held_up(folder: Path, *uuids: str) -> tuple[StageContext, HeldUp]:
    """Jobs that are claimed for the run `first`, each call of whose model somebody waits for."""
    segmenter = HeldUp()
    segmenter.context = make_context(folder, segmenter=segmenter)
    for uuid in uuids:
        accept_upload(segmenter.context, uuid)
    segmenter.context.repository.claims.claim(uuids, "first")
    return segmenter.context, segmenter


def test_a_batchs_run_gives_way_after_one_call_and_what_it_left_waits(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    context, segmenter = held_up(tmp_path, *UUIDS)
    result = run_job(context, instance, *UUIDS, run_key="first", lane=Lane.BATCH)
    left = sorted(waiting_uuids(context.repository))
    assert (result.success, segmenter.calls) == (True, [1])
    assert len(left) == len(UUIDS) - 1
    (done,) = {*UUIDS} - {*left}
    assert materialized(instance, "result") == {done}
    assert not any(context.repository.result(uuid) for uuid in left)
    with context.one_run():
        context.repository.claims.claim(left, "second")
    assert run_job(context, instance, *left[:1], run_key="second").success
    assert waiting_uuids(context.repository) == []
    assert context.repository.result(left[0]) is not None


@pytest.mark.parametrize(("run_key", "lane"), [("first", Lane.SINGLE), (None, Lane.BATCH)])
def test_a_run_of_single_jobs_and_an_operators_give_way_to_nobody(
    tmp_path: Path, instance: dg.DagsterInstance, run_key: str | None, lane: Lane
) -> None:
    context, _ = held_up(tmp_path, *UUIDS)
    assert run_job(context, instance, *UUIDS, run_key=run_key, lane=lane).success
    assert materialized(instance, "result") == {*UUIDS}


UUIDS = ("job-0", "job-1", "job-2", "job-3")
