"""Prepares what a process needs: `python -m seg_pipeline.runtime.preparation STEP…`.

The steps are tables, broker, store and weights. A server that does not answer yet is waited for.
What is missing in the end is one sentence, and exit code 1.
"""

import fcntl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import sqlalchemy as db
from kombu.exceptions import OperationalError

from seg_pipeline.errors import ModelError, StoreError, StoreTooNew
from seg_pipeline.runtime.celery_app import make_celery
from seg_pipeline.runtime.dagster_home import make_dagster_home_ready
from seg_pipeline.runtime.dagster_storage import postgres_url, prepare
from seg_pipeline.settings import Settings, get_settings
from seg_pipeline.store import open_store
from seg_pipeline.store.format import check_format
from seg_pipeline.store.private_folder import make_private

PATIENCE_SECONDS = 30.0
TRY_SECONDS = 5.0
PAUSE_SECONDS = 0.5
TABLES_LOCK = 0x5E67AB1E
"""The number of Postgres' advisory lock. Any number works that nobody else uses."""


class NotReady(Exception):
    """What is missing, and what to do. It may come by itself."""


class Unusable(NotReady):
    """A fault that waiting does not fix."""


def make_tables_ready(settings: Settings) -> None:
    """Makes Dagster's tables if they are missing.

    It holds a lock: two processes that make them at once leave them broken.
    """
    with (
        _postgres_lock(settings.database_url)
        if settings.database_url
        else _folder_lock(settings.data_dir)
    ):
        prepare()


def check_broker(settings: Settings) -> None:
    """Connects to the broker once. Raises NotReady."""
    if settings.broker_url is None:
        return
    options = {"socket_connect_timeout": TRY_SECONDS, "socket_timeout": TRY_SECONDS}
    host = _host(settings.broker_url)
    with make_celery(settings).connection_for_write(transport_options=options) as connection:
        try:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=TRY_SECONDS)
        except (OperationalError, OSError) as error:
            raise NotReady(
                f"the broker at {host} cannot be used: {error}; set BROKER_URL."
            ) from error


def check_database(settings: Settings) -> None:
    """Logs in to the database once. Raises NotReady."""
    if settings.database_url is not None:
        with _postgres(settings.database_url) as connection:
            connection.execute(db.text("select 1"))


def check_store(settings: Settings) -> None:
    """Checks that this version can read the store.

    Raises NotReady, or Unusable for a newer format.
    """
    try:
        check_format(open_store(settings))
    except StoreTooNew as error:
        raise Unusable(str(error)) from error
    except StoreError as error:
        raise NotReady(f"{error} Set DATA_DIR, or S3_BUCKET and what it needs.") from error


def make_weights_ready(settings: Settings) -> None:
    """Finds or downloads the weights of the models that jobs may use. Raises Unusable."""
    from seg_pipeline.segmenters.weights.locate import find_weights

    try:
        for name in settings.wanted_models:
            find_weights(name, settings)
    except ModelError as error:
        raise Unusable(str(error)) from error


STEPS: dict[str, Callable[[Settings], None]] = {
    "tables": make_tables_ready,
    "broker": check_broker,
    "store": check_store,
    "weights": make_weights_ready,
}


def make_ready(names: list[str], settings: Settings) -> None:
    """Runs the steps in order, and retries each for a while. Raises NotReady."""
    for name in names:
        _retrying(partial(STEPS[name], settings))


def _retrying(step: Callable[[], None]) -> None:
    give_up_at = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            step()
            return
        except Unusable:
            raise
        except NotReady:
            if time.monotonic() >= give_up_at:
                raise
            time.sleep(PAUSE_SECONDS)


@contextmanager
def _folder_lock(data_dir: Path) -> Iterator[None]:
    try:
        make_private(data_dir)
        with (data_dir / "tables.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise NotReady(
            f"the data folder {data_dir} cannot be used: {error.strerror}; set DATA_DIR."
        ) from error


@contextmanager
def _postgres_lock(url: str) -> Iterator[None]:
    """Held by a connection of its own, so that it ends with this process."""
    with _postgres(url) as connection:
        connection.execute(db.text("select pg_advisory_lock(:number)"), {"number": TABLES_LOCK})
        yield


@contextmanager
def _postgres(url: str) -> Iterator[db.Connection]:
    """A connection. Raises NotReady, or Unusable for an address that is none."""
    try:
        engine = db.create_engine(
            postgres_url(url), connect_args={"connect_timeout": int(TRY_SECONDS)}
        )
        with engine.connect() as connection:
            yield connection
    except db.exc.ArgumentError as error:
        raise Unusable(
            "DATABASE_URL is no database; write postgresql://user:password@host/name."
        ) from error
    except db.exc.OperationalError as error:
        reason = str(error.orig).strip().splitlines()[-1]
        raise NotReady(
            f"the database at {_host(url)} cannot be used: {reason}; set DATABASE_URL."
        ) from error


def _host(url: str) -> str:
    """Enough of an address to recognise it, without the password."""
    try:
        parsed = db.make_url(url)
    except db.exc.ArgumentError:
        return "an address that cannot be read"
    return f"{parsed.host}:{parsed.port}" if parsed.port else str(parsed.host)


def main() -> None:
    """Runs the steps that the command line names."""
    try:
        make_private(get_settings().data_dir)
        make_dagster_home_ready(get_settings())
        make_ready(sys.argv[1:], get_settings())
    except (NotReady, OSError) as error:
        sys.exit(" ".join(str(error).split()))


if __name__ == "__main__":
    main()
