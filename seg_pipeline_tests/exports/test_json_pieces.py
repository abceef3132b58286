"""JSON in pieces is the JSON that a whole document would be."""

import json

from seg_pipeline.exports.json_pieces import compact, listed, with_list


def test_items_follow_the_head_under_their_key() -> None:
    pieces = with_list({"a": "ä"}, "items", [b"1", iter((b"[2", b"]")), compact({"b": None})])
    assert json.loads(b"".join(pieces)) == {"a": "ä", "items": [1, [2], {"b": None}]}


def test_no_items_are_an_empty_list() -> None:
    assert json.loads(b"".join(with_list({"a": 1}, "items", []))) == {"a": 1, "items": []}
    assert b"".join(listed([])) == b"[]"


def test_lists_may_be_in_lists() -> None:
    assert json.loads(b"".join(listed([listed([b"1", b"2"]), b"3"]))) == [[1, 2], 3]


def test_items_are_made_as_they_are_taken() -> None:
    """One item of many may be all that fits into memory."""
    made: list[int] = []

    def items():  # type: ignore[no-untyped-def]
        for number in range(3):
            made.append(number)
            yield b"%d" % number

    pieces = with_list({"a": 1}, "items", items())
    assert (next(pieces), made) == (b'{"a":1,"items":[', [])
