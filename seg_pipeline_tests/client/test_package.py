"""The package stands on httpx and pydantic alone."""

import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest

import seg_client

CLIENT = Path(__file__).parents[2] / "client"
HEAVY = ("PIL", "api", "dagster", "fastapi", "numpy", "seg_pipeline", "supervision", "torch")


def run(code: str) -> str:
    """What the code prints in an interpreter that has this client on its path, and refuses to
    import what it does not need."""
    guard = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
sys.path.insert(0, {str(CLIENT / "src")!r})
{code}
"""
    done = subprocess.run(
        [sys.executable, "-c", guard], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.process
def test_it_is_imported_without_what_its_extras_need() -> None:
    assert run("import seg_client; print(seg_client.Client('http://localhost').timeout)") == "300"


@pytest.mark.process
@pytest.mark.parametrize(
    ("call", "missing"),
    [
        ("masks.mask_of_png(b'')", "numpy"),
        ("images.image_of(b'')", "PIL"),
    ],
)
def test_what_is_missing_is_named_where_it_is_needed(call: str, missing: str) -> None:
    code = f"""
from seg_client import images, masks
try:
    {call}
except ImportError as error:
    print(error)
"""
    assert f"needs {missing}, which is not installed; pip install" in run(code)


def test_it_needs_httpx_with_what_that_needs_and_pydantic_alone() -> None:
    project = tomllib.loads((CLIENT / "pyproject.toml").read_text())["project"]
    assert project["dependencies"] == ["anyio", "httpx", "pydantic"]
    assert "anyio" in (requires("httpx") or [])
    assert (CLIENT / "src" / "seg_client" / "py.typed").exists()


def test_all_that_it_offers_is_there() -> None:
    assert [name for name in seg_client.__all__ if not hasattr(seg_client, name)] == []
