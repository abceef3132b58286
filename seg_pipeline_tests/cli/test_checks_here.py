"""What doctor finds on this machine: real ports and files, and reports of GPUs as torch gives."""

import socket
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from seg_pipeline.cli import checks_here
from seg_pipeline.cli.checks_here import (
    Wrong,
    check_gpu,
    check_port,
    check_versions,
    check_weights,
    differences,
    judge_gpu,
    suits,
    torch_report,
)
from seg_pipeline_tests.conftest import make_settings
from seg_pipeline_tests.running_stack import free_ports
from seg_pipeline_tests.serving import serving

CUDA = {"torch": "2.9.0", "cuda": "13.0", "devices": ["H100"], "complaint": None}


def answering(status: str) -> Any:
    """An application that answers everything so."""

    def app(_: object, start: Any) -> list[bytes]:
        start(status, [])
        return [b"{}"]

    return app


def test_a_library_of_another_version_is_named(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text(
        f"rich=={version('rich')} \\\n    --hash=sha256:ab\n"
        "numpy==1.0 ; python_full_version < '3.12' \\\n"
        f"numpy=={version('numpy')} ; python_full_version >= '3.12' \\\n"
        "only-elsewhere==1 ; sys_platform == 'win32' \\\n"
    )
    assert differences(lock) == []
    check_versions(lock)
    lock.write_text("rich==0.1 \\\nnever-heard-of==2\n")
    with pytest.raises(Wrong, match=r"rich is .* instead of 0.1; never-heard-of is not installed"):
        check_versions(lock)


@pytest.mark.parametrize(
    ("python", "is_good"), [((3, 10), False), ((3, 11), True), ((3, 14), True), ((3, 15), False)]
)
def test_python_lies_within_bounds(python: tuple[int, int], is_good: bool) -> None:
    assert suits("<3.15,>=3.11", python) is is_good


def test_a_port_is_free_ours_or_somebody_elses() -> None:
    (port,) = free_ports(1)
    assert "is free" in check_port("API_PORT", "127.0.0.1", port, f"http://127.0.0.1:{port}/livez")
    for status, ours in (("200 OK", True), ("404 Not Found", False)):
        with serving(answering(status)) as url:
            taken = int(url.rpartition(":")[2])
            if ours:
                assert "this service answers" in check_port("API_PORT", "127.0.0.1", taken, url)
            else:
                with pytest.raises(Wrong, match="stop what uses it, or set API_PORT"):
                    check_port("API_PORT", "127.0.0.1", taken, url)


def test_a_port_whose_owner_says_nothing_is_somebody_elses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checks_here, "_ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(Wrong, match="set API_PORT"):
            check_port("API_PORT", "127.0.0.1", port, f"http://127.0.0.1:{port}/livez")


def test_missing_weights_come_with_the_command_that_brings_them(tmp_path: Path) -> None:
    there = make_settings(tmp_path, model="demo-yolo", queue_model="yolov8n-seg")
    assert "demo-yolo" in check_weights(there)
    settings = there.model_copy(update={"sqs_queue_url": "http://x/q", "weights_dir": tmp_path})
    with pytest.raises(Wrong, match="`seg-pipeline weights pull yolov8n-seg` brings them"):
        check_weights(settings)


@pytest.mark.parametrize(
    ("device", "driver", "changes", "told"),
    [
        ("cuda:1", "580.1", {}, "the last GPU is cuda:0"),
        ("cuda", None, {"devices": []}, "install NVIDIA's driver"),
        ("auto", "470.1", {"devices": [], "complaint": "too old"}, r"too old.*update the driver"),
        ("auto", "580.1", {"devices": [], "cuda": None}, "install torch built for CUDA"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_explained(
    device: str, driver: str | None, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(Wrong, match=told):
        judge_gpu(device, driver, CUDA | changes)


def test_a_gpu_that_torch_can_use_is_named() -> None:
    assert judge_gpu("auto", "580.1", CUDA) == (
        "torch 2.9.0 (CUDA 13.0) computes on H100, driver 580.1."
    )
    assert check_gpu("cpu") == "DEVICE=cpu: no GPU is used."


@pytest.mark.process
def test_torch_reports_by_a_process_of_its_own() -> None:
    assert torch_report()["torch"].startswith(version("torch").partition("+")[0])
