"""What a part of the GPU benchmarks is asked, and what it answers: figures and agreements.

A part is a module with `measure(asked: Asked)`, which yields its findings one by one. What it has
yielded stays, whatever happens to it afterwards.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.tables import Row


@dataclass(frozen=True)
class Asked:
    """The device as torch spells it, a folder for files, and whether a reduced run is enough."""

    device: str
    folder: Path
    short: bool = False

    @property
    def on_cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.startswith("cuda")

    def scaled(self, full: int, short: int) -> int:
        """A number of repetitions: that of a full run, or that of a short one."""
        return short if self.short else full


@dataclass(frozen=True)
class Agreement:
    """Whether two ways give the same: what was compared, whether it holds, and what was seen."""

    what: str
    holds: bool
    seen: str = ""

    @property
    def row(self) -> Row:
        """Its line in the table."""
        return Row(self.what, "holds" if self.holds else "FAILS", self.seen, "holds")


Finding = Row | Agreement


def write_findings(path: Path, findings: Iterable[Finding]) -> None:
    """Appends each finding to the file as it comes."""
    with path.open("a", encoding="utf-8") as file:
        for finding in findings:
            kind = type(finding).__name__
            file.write(json.dumps({"kind": kind, **asdict(finding)}) + "\n")
            file.flush()


def read_findings(path: Path) -> Iterator[Finding]:
    """The findings in the file. A line that a killed process left unfinished is passed over."""
    kinds = {"Row": Row, "Agreement": Agreement}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            fields = json.loads(line)
        except ValueError:
            continue
        yield kinds[fields.pop("kind")](**fields)
