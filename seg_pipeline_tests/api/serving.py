"""The API behind a real server on a free port."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn.server

from api.app import create_app
from api.main import listen, make_server
from seg_pipeline.settings import Settings
from seg_pipeline.store import Store
from seg_pipeline_tests.given_settings import GivenSettings


class QuickAsyncio:
    """asyncio with shorter naps: uvicorn takes some of 0.1 s before it ends, for each test anew."""

    def __getattr__(self, name: str) -> Any:
        """What asyncio has."""
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        """A nap of 5 ms at most."""
        await asyncio.sleep(min(seconds, 0.005))


uvicorn.server.asyncio = QuickAsyncio()  # type: ignore[assignment, attr-defined]

Serve = Callable[..., httpx.Client]


def api_settings(folder: Path, **values: Any) -> Settings:
    """Settings for one test: nothing from `.env`, data in the folder, the small model, short
    waits."""
    defaults = {
        "data_dir": folder / "data",
        "model": "demo-yolo",
        "wait_seconds": 20,
        "api_port": 1,
    }
    return GivenSettings(**{**defaults, **values})


@contextmanager
def serving(settings: Settings, store: Store) -> Iterator[str]:
    """The API on a free port, in a thread; yields its address."""
    server = make_server(create_app(settings, store))
    listener = listen(settings.model_copy(update={"api_port": 0}))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()


def eventually(condition: Callable[[], Any]) -> None:
    """Returns once the condition holds; fails if it does not within 20 s."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)
