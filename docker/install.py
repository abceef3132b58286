"""Installs into an image what `make` installs on a machine, in steps that an image's layers can
cache apart.

    install.py packages [cpu|cuda]   what requirements.lock names
    install.py dev-packages cpu      what requirements-dev.lock names
    install.py project               the project itself, once its files are there

The registry publishes torch for Linux with CUDA alone, and that links against CUDA's libraries:
without them it does not load on a CPU either. For `cpu` those stay, and what torch opens only when
it meets a GPU is left out: 2.3 GB.
"""

import compileall
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import environment  # noqa: E402  the path to it is known only now

ONLY_WITH_A_GPU = (
    "cuda-bindings",
    "cuda-pathfinder",
    "nvidia-cuda-cccl",
    "nvidia-cusolver",
    "nvidia-nvjitlink",
    "nvidia-nvtx",
    "triton",  # compiles kernels, for torch.compile
)
CUDNN_ENGINES = "lib/python*/site-packages/nvidia/cudnn/lib/libcudnn_*.so*"
"""What `libcudnn.so` opens at the first convolution on a GPU."""


def main(step: str, device: str = "cuda") -> None:
    """Takes one step; what failed is one line."""
    steps = {"packages": "requirements.lock", "dev-packages": "requirements-dev.lock"}
    try:
        if step == "project":
            install_project()
        else:
            install_packages(ROOT / steps[step], device)
    except environment.InstallFailed as failure:
        sys.exit(str(failure))


def install_packages(lock: Path, device: str) -> None:
    """What the lock names, or what of it a CPU needs; loaded once, which proves it and leaves
    compiled files."""
    environment.LOCK = lock
    if device == "cpu":
        environment.install_packages(without(lock, ONLY_WITH_A_GPU))
        for engine in environment.VENV.glob(CUDNN_ENGINES):
            engine.unlink()
    else:
        environment.install_packages(lock)
    imports = f"import {', '.join(environment.HEAVY)}"
    environment.run([environment.PYTHON, "-c", imports], "the installed packages do not load")


def without(lock: Path, names: "tuple[str, ...]") -> Path:
    """The same lock, hashes and all, less these distributions; beside it, as `cpu-<name>`."""
    blocks = re.split(r"\n(?=[a-z0-9])", lock.read_text(encoding="utf-8"))
    kept = [block for block in blocks if block.partition("==")[0] not in names]
    shorter = lock.with_name(f"cpu-{lock.name}")
    shorter.write_text("\n".join(kept), encoding="utf-8")
    return shorter


def install_project() -> None:
    """The project and compiled files of it, since the user that runs it may write none."""
    hatchling = ["--constraints", environment.LOCK, environment.locked_version("hatchling")]
    hashed = ["--quiet", "--require-hashes", "--python", environment.PYTHON]
    environment.run(
        [*environment.uv_pip(), "install", *hashed, *hatchling], "hatchling could not be installed"
    )
    environment.install_project()
    for package in ("api", "seg_pipeline"):
        compileall.compile_dir(ROOT / package, quiet=1)


if __name__ == "__main__":
    main(*sys.argv[1:])
