"""The whole service in a folder whose name looks like a pattern, a URL and a placeholder."""

from pathlib import Path

import pytest

from seg_pipeline_tests.odd_names import ODD_NAMES
from seg_pipeline_tests.running_stack import Stack


@pytest.mark.slow
def test_the_service_works_there_and_writes_nothing_beside(tmp_path: Path) -> None:
    folder = tmp_path / "".join(ODD_NAMES)
    folder.mkdir()
    with Stack(folder) as running:
        assert running.send_sample().found
        assert (running.data_dir / "dagster" / "runs.db").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
