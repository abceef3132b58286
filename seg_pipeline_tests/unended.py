"""The progress writers of the stage contexts that the current test has made. A job that a test does
not end keeps the thread of its writer awake."""

from seg_pipeline.pipeline.progress_writer import ProgressWriter

_writers: list[ProgressWriter] = []


def end_later(writer: ProgressWriter) -> None:
    """Has the writer's notes ended when the test has."""
    _writers.append(writer)


def end_all() -> None:
    """Ends the notes of all writers; their threads end soon after."""
    while _writers:
        _writers.pop().end_all()
