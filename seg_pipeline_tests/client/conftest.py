"""Fixtures: a served API whose jobs a stand-in finishes, and clients of it."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, TypeVar

import anyio
import pytest

from seg_client import Client
from seg_pipeline.store import Store, open_store
from seg_pipeline_tests.api.serving import api_settings, serving
from seg_pipeline_tests.api.stand_ins import DRAWING, FakeWorker

OTHER = "#.../..../..../...."

T = TypeVar("T")


class InALoop(Protocol):
    """Runs something that awaits in an event loop, and returns what it returns."""

    def __call__(self, use: Callable[[], Awaitable[T]], /) -> T: ...


@pytest.fixture(params=["asyncio", "trio"])
def in_a_loop(request: pytest.FixtureRequest) -> InALoop:
    """A test that asks for it runs in each of the event loops."""
    return lambda use: anyio.run(use, backend=request.param)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an API whose jobs all end with two segments."""
    settings = api_settings(tmp_path_factory.mktemp("service"))
    store = open_store(settings)
    with serving(settings, store) as url, FakeWorker(store, DRAWING, OTHER):
        yield url


@pytest.fixture
def client(service: str) -> Iterator[Client]:
    """A client of that API."""
    with Client(service, timeout=20, retry_seconds=5) as client:
        yield client


class Served:
    """Starts an API with settings of the test's own, which nothing works on unless it is told."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self.store: Store
        self.url = ""

    def start(self, **values: Any) -> Client:
        """A client of the API; `api_key` goes to the client."""
        settings = api_settings(self._folder, **values)
        self.store = open_store(settings)
        self.url = self._stack.enter_context(serving(settings, self.store))
        return self._stack.enter_context(Client(self.url, timeout=20, retry_seconds=5))

    def work(self, *drawings: str, **how: Any) -> None:
        """Finishes all jobs from now on with a segment for each drawing, or an error."""
        self._stack.enter_context(FakeWorker(self.store, *drawings, **how))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    """An API that the test starts."""
    with ExitStack() as stack:
        yield Served(tmp_path, stack)
