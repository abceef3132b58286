"""What the documents tell people to run is run, as it is written and in its order, and prints what
they say. What is not run is named here, with the reason."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from seg_pipeline.local.sample import BUNDLED, ask
from seg_pipeline.store import open_store
from seg_pipeline_tests.conftest import make_settings
from seg_pipeline_tests.documents import PAGES, ROOT, Step, blocks, steps
from seg_pipeline_tests.jobs.test_parked import park_callback
from seg_pipeline_tests.running_stack import Stack

LANGUAGES = {"console", "http", "json", "python", "sh", "text", "yaml"}

NOT_RUN = {
    # Starts or ends the service: the stack is one that `seg-pipeline up` has started
    "make run": "starts another service; `.ci/run` runs it, and local/test_stack.py what it does",
    "MODEL=yolov8x-seg make run": "downloads weights, and starts another service",
    "rm -r data": "nothing but removes a folder",
    "make clean": "would remove this environment",
    "APP_SERVER_URL=http://127.0.0.1:9 make run": "starts another service; test_operating.py",
    "prometheus --config": "starts a Prometheus; test_operating.py has promtool",
    "kill -STOP": "would hold up the others' worker; local/test_supervisor.py",
    "curl -s localhost:9090": "asks the Prometheus that is not started",
    "promtool": "test_operating.py runs both",
    # For whoever changes it, and longer than a test may be
    "make test": "is what runs this",
    "make env": "test_installing.py",
    "make check": "`.ci/run` runs `make lint` and all tests",
    "make lint": "`.ci/run`",
    "make format": "would change the files under test",
    "make docs ARGS=serve": "stays up; `.ci/run` builds them, and test_docs_site.py",
    ".venv/bin/python -m pytest": "tests that `make test` runs anyway",
    "make chaos": "takes fifteen minutes; chaos/test_chaos.py runs a short one",
    "make fuzz": "takes minutes; imaging/test_hostile_pictures.py sends the same pictures",
    # Something that this machine may not have
    "docker": "needs a Docker daemon; test_docker.py reads what it would run",
    "cp .env.example .env": "goes with docker compose",
    "git pull": "goes with docker compose",
    "pip install": "asks a registry; client/test_package.py holds what the package needs",
    "from ultralytics import YOLO": "downloads weights; exports/test_yolo.py has its readers",
    "python3 -m benchmarks.gpu.wheels": "asks a registry; test_gpu_benchmarks.py has the list",
    "python3 -m pip install --no-index": "installs what that has made",
    "PYTHONPATH=site python3 -m benchmarks.gpu": "measures for minutes; test_gpu_benchmarks.py",
    "seg-pipeline parity": "measures for half a minute; cli/test_parity_table.py has the table",
    # Tested as it stands elsewhere
    "PATCH {APP_SERVER_URL}": "what the service sends; adapters/test_callbacks_document.py",
    "import hashlib, hmac, time": "adapters/test_app_server.py runs it",
}  # fmt: skip
"""How a command, a request or a block of Python begins that no test runs from its page, and why."""

REFUSED = {
    "hooks.example.com": "webhook_refused",
    """--json '{"prefix": "s3://pictures/summer/"}'""": "url_refused",
    "/parked/callback-abc123/replay": "nothing_to_tell",
}
"""What a command has in it for which the stack lacks a setting, and the code of its refusal."""

BUNDLED_MODELS = {
    "yolov8x-seg": "demo-yolo", "yolo11n-seg": "demo-yolo", "sam2.1_hiera_large": "demo-sam2",
}  # fmt: skip
"""Stand-ins for models that would be downloaded."""


def reason_not_to_run(step: Step) -> str | None:
    return next((why for text, why in NOT_RUN.items() if step.text.startswith(text)), None)


def code_of(step: Step) -> str | None:
    """By which code it is refused: where the page says so, or for want of a setting."""
    shown = json.loads(step.shown) if step.shown.startswith("{") else {}
    refused = (code for text, code in REFUSED.items() if text in step.text)
    return next(refused, shown.get("code"))


def is_run(step: Step) -> bool:
    return reason_not_to_run(step) is None


RUN_ONCE: set[str] = set()
"""Commands that load a model and ask no service, once they were run."""

ALL_STEPS = [step for page in PAGES for step in steps(page)]
PAGES_TO_RUN = sorted({step.page for step in ALL_STEPS if is_run(step)})

OF_REQUESTS = {"docs/asking.md", "docs/batches.md", "docs/exports.md", "docs/http.md"}
"""Pages that are run on both profiles. What the others have beside requests is the same on each."""


@pytest.mark.parametrize("page", PAGES)
def test_every_code_block_says_in_which_language_it_is(page: str) -> None:
    """Else a new one might be a command that nothing runs."""
    assert {block.language for block in blocks(page)} <= LANGUAGES


def test_what_is_not_run_stands_in_a_document_and_names_tests_that_exist() -> None:
    texts = [step.text for step in ALL_STEPS]
    unused = [each for each in NOT_RUN if not any(text.startswith(each) for text in texts)]
    unused += [each for each in REFUSED if not any(each in text for text in texts)]
    assert unused == []
    named = {file for why in NOT_RUN.values() for file in re.findall(r"[\w/]+\.py", why)}
    assert [file for file in named if not (ROOT / "seg_pipeline_tests" / file).exists()] == []


@pytest.mark.parametrize(
    "text", [step.text for step in ALL_STEPS if step.language == "sh"], ids=lambda text: text[:50]
)
def test_every_command_is_one_that_bash_can_read(text: str) -> None:
    """Also what is not run."""
    done = subprocess.run(["bash", "-n", "-c", text], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "text",
    [step.text for step in ALL_STEPS if step.language == "python"],
    ids=lambda text: text[:50],
)
def test_every_block_of_python_can_be_compiled(text: str) -> None:
    compile(text, "block", "exec")


class Reader:
    """Somebody who follows a page at a running service, in a folder that has of the repository
    what the pages name."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.stack, self.folder = stack, folder
        self.given = ""
        (folder / "seg_pipeline").symlink_to(ROOT / "seg_pipeline")
        (folder / ".venv").symlink_to(sys.prefix)

    def do(self, step: Step) -> str:
        """What the step prints; it must succeed, or be refused as it is said above."""
        if step.text in RUN_ONCE:
            return ""
        RUN_ONCE.update({step.text} if " --alone " in step.text else ())
        code = code_of(step)
        if step.language == "python":
            return self.python(self._here(step.text))
        command = _curl_of(step.text) if step.language == "http" else step.text
        return self.shell(self._here(command), refused_as=code)

    def shell(self, command: str, refused_as: str | None = None) -> str:
        """What a command prints in Bash."""
        strict = command.replace("curl ", "curl --fail-with-body -sS --max-time 60 ")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", strict],
            cwd=self.folder, env=self._environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        if refused_as:
            assert json.loads(done.stdout)["code"] == refused_as, done.stdout
        else:
            assert done.returncode == 0, f"{strict}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done.stdout

    def python(self, code: str) -> str:
        """What a block prints in an interpreter where `given` has been run."""
        (self.folder / "block.py").write_text(f"{self.given}\n{code}\n")
        return self.shell(".venv/bin/python block.py")

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": f"{sys.prefix}/bin:/usr/local/bin:/usr/bin:/bin",
            "HOME": str(self.folder),
            "API_PORT": self.stack.base_url.rpartition(":")[2],
        }

    def _here(self, text: str) -> str:
        """The same at this service, with bundled models."""
        text = text.replace("localhost:8000", self.stack.base_url.removeprefix("http://"))
        for name, bundled in BUNDLED_MODELS.items():
            text = text.replace(name, bundled)
        return text


