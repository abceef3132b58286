"""`scripts/other_pythons.py`: which Pythons a machine has, and what runs on them."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent


def _loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "other_pythons", ROOT / "scripts" / "other_pythons.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["other_pythons"] = module
    spec.loader.exec_module(module)
    return module


other_pythons = _loaded()


def _python(minor: int, micro: int = 0) -> object:
    return other_pythons.Interpreter((3, minor, micro), Path(f"/opt/3.{minor}.{micro}/python3"))


def test_this_python_is_known_by_its_version() -> None:
    found = other_pythons.interpreter(Path(sys.executable))
    assert found.version == sys.version_info[:3]


@pytest.mark.parametrize("text", ["exit 1", "echo Python", "echo 3 13"])
def test_what_does_not_answer_as_python_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "python3.13"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    assert other_pythons.interpreter(path) is None
    assert other_pythons.interpreter(tmp_path / "python3.12") is None


def test_the_newest_of_each_version_is_taken_and_neither_ours_nor_one_that_is_not_supported() -> (
    None
):
    found = [_python(13, 2), _python(13, 10), _python(12), _python(11, 9), _python(10), _python(15)]
    assert other_pythons.newest_of_each(found, 11) == [_python(12), _python(13, 10)]


def test_what_is_not_here_is_said() -> None:
    both = other_pythons.summary(_python(11, 7), [_python(12, 1), _python(13)])
    assert both == (
        "Besides Python 3.11.7 this machine has 3.12.1, 3.13.0. Not tested, since it is not here:"
        " 3.14."
    )
    alone = other_pythons.summary(_python(12), [])
    assert "no other" in alone
    assert "3.11, 3.13, 3.14" in alone


def test_pythons_of_pyenv_and_uv_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setenv("UV_PYTHON_INSTALL_DIR", str(tmp_path / "uv"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    paths = [
        tmp_path / "pyenv/versions/3.13.0/bin/python3",
        tmp_path / "uv/cpython-3.12.1-linux-x86_64-gnu/bin/python3",
    ]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.touch()
    candidates = [*other_pythons.candidates()]
    assert candidates[-2:] == paths
    assert tmp_path / "bin/python3.14" in candidates


def test_a_python_on_which_the_tests_fail_is_named_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    others = [_python(12, 99), _python(13, 99)]
    monkeypatch.setattr(other_pythons, "newest_of_each", lambda found, ours: others)
    monkeypatch.setattr(other_pythons, "passes", lambda python: python.version[1] == 12)
    with pytest.raises(SystemExit, match=r"fail on Python 3\.13\.99"):
        other_pythons.main(["--all"])
    assert "3.12.99, 3.13.99" in capsys.readouterr().out
