"""What each process is started with, and what it is handed."""

from pathlib import Path

from seg_pipeline.local.processes import usable_cores


def test_a_container_s_share_of_the_cores_is_what_counts(tmp_path: Path) -> None:
    quota = tmp_path / "cpu.max"
    everything = usable_cores(tmp_path / "none")
    for text, cores in [("50000 100000", 1), ("100000 100000", 1), ("max 100000", everything)]:
        quota.write_text(text)
        assert usable_cores(quota) == cores
