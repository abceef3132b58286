"""What segments the pictures of a command: the service named, the one that runs, or nobody else."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from seg_pipeline.adapters.remote_service import RemoteService
from seg_pipeline.cli.segmenting import Wish, WrongUsage, open_service, read_parameters
from seg_pipeline.pipeline.alone import Alone
from seg_pipeline_tests.conftest import make_settings
from seg_pipeline_tests.running_stack import free_ports
from seg_pipeline_tests.serving import serving


def alive(_: object, start: Any) -> list[bytes]:
    """Answers 200 to everything."""
    start("200 OK", [])
    return [b"{}"]


def test_the_service_of_this_machine_is_taken_if_it_runs(tmp_path: Path) -> None:
    with serving(alive) as url:
        settings = make_settings(tmp_path, api_port=urlsplit(url).port, model="demo-yolo")
        said: list[str] = []
        assert isinstance(open_service(Wish(), settings, said.append), RemoteService)
        assert said == [f"The service at {url} segments; --alone does without it."]
        assert isinstance(open_service(Wish(alone=True), settings, said.append), Alone)


def test_without_a_service_the_model_is_loaded_here(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    settings = make_settings(tmp_path, api_port=port, model="demo-yolo")
    assert isinstance(open_service(Wish(), settings, print), Alone)


@pytest.mark.parametrize("text", ["", "[]", "1", "{"])
def test_parameters_are_an_object(text: str) -> None:
    with pytest.raises(WrongUsage, match="--parameters"):
        read_parameters(text)
