"""How far a worker has come with a job: a note that is replaced, for those who listen.

It is there while a worker has the job. It goes with the job's end. Nothing depends on it.
"""

from dataclasses import dataclass
from typing import Annotated

from seg_pipeline.domain import Moment
from seg_pipeline.store.serialization import OPTIONAL


@dataclass(frozen=True)
class Progress:
    """The stage that a job is in since `at`; of a SAM-2 the points done, and how many there are."""

    stage: str
    at: Moment
    done: Annotated[int | None, OPTIONAL] = None
    total: Annotated[int | None, OPTIONAL] = None
