"""The lines of Python that the READMEs show do what they say."""

import re
from pathlib import Path

import pytest

from seg_pipeline_tests.builders import picture_bytes

ROOT = Path(__file__).parents[2]


def python_of(document: str, service: str) -> str:
    """The document's Python that uses the client, at this service with a demo model."""
    text = (ROOT / document).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    code = "\n".join(block for block in blocks if "seg_client" in block)
    assert "http://localhost:8000" in code
    return code.replace("http://localhost:8000", service).replace("yolov8x-seg", "demo-yolo")


def test_the_projects_readme_prints_a_label_and_a_shape(
    service: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    exec(python_of("README.md", service), {})
    assert "disc (4, 4)\n" in capsys.readouterr().out


def test_the_clients_readme_saves_what_it_found(
    service: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cat.jpg").write_bytes(picture_bytes(format="JPEG"))
    shown: dict[str, object] = {}
    exec(python_of("client/README.md", service), shown)
    assert (tmp_path / "cat" / "mask_001.png").exists()
    assert (tmp_path / "cat.webp").exists()
    assert {"mask", "document"} <= shown.keys()


def test_the_clients_prose_keeps_within_100_characters() -> None:
    text = (ROOT / "client" / "README.md").read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    assert [line for line in prose.splitlines() if len(line) > 100] == []
