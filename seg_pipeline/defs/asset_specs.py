"""What the UI says of each asset: its description, its owners and what it is made with.

Two assets are external, since nobody materialises them: the uploads and the queue's messages, with
which the lineage begins.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from seg_pipeline.pipeline.stage_names import StageName

OPERATORS = "team:operators"
"""The owner of all assets; whoever runs the service."""

_KIND = "dagster/kind/"

UPLOADS = dg.AssetSpec(
    "uploads",
    group_name="arrivals",
    owners=[OPERATORS],
    kinds={"fastapi"},
    description=(
        "Pictures and addresses that clients send to the API: `POST /segment` and `POST /jobs`.\n\n"
        "Dagster does not make them. An accepted one waits in the inbox for `inbox_sensor`."
    ),
)
QUEUE_MESSAGES = dg.AssetSpec(
    "queue_messages",
    group_name="arrivals",
    owners=[OPERATORS],
    kinds={"sqs"},
    description=(
        "Messages of `SQS_QUEUE_URL`, which the sensor `queue` moves to the inbox.\n\n"
        "Dagster does not make them. Those that cannot become a job are parked: see `GET /parked`."
    ),
)
ARRIVALS = (UPLOADS, QUEUE_MESSAGES)


@dataclass(frozen=True)
class AssetText:
    """The description (Markdown) of an asset, and its kinds: at most three, shown as icons."""

    description: str
    kinds: Set[str] = field(default_factory=frozenset)

    @property
    def tags(self) -> dict[str, str]:
        """The kinds, as Dagster's tags."""
        return {f"{_KIND}{kind}": "" for kind in self.kinds}


TEXTS: Mapping[StageName, AssetText] = {
    StageName.SOURCE_IMAGE: AssetText(
        "The picture as it was received, after it was found to decode.\n\n"
        "A partition shows its format, size and hash, and from where it was fetched and how long"
        " that took. *Materialize* fetches a picture again that could not be had.",
        {"image"},
    ),
    StageName.SEGMENTS: AssetText(
        "What the model found in the picture: one mask and its scores for each segment.\n\n"
        "A partition shows how many there are, their labels, the model, the hash of its weights"
        " and its seconds. *Materialize* runs the model again.",
        {"pytorch"},
    ),
    StageName.CUTOUTS: AssetText(
        "Pictures for people: a transparent cut-out of each segment, the whole picture as WEBP,"
        " the overlay and its thumbnail.",
        {"image", "webp"},
    ),
    StageName.RESULT: AssetText(
        "The document that clients get. A job is finished when it exists.\n\n"
        "A partition shows the overlay, the segments as a table, all files, how the job came, how"
        " long it waited and took, and when it expires.",
        {"json"},
    ),
    StageName.CALLBACK: AssetText(
        "That the app server knows the result. Only jobs that came by the queue have it.\n\n"
        "Green is delivered. An observation without a materialisation is a parked callback, with"
        " the reason. *Materialize* tells the app server once more.",
        {"http"},
    ),
}


def from_graph_arguments() -> dict[str, Any]:
    """What `AssetsDefinition.from_graph` is told of the stages, by the names of its arguments."""
    return {
        "descriptions_by_output_name": {
            name.value: text.description for name, text in TEXTS.items()
        },
        "tags_by_output_name": {name.value: text.tags for name, text in TEXTS.items()},
        "owners_by_output_name": {name.value: [OPERATORS] for name in TEXTS},
    }
