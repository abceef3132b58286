"""What the UI says of the assets."""

from seg_pipeline.defs.asset_specs import TEXTS, from_graph_arguments
from seg_pipeline.pipeline.stage_names import StageName


def test_every_stage_has_a_text() -> None:
    assert set(TEXTS) == set(StageName)


def test_a_stage_has_at_most_the_three_kinds_that_dagster_takes() -> None:
    assert all(1 <= len(text.kinds) <= 3 for text in TEXTS.values())


def test_kinds_are_told_as_the_tags_that_dagster_reads() -> None:
    tags = from_graph_arguments()["tags_by_output_name"]
    assert tags["result"] == {"dagster/kind/json": ""}
