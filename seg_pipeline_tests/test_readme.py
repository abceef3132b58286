"""What the README names exists, and what it tells people to type works."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from seg_pipeline.cli.main import app
from seg_pipeline.local.sample import BUNDLED
from seg_pipeline.settings import Settings
from seg_pipeline_tests.running_stack import Stack

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")

MADE_AT_RUN_TIME = ("data", "models", ".venv", ".env")
SHELLS = ("sh", "bash", "shell", "console")
SOURCE_FILE = re.compile(r"[\w.-]+\.(?:py|md|toml|lock|ya?ml)")


def inline_code() -> list[str]:
    """What stands between single backticks outside code blocks."""
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"```.*?```", "", README, flags=re.DOTALL))


def commands() -> list[str]:
    """The commands of shell blocks, continued lines joined, prompts and comments removed."""
    blocks = re.findall(rf"```(?:{'|'.join(SHELLS)})\n(.*?)```", README, flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [
        line.removeprefix("$ ").strip()
        for line in lines
        if line.strip() and not line.startswith("#")
    ]


def named_files() -> set[str]:
    """Paths that inline code and links name: those that begin with something at the top of the
    project, and source files by their name alone. Files of a job (`result.json`) and what a run
    makes are none of them."""
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", README)
    tops = {path.name for path in ROOT.iterdir()} - set(MADE_AT_RUN_TIME)
    words = {
        word
        for code in inline_code()
        for word in code.split()
        if not re.search(r"[{}<>*$…:]", word)
    }
    return {
        word for word in words if word.split("/")[0] in tops or SOURCE_FILE.fullmatch(word)
    } | set(links)


def matches(pattern: str) -> list[str]:
    """What a pattern finds in commands and inline code, each once."""
    return sorted(
        {found for text in [*commands(), *inline_code()] for found in re.findall(pattern, text)}
    )


def curl_commands() -> list[str]:
    """The requests, to be sent to a running service."""
    return [command for command in commands() if command.startswith("curl ")]


@pytest.mark.parametrize("name", sorted(named_files()))
def test_a_file_that_is_named_exists(name: str) -> None:
    places = [ROOT / name, *ROOT.glob(f"[a-z]*/**/{name}")] if "/" not in name else [ROOT / name]
    assert any(place.exists() for place in places), f"README.md names {name}, which does not exist"


@pytest.mark.parametrize("target", matches(r"(?:^|\s)make ([a-z][a-z-]*)"))
def test_a_make_target_that_is_named_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("command", matches(r"(?:^|\s|/)seg-pipeline ([a-z][a-z-]*)"))
def test_a_command_that_is_named_exists(command: str) -> None:
    names = {
        each.name or each.callback.__name__ for each in app.registered_commands if each.callback
    }
    assert command in names | {each.name for each in app.registered_groups}


@pytest.mark.parametrize("name", matches(r"\b([A-Z][A-Z0-9]*_[A-Z0-9_]+)\b(?=$|=|[^/.])"))
def test_a_setting_that_is_named_exists(name: str) -> None:
    assert name.lower() in Settings.model_fields, f"README.md names {name}, which is no setting"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_requests_work_as_they_are_written(stack: Stack, tmp_path: Path) -> None:
    """In their order, since one may ask for what another sent."""
    uuid = stack.send_sample().document["uuid"]
    for command in curl_commands():
        _send(_to_this_service(command, stack.base_url, uuid), tmp_path)


def _to_this_service(command: str, base_url: str, uuid: str) -> str:
    """Addresses become the test's, and the uuid of an example that of a real job."""
    command = re.sub(r"(?:http://)?(?:localhost|127\.0\.0\.1):8000", base_url, command)
    return re.sub(
        r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\$\{?UUID\}?|<uuid>|\{uuid\}", uuid, command
    )


def _send(command: str, folder: Path) -> None:
    """Runs it in a folder where each picture that it names is the bundled one; it must succeed."""
    for picture in re.findall(r"@\.?/?([\w./-]+\.(?:jpe?g|png|webp))", command):
        (folder / picture).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(BUNDLED, folder / picture)
    strict = command.replace(
        "curl ", "curl --fail-with-body --silent --show-error --max-time 60 ", 1
    )
    done = subprocess.run(
        ["bash", "-c", strict], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{strict}\n{done.stdout[:2000]}\n{done.stderr}"
