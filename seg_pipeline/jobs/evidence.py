"""What a run was doing with a job that it had alone: the note that says, after its worker died,
whether the job is to blame.

It is written before such a job is decoded, segmented or encoded, and removed afterwards, so it is
there in between alone. A batch writes none, nor does a model that loads.
"""

import json
from dataclasses import asdict, dataclass

from seg_pipeline.errors import ObjectNotFound
from seg_pipeline.store import Store, keys


@dataclass(frozen=True)
class Evidence:
    """The stage of a job in a run; `error` is the code of the job's own error, if that ended the
    run."""

    run_id: str
    stage: str
    error: str | None = None


def write_evidence(store: Store, uuid: str, evidence: Evidence) -> None:
    """Replaces what is known. It outlives a killed process, and need not outlive a power cut."""
    store.put(keys.evidence(uuid), json.dumps(asdict(evidence)).encode())


def read_evidence(store: Store, uuid: str) -> Evidence | None:
    """What the last run left; None if it left nothing that can be read."""
    try:
        document = json.loads(store.get(keys.evidence(uuid)))
        return Evidence(**{name: document.get(name) for name in Evidence.__dataclass_fields__})
    except (ObjectNotFound, ValueError, TypeError, AttributeError):
        return None


def remove_evidence(store: Store, uuid: str) -> None:
    """The job is not being worked on any more."""
    store.delete(keys.evidence(uuid))
