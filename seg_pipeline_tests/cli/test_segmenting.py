"""What segments the pictures of a command: the service named, the one that runs, or nobody else."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from seg_pipeline.adapters.remote_service import RemoteService
from seg_pipeline.cli.segmenting import (
    Wish,
    WrongUsage,
    open_service,
    read_parameters,
    read_prompts,
)
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


def test_points_and_boxes_are_read_as_the_api_takes_them() -> None:
    assert read_prompts(["10,20.5", "3, 4,0"], []) == {"points": [[10, 20.5], [3, 4, 0]]}
    assert read_prompts([], ["0,0,9,8"]) == {"box": [0, 0, 9, 8]}
    assert read_prompts([], ["0,0,9,8", "1,1,2,2"]) == {"boxes": [[0, 0, 9, 8], [1, 1, 2, 2]]}
    assert read_prompts([], []) == {}


@pytest.mark.parametrize("text", ["", "1", "1,b", "1,2,0,4", "nan,1", "1;2"])
def test_a_point_that_is_none_is_told_how_to_write_it(text: str) -> None:
    with pytest.raises(WrongUsage, match=r"--point .* must be x,y or x,y,0"):
        read_prompts([text], [])


def test_a_model_without_prompts_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, model="demo-yolo")
    with pytest.raises(WrongUsage, match="demo-yolo takes no prompts"):
        open_service(Wish(alone=True, points=["1,2"]), settings, print)
