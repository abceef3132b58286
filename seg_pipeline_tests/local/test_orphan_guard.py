"""The groups that a killed supervisor leaves behind are ended, and no others."""

from seg_pipeline.local.orphan_guard import groups_left


def test_the_guard_ends_only_groups_that_were_not_taken_back() -> None:
    assert groups_left(["+12\n", "+13\n", "-12\n", "+1"[:1]]) == {13}
