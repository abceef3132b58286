"""The stages of a job by name."""

from enum import StrEnum


class StageName(StrEnum):
    """The stages in their order. Assets, ops and a result's `seconds` go by these names."""

    SOURCE_IMAGE = "source_image"
    SEGMENTS = "segments"
    CUTOUTS = "cutouts"
    RESULT = "result"
    CALLBACK = "callback"