def _curl_of(request: str) -> str:
    """A request as a command; one that posts takes the sample picture along."""
    line, *headers = request.splitlines()
    method, path = line.split()
    options = [f"-H '{each}'" for each in headers]
    if method == "POST":
        options.append("--data-binary @seg_pipeline/demo/sample.jpg")
    return f"curl -X {method} {' '.join(options)} 'localhost:8000{path}'"


def put_pictures(reader: Reader) -> None:
    """The files of a reader's own that pages name."""
    folder = reader.folder
    (folder / "photos").mkdir()
    for name in ("cat.jpg", "picture.jpg", "photos/a.jpg", "photos/b.jpg"):
        shutil.copy(BUNDLED, folder / name)
    (folder / "addresses.txt").write_text("http://127.0.0.1:9/1.jpg\n")
    with ZipFile(folder / "pictures.zip", "w") as archive:
        archive.write(BUNDLED, "one.jpg")


def have_first_job(reader: Reader) -> None:
    """The job that pages go on with, which another page has sent."""
    reader.shell(
        "curl --data-binary @seg_pipeline/demo/sample.jpg"
        f" '{reader.stack.base_url}/segment?uuid=my-first-job'"
    )


def have_parked_callback(reader: Reader) -> None:
    store = open_store(make_settings(reader.stack.folder))
    park_callback(store, "abc123")


