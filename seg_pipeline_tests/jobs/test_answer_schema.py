"""docs/job-result.schema.json says what the records say."""

import json
from pathlib import Path

from jsonschema import Draft202012Validator

from seg_pipeline.jobs.answer_schema import PATH, make_schema, schema_text

ROOT = Path(__file__).parents[2]


def test_the_schema_in_docs_is_made_from_the_records() -> None:
    """`make schema` writes it."""
    assert (ROOT / PATH).read_text() == schema_text()


def test_every_definition_is_one_that_the_schema_has() -> None:
    schema = make_schema()
    Draft202012Validator.check_schema(schema)
    text = json.dumps(schema)
    references = {part.split('"')[0] for part in text.split('"#/$defs/')[1:]}
    assert references <= schema["$defs"].keys()
    assert {"answer", "callback", "segment", "error", "rle", "point"} <= references


def test_every_key_of_a_segment_but_its_scores_is_explained() -> None:
    properties = make_schema()["$defs"]["segment"]["properties"]
    assert all("description" in each for each in properties.values())


def test_what_is_left_out_is_never_null() -> None:
    segment = make_schema()["$defs"]["segment"]
    assert {"interior_point", "rle"}.isdisjoint(segment["required"])
    assert "null" not in json.dumps(segment["properties"]["rle"])
