import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.process

SCRIPT = """
import json, resource, sys
import numpy as np
from pathlib import Path
from seg_pipeline.runtime.allocator import keep_freed_memory
from seg_pipeline.segmenters.devices import give_memory_back

def use():
    layers = [np.ones(2**23, np.uint8) for _ in range(10)]
    layers[0] = layers[5] = None
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

kept = keep_freed_memory() if sys.argv[1] == "keep" else None
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
faults = use() - before
full = resident_mb()
give_memory_back()
print(json.dumps({"kept": kept, "faults": faults, "given_back_mb": full - resident_mb()}))
"""


def run(how: str) -> dict[str, float]:
    """In a process of its own: the setting is the process's."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=True
    )
    return dict(json.loads(done.stdout))


@pytest.mark.skipif(sys.platform != "linux", reason="the setting is glibc's")
def test_memory_is_kept_from_one_picture_to_the_next_and_given_back_when_asked() -> None:
    """Mapping a page again costs more than filling it."""
    kept = run("keep")
    assert kept["kept"]
    assert kept["faults"] < 1000  # of 80 MB, which are 20,000 pages
    assert kept["given_back_mb"] > 60