def have_ended_batch(reader: Reader) -> None:
    """The page's own, some seconds later."""
    reader.shell(
        f"curl -X POST '{reader.stack.base_url}/batches?uuid=summer'"
        " -H 'Content-Type: application/zip' --data-binary @pictures.zip"
    )
    batch = f"{reader.stack.base_url}/batches/summer"
    reader.stack.wait_for(
        lambda: ask("GET", batch).body["status"] == "completed", "the end of a batch"
    )
    reader.given = 'addresses = "pictures.zip"'


def unpack_exports(reader: Reader) -> None:
    """What the page's commands fetch and its Python reads."""
    export = f"{reader.stack.base_url}/jobs/my-first-job/export?format=zip"
    reader.shell(f"curl -o all.zip '{export}'")
    with ZipFile(reader.folder / "all.zip") as archive:
        archive.extractall(reader.folder)
    reader.given = f"""
import json, pathlib, urllib.request
answer = json.load(urllib.request.urlopen("{reader.stack.base_url}/jobs/my-first-job"))
class files:
    folder = pathlib.Path({str(reader.stack.data_dir / "assets/my-first-job")!r})
    get = staticmethod(lambda name: (files.folder / name).read_bytes())
    stream = staticmethod(lambda name: iter([files.get(name)]))
"""


BEFORE: dict[str, list[Callable[[Reader], None]]] = {
    "docs/asking.md": [have_first_job],
    "docs/batches.md": [have_ended_batch],
    "docs/exports.md": [have_first_job, unpack_exports],
    "docs/operating.md": [have_parked_callback],
}
"""What a reader of a page has done before."""


@pytest.fixture
def reader(stack: Stack, tmp_path: Path) -> Reader:
    reader = Reader(stack, tmp_path)
    put_pictures(reader)
    return reader


NEEDS_CURL = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@pytest.mark.slow
@NEEDS_CURL
@pytest.mark.parametrize("page", sorted(OF_REQUESTS))
def test_the_requests_of_a_page_work_and_print_what_it_shows(reader: Reader, page: str) -> None:
    follow(reader, page)


@pytest.mark.slow
@NEEDS_CURL
@pytest.mark.parametrize("profile", ["embedded"], indirect=True, scope="session")
@pytest.mark.parametrize("page", [page for page in PAGES_TO_RUN if page not in OF_REQUESTS])
def test_what_a_page_says_works_and_prints_what_it_shows(reader: Reader, page: str) -> None:
    follow(reader, page)


def follow(reader: Reader, page: str) -> None:
    """Does all that a page says, in its order."""
    for prepare in BEFORE.get(page, ()):
        prepare(reader)
    for step in filter(is_run, steps(page)):
        printed = reader.do(step)
        if step.shown:
            assert_prints(step.shown, printed)


def assert_prints(shown: str, printed: str) -> None:
    """JSON that has what is shown, or no line but those that are shown, whatever the numbers."""
    if shown.startswith("{"):
        assert_has(json.loads(printed), json.loads(shown))
        return
    lines = {masked(line) for line in printed.splitlines() if line.strip()}
    assert lines
    assert lines <= {masked(line) for line in shown.splitlines()}


def assert_has(document: Any, shown: Any) -> None:
    """Every name and every word that is shown is there; ids, hashes and numbers are others."""
    if isinstance(shown, dict):
        assert shown.keys() <= document.keys()
        for name, value in shown.items():
            assert_has(document[name], value)
    elif isinstance(shown, list):
        for value, each in zip(shown, document, strict=False):
            assert_has(each, value)
    elif isinstance(shown, str) and shown != "…":
        assert masked(document) == masked(shown)
    else:
        assert isinstance(document, type(shown)) or shown == "…"


def masked(text: str) -> str:
    """The same without what differs from run to run: uuids, hashes, times, ports, digits."""
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32}", "0", text)
    return re.sub(r"\d[\d.:]*", "0", text.replace("127.0.0.1", "localhost"))
