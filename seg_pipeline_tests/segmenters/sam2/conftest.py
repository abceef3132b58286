"""sam2 as the product imports it, for tests that import parts of it themselves."""

import pytest

from seg_pipeline.segmenters.sam2.segmenter import import_sam2


@pytest.fixture(scope="session", autouse=True)
def sam2_without_hydra() -> None:
    """Else the first test that imports a part of sam2 leaves hydra started for all others."""
    import_sam2()
