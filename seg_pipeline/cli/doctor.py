"""`seg-pipeline doctor`: runs every check at once, and prints a line for each."""

import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from seg_pipeline.adapters.deadlines import DeadlinePassed, within
from seg_pipeline.cli.checks_here import (
    Wrong,
    check_gpu,
    check_port,
    check_versions,
    check_weights,
)
from seg_pipeline.cli.checks_outside import (
    check_app_server,
    check_clock,
    check_data_dir,
    check_queue,
    check_server,
    check_store,
)
from seg_pipeline.errors import SegPipelineError
from seg_pipeline.local.stack import base_url, dagster_url
from seg_pipeline.settings import Settings

Check = Callable[[], str]
"""Returns what is so. Raises an error whose message is what is wrong and what to do."""

SECONDS = 10.0
SLOW_SECONDS = 40.0
"""For checks that start a process, or that read large files."""


@dataclass(frozen=True)
class Finding:
    """What a check found, in a sentence."""

    name: str
    ok: bool
    message: str


def examine(name: str, check: Check, seconds: float = SECONDS) -> Finding:
    """Runs the check for at most so many seconds."""
    try:
        return Finding(name, True, within(seconds, check))
    except DeadlinePassed:
        reason = f"no answer within {seconds:g} s; look whether it hangs, or is out of reach."
    except (Wrong, SegPipelineError, OSError) as error:
        reason = str(error)
    except Exception as error:  # one check's fault must not hide what the others found
        reason = f"the check itself failed ({type(error).__name__}: {error})."
    return Finding(name, False, " ".join(reason.split()))


def examine_settings(unknown: Sequence[str]) -> Finding:
    """Whether `.env` holds settings only."""
    if unknown:
        return Finding("settings", False, "; ".join(unknown))
    return Finding("settings", True, "they can be read, and .env has no unknown name.")


def examine_all(settings: Settings) -> list[Finding]:
    """Runs every check that these settings call for, all at once."""
    wanted = [("versions", check_versions, SECONDS), *_checks(settings)]
    with ThreadPoolExecutor(len(wanted)) as pool:
        return list(pool.map(lambda each: examine(*each), wanted))


def report(findings: Iterable[Finding], as_json: bool, say: Callable[[str], None]) -> bool:
    """Prints the findings. Returns whether all is well."""
    findings = list(findings)
    if as_json:
        say(json.dumps({"checks": [asdict(each) for each in findings]}))
    else:
        width = max(len(each.name) for each in findings)
        for each in findings:
            say(f"{'ok   ' if each.ok else 'WRONG'}  {each.name:{width}}  {each.message}")
    return all(each.ok for each in findings)


def _checks(settings: Settings) -> list[tuple[str, Check, float]]:
    api, dagster = f"{base_url(settings)}/livez", f"{dagster_url(settings)}/server_info"
    checks: list[tuple[str, Check, float]] = [
        ("API_PORT",
         lambda: check_port("API_PORT", settings.api_host, settings.api_port, api), SECONDS),
        ("DAGSTER_PORT",
         lambda: check_port(
             "DAGSTER_PORT", settings.dagster_host, settings.dagster_port, dagster), SECONDS),
        ("weights", lambda: check_weights(settings), SLOW_SECONDS),
        ("GPU", lambda: check_gpu(settings.device), SLOW_SECONDS),
        ("DATA_DIR", lambda: check_data_dir(settings), SECONDS),
        ("store", lambda: check_store(settings), SECONDS),
        ("clock", lambda: check_clock(settings), SECONDS),
    ]  # fmt: skip
    return [*checks, *_checks_of_what_is_set(settings)]


def _checks_of_what_is_set(settings: Settings) -> list[tuple[str, Check, float]]:
    possible: list[tuple[str, str | None, Check, float]] = [
        ("BROKER_URL", settings.broker_url, lambda: check_server("broker"), SLOW_SECONDS),
        ("DATABASE_URL", settings.database_url, lambda: check_server("database"), SLOW_SECONDS),
        ("SQS_QUEUE_URL", settings.sqs_queue_url, lambda: check_queue(settings), SECONDS),
        ("APP_SERVER_URL", settings.app_server_url,
         lambda: check_app_server(str(settings.app_server_url)), SECONDS),
    ]  # fmt: skip
    return [(name, check, seconds) for name, value, check, seconds in possible if value]
