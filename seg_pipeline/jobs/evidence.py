"""What a run was doing with a job that it had alone: the note that says, after its worker died,
whether the job is to blame.

It is written before such a job is decoded, segmented or encoded, and removed afterwards, so it is
there in between alone. A batch writes none, nor does a model that loads.
"""

from dataclasses import dataclass

from seg_pipeline.store import Store, keys
from seg_pipeline.store.serialization import load, write


@dataclass(frozen=True)
class Evidence:
    """The stage of a job in a run; `error` is the code of the job's own error, if that ended the
    run."""

    run_id: str
    stage: str
    error: str | None = None


def write_evidence(store: Store, uuid: str, evidence: Evidence) -> None:
    """Replaces what is known. It outlives a killed process, and need not outlive a power cut."""
    store.put(keys.evidence(uuid), write(evidence))


def read_evidence(store: Store, uuid: str) -> Evidence | None:
    """What the last run left; None if it left nothing that can be read."""
    return load(store, Evidence, keys.evidence(uuid))


def remove_evidence(store: Store, uuid: str) -> None:
    """The job is not being worked on any more."""
    store.delete(keys.evidence(uuid))
