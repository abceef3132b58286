"""Which GPU a worker gets: the driver is stood in for by a command that prints as it does."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from seg_pipeline.local.gpus import Claim, claim_gpu, take_gpu, usable_gpus
from seg_pipeline.local.stack import with_a_worker_for_each_gpu
from seg_pipeline.settings import Settings


@pytest.fixture(autouse=True)
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder at the front of PATH; there is no GPU unless `gpus` says so."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/nowhere")
    return tmp_path


def gpus(driver: Path, *uuids: str) -> None:
    command = driver / "nvidia-smi"
    command.write_text("#!/bin/sh\n" + "".join(f"echo {uuid}\n" for uuid in uuids))
    command.chmod(0o755)


@pytest.fixture
def claims() -> Iterator[ExitStack]:
    """Closes what is claimed."""
    with ExitStack() as stack:
        yield stack


def claimed(claims: ExitStack, claim: Claim | None) -> str | None:
    return claim.gpu if claim and claims.enter_context(claim.file) else None


def test_the_driver_names_the_gpus(driver: Path) -> None:
    gpus(driver, "GPU-a1", "GPU-b2")
    assert usable_gpus("auto") == usable_gpus("cuda") == ["GPU-a1", "GPU-b2"]


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_a_device_that_is_named_leaves_no_choice(driver: Path, device: str) -> None:
    gpus(driver, "GPU-a1", "GPU-b2")
    assert usable_gpus(device) == []


def test_without_a_driver_there_is_none(driver: Path) -> None:
    assert usable_gpus("auto") == []
    (driver / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    (driver / "nvidia-smi").chmod(0o755)
    assert usable_gpus("auto") == []


@pytest.mark.parametrize(
    ("named", "expected"),
    [("2, 3", ["2", "3"]), ("GPU-b2", ["GPU-b2"]), ("", []), ("-1", [])],
)
def test_what_the_user_lets_cuda_see_counts(
    driver: Path, monkeypatch: pytest.MonkeyPatch, named: str, expected: list[str]
) -> None:
    gpus(driver, "GPU-a1", "GPU-b2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert usable_gpus("cuda") == expected


def test_each_worker_gets_a_gpu_of_its_own_until_all_have_one(
    driver: Path, claims: ExitStack
) -> None:
    gpus(driver, "GPU-a1", "GPU-b2")
    got = [claimed(claims, claim_gpu("cuda", driver / "gpus")) for _ in range(5)]
    assert got == ["GPU-a1", "GPU-b2", "GPU-a1", "GPU-b2", "GPU-a1"]


def test_one_gpu_is_not_claimed(driver: Path) -> None:
    gpus(driver, "GPU-a1")
    assert claim_gpu("cuda", driver / "gpus") is None


CLAIMING = """
import sys
from pathlib import Path
from seg_pipeline.local.gpus import take_gpu
import os
claim = take_gpu("auto", Path(sys.argv[1]))
print(claim.gpu, os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
sys.stdin.read()
"""


@pytest.mark.process
def test_the_claim_of_a_killed_worker_is_free_again(driver: Path, claims: ExitStack) -> None:
    gpus(driver, "GPU-a1", "GPU-b2")
    worker = subprocess.Popen(
        [sys.executable, "-c", CLAIMING, str(driver / "gpus")],
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert worker.stdout is not None
    assert worker.stdout.readline().split() == ["GPU-a1", "GPU-a1"]
    assert claimed(claims, claim_gpu("cuda", driver / "gpus")) == "GPU-b2"
    worker.kill()
    worker.communicate()
    assert claimed(claims, claim_gpu("cuda", driver / "gpus")) == "GPU-a1"


def test_a_folder_that_cannot_be_used_costs_the_choice_alone(
    driver: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gpus(driver, "GPU-a1", "GPU-b2")
    (driver / "file").write_text("")
    assert take_gpu("cuda", driver / "file" / "gpus") is None
    assert "which GPUs other workers have is not known" in caplog.text


@pytest.mark.parametrize(
    ("given", "workers"), [({}, 3), ({"workers": 2}, 2), ({"device": "cuda:0"}, 1)]
)
def test_a_machine_gets_a_worker_for_each_gpu_unless_told_otherwise(
    driver: Path, given: dict[str, Any], workers: int
) -> None:
    gpus(driver, "GPU-a1", "GPU-b2", "GPU-c3")
    assert with_a_worker_for_each_gpu(Settings(_env_file=None, **given)).workers == workers
