"""How much a run of the benchmarks measures."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line, and a folder of its own for each part."""

    folder: Path
    model: str = "demo-yolo"
    pictures: int = 200
    rounds: int = 3
    past_jobs: int = 10_000
    past_batch: int = 8
    minutes: int = 30
    profile: str = "embedded"
    quick: bool = False

    @property
    def models(self) -> Path:
        """A folder that the parts share, for a model that takes a while to make."""
        return self.folder.parent / "models"

    def scaled(self, full: int, quick: int) -> int:
        """A number of repetitions: that of a full run, or that of a quick one."""
        return quick if self.quick else full
