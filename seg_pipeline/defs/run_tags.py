"""The tags of runs, by which the UI's list of runs is read and searched.

A run has the first of its jobs, how many there are, and what they have in common. A run that failed
says with which code, and whose fault that is.
"""

from collections.abc import Mapping, Sequence

from seg_pipeline.domain import Lane, batch_of, shown_model
from seg_pipeline.errors import SegPipelineError
from seg_pipeline.jobs.claims import Claim

JOB = "seg/job"
JOBS = "seg/jobs"
MODEL = "seg/model"
CAME_BY = "seg/came_by"
ATTEMPT = "seg/attempt"
BATCH = "seg/batch"
CODE = "seg/code"
FAULT = "seg/fault"
LANE = "seg/lane"

_BACKFILL = "dagster/backfill"
"""Dagster's own tag of a backfill's runs."""

SEVERAL = "several"

_LANES = {lane.name.lower(): lane for lane in Lane}


def tags_of_run(claims: Sequence[Claim], lane: Lane = Lane.SINGLE) -> dict[str, str]:
    """Tags of a run over these jobs, of which there is at least one."""
    known = {
        JOB: claims[0].uuid,
        JOBS: str(len(claims)),
        ATTEMPT: _shared([str(claim.attempt) for claim in claims]),
        MODEL: _shared([shown_model(claim.model) for claim in claims if claim.model]),
        CAME_BY: _shared([claim.came_by for claim in claims]),
        BATCH: _shared([batch_of(claim.uuid) or "" for claim in claims]),
        LANE: lane.name.lower() if lane else "",
    }
    return {tag: value for tag, value in known.items() if value}


def lane_of_run(tags: Mapping[str, str]) -> Lane:
    """The lane of a run with these tags.

    A backfill lets all others go first. A run that an operator launched alone is as a single job's.
    """
    if _BACKFILL in tags:
        return Lane.BATCH
    return _LANES.get(tags.get(LANE, ""), Lane.SINGLE)


def tags_of_failure(error: SegPipelineError) -> dict[str, str]:
    """Tags of a run that failed so."""
    return {CODE: error.code, FAULT: str(error.fault)}


def _shared(values: Sequence[str]) -> str:
    """The value that all have; `several` if they differ, and nothing if there is none."""
    different = set(values)
    return SEVERAL if len(different) > 1 else next(iter(different), "")
