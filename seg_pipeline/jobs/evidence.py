"""The note of what a run is doing with a job that it has alone.

If the worker dies, the note says whether the job is to blame. It is written before such a job is
decoded, segmented or encoded. It is removed afterwards. A batch writes none, and neither does a
model that loads.
"""

from dataclasses import dataclass

from seg_pipeline.store import Store, keys
from seg_pipeline.store.serialization import load, write


@dataclass(frozen=True)
class Evidence:
    """The stage of a job in a run.

    `error` is the code of the job's own error, if that ended the run.
    """

    run_id: str
    stage: str
    error: str | None = None


def write_evidence(store: Store, uuid: str, evidence: Evidence) -> None:
    """Replaces the note. It outlives a killed process, and need not outlive a power cut."""
    store.put(keys.evidence(uuid), write(evidence))


def read_evidence(store: Store, uuid: str) -> Evidence | None:
    """The note that the last run left; None if there is none that can be read."""
    return load(store, Evidence, keys.evidence(uuid))


def remove_evidence(store: Store, uuid: str) -> None:
    """Removes the note: the job is not being worked on any more."""
    store.delete(keys.evidence(uuid))
