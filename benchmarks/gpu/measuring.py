"""One part in a process of its own: `python -m benchmarks.gpu.measuring MODULE DEVICE FOLDER FILE`.

A part that breaks CUDA, fills its memory or hangs then spoils no other.
"""

import argparse
import sys
import traceback
from importlib import import_module
from pathlib import Path

from benchmarks.gpu.findings import Asked, write_findings


def main(arguments: list[str]) -> int:
    """Measures the part; 1 if it raised, after its traceback."""
    parser = argparse.ArgumentParser(prog="benchmarks.gpu.measuring", description=__doc__)
    parser.add_argument("module")
    parser.add_argument("device")
    parser.add_argument("folder", type=Path)
    parser.add_argument("findings", type=Path)
    parser.add_argument("--short", action="store_true")
    given = parser.parse_args(arguments)
    try:
        import_module("seg_pipeline.segmenters")  # before torch: it has threads sleep as they wait
        asked = Asked(given.device, given.folder, given.short)
        write_findings(given.findings, import_module(given.module).measure(asked))
    except (Exception, SystemExit):
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
