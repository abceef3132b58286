"""Real stores for every test: a folder, memory, and S3 as a moto server speaks it over HTTP."""

import atexit
import gc
import logging
import os
import re
import secrets
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

from seg_pipeline.settings import Settings
from seg_pipeline.store import Store, open_store
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline.telemetry.logs import HEARD
from seg_pipeline_tests import unended
from seg_pipeline_tests.aws import REGION, aws_server
from seg_pipeline_tests.certificates import share_certificates
from seg_pipeline_tests.given_settings import GivenSettings
from seg_pipeline_tests.running_stack import PROFILES, Stack
from seg_pipeline_tests.servers import postgres_server, redis_server, require_servers

hypothesis.settings.register_profile(
    "busy machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile(
    "quick", hypothesis.settings.get_profile("busy machine"), max_examples=25
)
hypothesis.settings.load_profile("busy machine")

share_certificates()
gc.disable()  # what is imported stays; a search for garbage in it would take seconds


def pytest_collection_finish() -> None:
    """Leaves out of every search for garbage what the modules hold, also of pytest's at its end."""
    gc.freeze()
    gc.enable()
    atexit.register(gc.unfreeze)  # else Triton's binding calls all of itself leaked


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """Takes back what a command that ran in this process has set: the next test reads its log."""
    loggers = [logging.getLogger(name) for name in (None, *HEARD)]
    before, levels = [*logging.root.handlers], [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        if logger.level != level:  # each call clears what all loggers remember
            logger.setLevel(level)
    for handler in [*logging.root.handlers]:
        if type(handler) is logging.StreamHandler and handler not in before:
            logging.root.removeHandler(handler)


@pytest.fixture(autouse=True)
def ended_progress() -> Iterator[None]:
    """Ends the notes on jobs that the test began and did not end."""
    yield
    unended.end_all()


@pytest.fixture(scope="session")
def aws_endpoint() -> Iterator[str]:
    """The URL of an AWS stand-in (S3, SQS) that takes any credentials."""
    with aws_server() as url:
        yield url


@pytest.fixture
def bucket_settings(aws_endpoint: str, tmp_path: Path) -> Settings:
    """Settings with an empty bucket of their own."""
    bucket = f"bucket-{secrets.token_hex(6)}"
    names = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": REGION}
    boto3.client("s3", endpoint_url=aws_endpoint, **names).create_bucket(Bucket=bucket)
    return make_settings(
        tmp_path,
        s3_bucket=bucket,
        s3_endpoint_url=aws_endpoint,
        s3_access_key="test",
        s3_secret_key="test",
    )


@pytest.fixture
def folder_settings(tmp_path: Path) -> Settings:
    """Settings with empty folders, which do not exist yet."""
    return make_settings(tmp_path)


@pytest.fixture(params=["folder", "memory", "s3"])
def store(request: pytest.FixtureRequest) -> Store:
    """An empty store; a test that asks for it runs against each kind."""
    if request.param == "memory":
        return ObjectStore.in_memory()
    return open_store(
        request.getfixturevalue("bucket_settings" if request.param == "s3" else "folder_settings")
    )


@pytest.fixture
def folder_store(folder_settings: Settings) -> Store:
    """An empty store in folders."""
    return open_store(folder_settings)


@pytest.fixture
def bucket_store(bucket_settings: Settings) -> Store:
    """An empty store in a bucket."""
    return open_store(bucket_settings)


def make_settings(folder: Path, **values: Any) -> Settings:
    """Settings whose data lives in the folder, whatever the environment and `.env` say about other
    things."""
    return GivenSettings(**{"data_dir": folder / "data", **values})


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The URL of a Redis that all tests share; each uses keys of its own or a database of its
    own."""
    with redis_server() as url:
        yield url


@pytest.fixture(scope="session")
def postgres_server_url() -> Iterator[str]:
    """The URL of a Postgres that all tests share, up to the database's name."""
    with postgres_server() as url:
        yield url


SERVERS = {"aws_endpoint", "bucket_settings", "postgres_server_url", "profile", "redis_url"}
"""Fixtures that start a server."""


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None, None, None]:
    """A test that asks for a server starts a process. Slow tests come first, so that no process
    waits for one at the end."""
    for item in items:
        if _asks_for_a_server(item):
            item.add_marker(pytest.mark.process)
    yield
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def _asks_for_a_server(item: pytest.Item) -> bool:
    callspec = getattr(item, "callspec", None)
    is_on_s3 = callspec is not None and callspec.params.get("store") == "s3"
    return is_on_s3 or bool(SERVERS & set(getattr(item, "fixturenames", ())))


_ASKS_FOR_THE_STACK = re.compile(
    r"^(?:def test_\w+|@pytest\.fixture.*\ndef \w+)\([^)]*\bstack: Stack\b", re.MULTILINE
)


class SharedServices(LoadScopeScheduling):  # type: ignore[misc]
    """Slow tests that share a running service run in one process; other tests go to whichever
    process is free. (xdist's own groups do not work with pytest 9: it changes a name that pytest no
    longer reads.)"""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return scope(nodeid, _text(self.config.rootpath / path))


def scope(nodeid: str, text: str) -> str:
    """The name that tests of one process have in common, by a test's id and its file's text: that
    of the service which the whole session shares, or the file's, each with the profile; or the
    test's own."""
    if "pytest.mark.slow" not in text:
        return nodeid
    path, _, test = nodeid.partition("::")
    profile = next((name for name in PROFILES if re.search(rf"[\[-]{name}\b", test)), "")
    shared = profile and _ASKS_FOR_THE_STACK.search(text)
    return f"{'stack' if shared else path}[{profile}]"


@cache
def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Half as many processes again as there are cores for the quick tests, some of which wait; else
    as xdist chooses."""
    return (os.cpu_count() or 1) * 3 // 2 if "not slow" in config.option.markexpr else None


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> SharedServices | None:
    """Hands out the tests when several processes run them (`-n`); where none is slow, as xdist
    does."""
    return None if "not slow" in config.option.markexpr else SharedServices(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test logged may be no text; test processes send one another nothing else."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report


@pytest.fixture(scope="session", params=PROFILES)
def profile(request: pytest.FixtureRequest) -> str:
    """`embedded` or `servers`: a test that asks for it runs on both."""
    if request.param == "servers":
        require_servers()
    return str(request.param)


_shared = ExitStack()
"""Holds the service that the session shares, while it runs."""


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, profile: str) -> Iterator[Stack]:
    """The whole service with the demo models on each profile, started once for all tests that ask
    for it; they are `slow`."""
    yield _shared.enter_context(Stack(tmp_path_factory.mktemp("stack"), profile=profile))
    _shared.close()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Ends the shared service after its last test where several processes run tests: the session
    goes on for a quarter of an hour, and an idle service takes its share of a core."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    if nextitem is None or _scope_of(nextitem) != _scope_of(item):
        _shared.close()


def _scope_of(item: pytest.Item) -> str:
    return scope(item.nodeid, _text(item.path))
