"""Which GPU a worker gets: the driver is stood in for by a command that prints as it does."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from seg_pipeline.local import gpus as of_this_machine
from seg_pipeline.local import stack
from seg_pipeline.local.gpus import GpuClaim, claim_gpu, take_gpu, usable_gpus
from seg_pipeline.local.stack import with_workers_for_gpus
from seg_pipeline.settings import Settings


@pytest.fixture(autouse=True)
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder at the front of PATH; there is no GPU unless `gpus` says so."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/nowhere")
    return tmp_path


def gpus(driver: Path, *uuids: str) -> None:
    command = driver / "nvidia-smi"
    command.write_text("\n".join(["#!/bin/sh", *(f"echo {uuid}" for uuid in uuids)]))
    command.chmod(0o755)


def torch_reports(driver: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """Stands in for the process that asks torch, which sees no GPU here."""
    command = driver / "report"
    command.write_text(f"#!/bin/sh\necho a warning\necho '{line}'\n")
    command.chmod(0o755)
    monkeypatch.setattr(of_this_machine, "_REPORT", [str(command)])


@pytest.fixture
def claims() -> Iterator[ExitStack]:
    """Closes what is claimed."""
    with ExitStack() as stack:
        yield stack


def claimed(claims: ExitStack, claim: GpuClaim | None) -> str | None:
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
    [
        ("2, 3", ["2", "3"]),
        ("GPU-b2", ["GPU-b2"]),
        ("MIG-c3,MIG-GPU-d4/1/0", ["MIG-c3", "MIG-GPU-d4/1/0"]),
        ("", []),
        ("-1", []),
    ],
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


CARDS = ("GPU-a1", "GPU-b2", "GPU-c3")


@pytest.mark.parametrize(
    ("cards", "cores", "memory_mib", "workers"),
    [
        (1, 16, 143_771, 5),
        (1, 16, 24_564, 2),
        (1, 16, 9_728, 1),
        (1, 4, 143_771, 1),
        (2, 16, 81_559, 4),
        (3, 4, 81_559, 3),
        (3, 256, 600_000, 64),
    ],
)
def test_gpus_get_as_many_workers_as_cores_and_memory_can_keep_busy(
    driver: Path, monkeypatch: pytest.MonkeyPatch, cards: int, cores: int, memory_mib: int,
    workers: int,
) -> None:  # fmt: skip
    """Beside a quick model a job is mostly the host's work, of which one process does a part."""
    gpus(driver, *CARDS[:cards])
    torch_reports(driver, monkeypatch, json.dumps({"memory_mib": [memory_mib] * cards}))
    monkeypatch.setattr(stack, "usable_cores", lambda: cores)
    assert with_workers_for_gpus(Settings(_env_file=None)).workers == workers


def test_a_slice_of_a_gpu_counts_with_its_own_memory(
    driver: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver names the memory of the whole one, which took five workers to a tenth of it."""
    gpus(driver, "GPU-a1")
    torch_reports(driver, monkeypatch, '{"memory_mib": [9728]}')
    monkeypatch.setattr(stack, "usable_cores", lambda: 16)
    assert with_workers_for_gpus(Settings(_env_file=None)).workers == 1


@pytest.mark.parametrize(
    ("given", "workers"), [({"workers": 2}, 2), ({"device": "cuda:0"}, 1), ({"device": "cpu"}, 1)]
)
def test_a_number_of_workers_or_a_device_that_is_named_stays(
    driver: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], workers: int
) -> None:
    gpus(driver, *CARDS)
    torch_reports(driver, monkeypatch, '{"memory_mib": [143771]}')
    monkeypatch.setattr(stack, "usable_cores", lambda: 96)
    assert with_workers_for_gpus(Settings(_env_file=None, **given)).workers == workers


@pytest.mark.parametrize("report", ['{"memory_mib": []}', "Traceback", ""])
def test_a_gpu_that_torch_cannot_use_gets_one_worker(
    driver: Path, monkeypatch: pytest.MonkeyPatch, report: str
) -> None:
    """Such as one whose driver is too old: all the workers would share the CPU."""
    gpus(driver, "GPU-a1")
    torch_reports(driver, monkeypatch, report)
    monkeypatch.setattr(stack, "usable_cores", lambda: 96)
    assert with_workers_for_gpus(Settings(_env_file=None)).workers == 1
