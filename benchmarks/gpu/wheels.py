"""Wheels of what the parts but `service` need beside torch, for a machine without a registry.

`python3 -m benchmarks.gpu.wheels FOLDER`, by a Python of the version that the machine has. The
machine's own Python is to have torch, OpenCV, httpx and requests.
"""

import re
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).parents[2] / "requirements.lock"

PACKAGES = (
    "annotated-types", "antlr4-python3-runtime", "hydra-core", "iopath", "omegaconf", "portalocker",
    "pydantic", "pydantic-core", "pydantic-settings", "python-dotenv", "sam2", "typing-inspection",
    "ultralytics",
)  # fmt: skip


def main() -> int:
    """Makes the wheels with pip, which builds those that the registry has as sources alone."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", sys.argv[1]]
    return subprocess.run([*command, *pinned()], check=False).returncode


def pinned() -> list[str]:
    """The packages as the lock pins them, for each Python; ValueError for one that it lacks."""
    pins = re.findall(r"^([\w.-]+)(==[^\\\n]+)", LOCK.read_text(), re.MULTILINE)
    if missing := set(PACKAGES) - {name for name, _ in pins}:
        raise ValueError(f"{LOCK.name} lacks {', '.join(sorted(missing))}")
    return [f"{name}{pin.rstrip()}" for name, pin in pins if name in PACKAGES]


if __name__ == "__main__":
    sys.exit(main())
