"""The `seg-pipeline` command."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from pydantic import ValidationError

from seg_pipeline.cli.masking import shown
from seg_pipeline.cli.start import ABOUT, ListenOn, start
from seg_pipeline.domain import MAX_RESIZE, JobStatus, Priority, parts_of, resolved_model
from seg_pipeline.local.supervisor import NO_RESTART, StopRequested, SupervisorError
from seg_pipeline.settings import Settings, listed, unknown_names_in_env_file

if TYPE_CHECKING:
    from seg_pipeline.cli.jobs import AskedService

DEMO_MODELS_OF_UP = "the demo models, which need no download and know only drawn shapes"


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("seg-pipeline"))
        raise typer.Exit


Server = Annotated[
    str | None,
    typer.Option("--server", help="Address of a service; the one on API_PORT if absent."),
]
ApiKey = Annotated[str | None, typer.Option("--api-key", help="A key of that service.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the service's answer as JSON.")]
Limit = Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")]
JobUuid = Annotated[str, typer.Argument(metavar="UUID", help="The job's.")]

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
weights_app = typer.Typer(no_args_is_help=True, help="The models' weights.")
app.add_typer(weights_app, name="weights")
batch_app = typer.Typer(no_args_is_help=True, help="Many pictures under one id, at a service.")
app.add_typer(batch_app, name="batch")


def example(*commands: str) -> str:
    """The end of a command's help."""
    return "Example: " + "  or  ".join(f"`{command}`" for command in commands)


@app.callback(epilog=example("seg-pipeline up", "MODEL=yolov8x-seg seg-pipeline up"))
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Segment pictures: start the service, or any one of its processes, and look after it."""


@app.command(epilog=example("seg-pipeline up --servers", "API_PORT=8001 seg-pipeline up"))
def up(
    sample: Annotated[
        bool, typer.Option(help="Send the bundled picture once everything is up.")
    ] = True,
    exit_after_sample: Annotated[
        bool, typer.Option(help="Stop then; exit code 0 if something was found.")
    ] = False,
    servers: Annotated[
        bool, typer.Option("--servers", help="On a Redis and a Postgres of this machine.")
    ] = False,
) -> None:
    """Start everything on this machine and keep it running until Ctrl-C."""
    from seg_pipeline.local import stack

    try:
        with contextlib.suppress(StopRequested):
            stack.run(read_settings(), sample, exit_after_sample, say, own_servers=servers)
    except SupervisorError as error:
        fail(str(error))


def _add_start_command(name: str, about: str) -> None:
    @app.command(name, help=about, epilog=example(f"seg-pipeline {name}"))
    def start_one() -> None:
        _start(name)


for _name, _about in ABOUT.items():
    _add_start_command(_name, _about)


@app.command("code-server", epilog=example("seg-pipeline code-server --host 0.0.0.0"))
def start_code_server(host: ListenOn = "127.0.0.1") -> None:
    """Start the process with our definitions, which evaluates sensors, on CODE_SERVER's port."""
    _start("code-server", host)


def _start(name: str, listen_on: str = "127.0.0.1") -> None:
    try:
        start(name, read_settings(), listen_on)
    except (SupervisorError, OSError) as error:
        fail(str(error))


@app.command("version", epilog=example("seg-pipeline version"))
def show_version() -> None:
    """Print the version."""
    typer.echo(version("seg-pipeline"))


@app.command("settings", epilog=example("seg-pipeline settings --example > .env"))
def show_settings(
    example: Annotated[
        bool, typer.Option("--example", help="Print a .env with every default.")
    ] = False,
) -> None:
    """Print every setting as it is in force here, with secrets masked."""
    if example:
        typer.echo(env_example(), nl=False)
        return
    from rich.console import Console
    from rich.table import Table

    settings = read_settings()
    table = Table("setting", "value", "", "meaning", box=None, pad_edge=False)
    for name, field in Settings.model_fields.items():
        origin = "set" if name in settings.model_fields_set else ""
        table.add_row(name.upper(), shown(name, getattr(settings, name)), origin, field.description)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    if "model" not in settings.model_fields_set:
        console.print(f"\nWithout MODEL `seg-pipeline up` takes {DEMO_MODELS_OF_UP}.")


def env_example() -> str:
    """What `.env.example` holds: every setting as a comment, with what it means and its default."""
    lines = [
        (
            "# Copy this to .env and take the # away from what you set. The environment wins over"
            " the file."
        ),
        "# `make run` needs none of it. `seg-pipeline settings` prints what is in force.",
    ]
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else field.default
        lines += ["", f"# {field.description}", f"#{name.upper()}={default}"]
    lines += [
        "",
        "# Password of docker-compose.yml's own Postgres, in letters and digits.",
        "#POSTGRES_PASSWORD=",
    ]
    return "\n".join(lines) + "\n"


def single_models(names: list[str] | None, settings: Settings) -> list[str]:
    """The models of these names, of named masks both; the wanted ones where none is named."""
    if names is None:
        return settings.wanted_models
    resolved = [resolved_model(name, settings.offered_models) for name in names]
    return list(dict.fromkeys(part for name in resolved for part in parts_of(name)))


@weights_app.command("pull", epilog=example("seg-pipeline weights pull yolov8x-seg"))
def pull_weights(
    names: Annotated[
        list[str] | None, typer.Argument(help="Models, such as yolov8x-seg, or paths.")
    ] = None,
) -> None:
    """Download the models' weights that are missing here.

    Without names, these are the weights that a worker needs: MODEL's, QUEUE_MODEL's if there is a
    queue, and those of MODELS. Of the last, a failure is only a warning: such a model is refused
    until its weights are here.
    """
    from seg_pipeline.cli.download_progress import shown_progress
    from seg_pipeline.errors import ModelError
    from seg_pipeline.segmenters.weights.locate import find_weights
    from seg_pipeline.telemetry.logs import configure_logging

    # A single failed try is not worth a line. The last one is reported.
    configure_logging("weights", level=logging.ERROR)
    settings = read_settings()
    try:
        with shown_progress(say) as progress:
            for name in single_models(names, settings):
                find_weights(name, settings, progress)
            for name in () if names else single_models(listed(settings.models), settings):
                with warned(ModelError):
                    find_weights(name, settings, progress)
    except ModelError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(NO_RESTART) from None


@app.command("parity", epilog=example("seg-pipeline parity demo-sam2", "seg-pipeline parity"))
def show_parity(
    names: Annotated[
        list[str] | None, typer.Argument(help="Models, such as yolov8x-seg, or paths.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Measure even if there is a verdict already.")
    ] = False,
    upstream: Annotated[
        bool,
        typer.Option("--upstream", help="Measure SAM-2's own package too, as always on a GPU."),
    ] = False,
) -> None:
    """Compare INFERENCE_MODE=turbo with exact on this machine: what it finds, and how fast.

    Without names, the models that a worker needs are compared. Exit code 1 if turbo stays off for
    any of them.
    """
    from seg_pipeline.cli.parity_table import report_parity
    from seg_pipeline.errors import ModelError
    from seg_pipeline.segmenters.weights.locate import find_weights

    settings = read_settings()
    try:
        compared = single_models(names, settings)
        for name in compared:
            find_weights(name, settings)
        accepted = report_parity(compared, settings, say, again, upstream)
    except ModelError as error:
        fail(str(error))
    if not accepted:
        raise typer.Exit(1)


@app.command(
    "segment",
    epilog=example(
        "seg-pipeline segment photo.jpg",
        "seg-pipeline segment photos --format coco,yolo --out found",
        "seg-pipeline segment a.jpg --model demo-sam2 --point 320,240 --point 40,40,0",
        "curl -s https://example.com/a.jpg | seg-pipeline segment - --alone --json",
    ),
)
def segment_pictures(  # noqa: PLR0913, PLR0917  a command's options are its arguments
    pictures: Annotated[
        list[str], typer.Argument(help="Files, folders, addresses, or - for standard input.")
    ],
    server: Annotated[
        str | None,
        typer.Option(help="Address of a service. Without it: the one on API_PORT, if it runs."),
    ] = None,
    alone: Annotated[
        bool, typer.Option("--alone", help="Load the model here, even if a service runs.")
    ] = False,
    api_key: Annotated[str | None, typer.Option(help="A key of that service.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the files; by default segments, or none with --json."),
    ] = None,
    format: Annotated[
        str, typer.Option(help="Which files, with commas, such as masks,coco,json; ? lists all.")
    ] = "masks",
    model: Annotated[str | None, typer.Option(help="A model; MODEL if absent.")] = None,
    resize: Annotated[
        int | None, typer.Option(min=1, max=MAX_RESIZE, help="Longer side of cut-outs in pixels.")
    ] = None,
    parameters: Annotated[
        str | None, typer.Option(help="The model's, as JSON, such as '{\"confidence\": 0.5}'.")
    ] = None,
    point: Annotated[
        list[str] | None,
        typer.Option(help="For a SAM-2: x,y on what to mask, or x,y,0 beside it. Repeatable."),
    ] = None,
    box: Annotated[
        list[str] | None,
        typer.Option(help="For a SAM-2: x0,y0,x1,y1 around what to mask. Several: a mask each."),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON for each picture.")
    ] = False,
    parallel: Annotated[
        int,
        typer.Option(min=1, max=64, help="Pictures under way at once; a model here takes one."),
    ] = 4,
    again: Annotated[
        bool, typer.Option("--again", help="Do not skip pictures that have their files.")
    ] = False,
    priority: Annotated[
        Priority | None, typer.Option(help="Whose turn it is at a service that has much to do.")
    ] = None,
    watch: Annotated[
        bool,
        typer.Option("--watch", help="Go on with what comes into the folders, until Ctrl-C."),
    ] = False,
) -> None:
    """Segment pictures into files.

    Pictures that have their files are skipped. So the same command goes on where it ended. With
    points or boxes none are skipped.

    Exit code 0 if all went well, 1 if a picture failed, 2 if the command is wrong.
    """
    from seg_pipeline.cli.pictures import NoPicture, pictures_of, watched_pictures
    from seg_pipeline.cli.segment import (
        NoFolder,
        Segmentation,
        SegmentOutput,
        UnknownFormat,
        formats_of,
        made_folder,
    )
    from seg_pipeline.cli.segmenting import Wish, WrongUsage, open_service
    from seg_pipeline.errors import ModelError

    folder = out or (None if json else Path("segments"))
    wish = Wish(server, alone, api_key, model, resize, parameters, point or (), box or (), priority)
    try:
        output = SegmentOutput(
            folder, formats_of(format), lines=json, again=again or wish.has_prompts
        )
        written = folder or Path("segments")
        look = watched_pictures(pictures, written) if watch else None
        named = [] if look else pictures_of(pictures, written)
        service = open_service(wish, read_settings(), complain)
        if folder:
            made_folder(folder)
        segmentation = Segmentation(service, output, parallel, say, complain)
        exit_code = segmentation.watch(look) if look else segmentation.run(named)
    except (NoFolder, NoPicture, UnknownFormat, WrongUsage) as error:
        fail(str(error), exit_code=2)
    except ModelError as error:
        fail(str(error))
    raise typer.Exit(exit_code)


@app.command("doctor", epilog=example("seg-pipeline doctor", "seg-pipeline doctor --json"))
def diagnose(
    json: Annotated[bool, typer.Option("--json", help="Print one object of JSON.")] = False,
) -> None:
    """Check this machine and everything that the settings name: a line for each.

    Nothing is downloaded, no message is taken, and no job is touched. Exit code 1 if something is
    wrong.
    """
    from seg_pipeline.cli.doctor import Finding, examine_all, examine_settings, report
    from seg_pipeline.telemetry.logs import configure_logging

    # What is wrong is told by check.
    configure_logging("doctor", level=logging.CRITICAL)
    try:
        settings = Settings()
    except ValidationError as error:
        findings = [Finding("settings", False, f"{_told(error)}; correct it, and ask again.")]
    else:
        findings = [examine_settings(unknown_names_in_env_file()), *examine_all(settings)]
    if not report(findings, json, say):
        raise typer.Exit(1)


@app.command("jobs", epilog=example("seg-pipeline jobs", "seg-pipeline jobs --status failed"))
def list_jobs(
    status: Annotated[JobStatus | None, typer.Option(help="Only these.")] = None,
    limit: Limit = 50,
    server: Server = None,
    api_key: ApiKey = None,
    json: AsJson = False,
) -> None:
    """List a service's jobs: queued, processing, failed, completed."""
    from seg_pipeline.cli.jobs import print_jobs

    with asked_service(server, api_key) as service:
        print_jobs(service, {"status": status, "limit": limit}, json, say, complain)


@app.command("show", epilog=example("seg-pipeline show 0193…", "seg-pipeline show 0193… --json"))
def show_job(
    uuid: JobUuid,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Print each change first, to the job's end.")
    ] = False,
    server: Server = None,
    api_key: ApiKey = None,
    json: AsJson = False,
) -> None:
    """Show a job: its status, its segments, its times, or why it failed."""
    from seg_pipeline.cli.jobs import follow_job, print_job

    with asked_service(server, api_key) as service:
        if follow:
            follow_job(service, uuid, json, say)
        print_job(service, uuid, json, say)


@app.command("retry", epilog=example("seg-pipeline retry 0193…"))
def retry_jobs(
    uuids: Annotated[list[str], typer.Argument(metavar="UUID...", help="Failed jobs.")],
    server: Server = None,
    api_key: ApiKey = None,
) -> None:
    """Run failed jobs again, as if they had just come. Exit code 1 if one could not be."""
    from seg_pipeline.cli.jobs import retry_all

    with asked_service(server, api_key) as service:
        refused = retry_all(service, uuids, say, complain)
    if refused:
        raise typer.Exit(1)


@app.command("cancel", epilog=example("seg-pipeline cancel 0193…"))
def cancel_job(uuid: JobUuid, server: Server = None, api_key: ApiKey = None) -> None:
    """Cancel a job, wherever it stands. Exit code 1 if it has ended already."""
    from seg_pipeline.cli.jobs import print_cancelled

    with asked_service(server, api_key) as service:
        print_cancelled(service, uuid, say)


@app.command("parked", epilog=example("seg-pipeline parked", "seg-pipeline parked --json"))
def list_parked(
    limit: Limit = 50, server: Server = None, api_key: ApiKey = None, json: AsJson = False
) -> None:
    """List the messages and callbacks that wait for a person, with their reasons."""
    from seg_pipeline.cli.jobs import print_parked

    with asked_service(server, api_key) as service:
        print_parked(service, limit, json, say, complain)


@app.command("open", epilog=example("seg-pipeline open 0193…"))
def open_job(uuid: JobUuid, server: Server = None, api_key: ApiKey = None) -> None:
    """Print the addresses of a job's overlay, page and Dagster page, and open the first.

    A browser is opened only where there is a display.
    """
    from seg_pipeline.cli.jobs import open_in_browser, pages_of

    with asked_service(server, api_key) as service:
        pages = pages_of(service, uuid)
        for name, address in pages.items():
            say(f"{name:8} {address}")
        open_in_browser(next(iter(pages.values())))


BatchUuid = Annotated[str, typer.Argument(metavar="UUID", help="The batch's.")]


@batch_app.command(
    "create",
    epilog=example(
        "seg-pipeline batch create addresses.txt --wait",
        "seg-pipeline batch create photos --wait --coco found.json",
        "seg-pipeline batch create s3://bucket/photos/",
    ),
)
def create_batch(  # noqa: PLR0913, PLR0917  a command's options are its arguments
    source: Annotated[
        str,
        typer.Argument(
            help="A list (.txt, .jsonl, .json, - for a pipe), a folder, a .zip or an s3:// prefix."
        ),
    ],
    wait: Annotated[bool, typer.Option("--wait", help="Wait until all pictures ended.")] = False,
    coco: Annotated[
        Path | None, typer.Option(help="Write COCO's file there when all have ended.")
    ] = None,
    uuid: Annotated[str | None, typer.Option(help="An id of your own.")] = None,
    model: Annotated[str | None, typer.Option(help="A model; MODEL if absent.")] = None,
    resize: Annotated[
        int | None, typer.Option(min=1, max=MAX_RESIZE, help="Longer side of cut-outs in pixels.")
    ] = None,
    parameters: Annotated[
        str | None, typer.Option(help="The model's, as JSON, such as '{\"confidence\": 0.5}'.")
    ] = None,
    webhook: Annotated[str | None, typer.Option(help="An address to be told of the end.")] = None,
    server: Server = None,
    api_key: ApiKey = None,
    json: AsJson = False,
) -> None:
    """Send many pictures as one batch.

    Exit code 0 if all went well, 1 if the service refused or a picture failed, 2 if the command is
    wrong.
    """
    from seg_pipeline.cli import batches
    from seg_pipeline.cli.pictures import NoPicture
    from seg_pipeline.cli.segmenting import WrongUsage, read_parameters

    try:
        asked = read_parameters(parameters) or None
        options = {"uuid": uuid, "model": model, "resize": resize, "parameters": asked}
        options |= {"webhook": webhook}
        with asked_service(server, api_key) as service:
            batch = batches.create(service, source, options)
            if wait or coco:
                batch = batches.wait(service, batch["uuid"], complain)
            if coco:
                batches.save_coco(service, batch["uuid"], coco)
    except (NoPicture, WrongUsage) as error:
        fail(str(error), exit_code=2)
    batches.print_batch(batch, json, say)
    if batch["counts"]["failed"]:
        raise typer.Exit(1)


@batch_app.command("show", epilog=example("seg-pipeline batch show 0193… --failed"))
def show_batch(
    uuid: BatchUuid,
    failed: Annotated[bool, typer.Option("--failed", help="List what failed, and why.")] = False,
    limit: Limit = 50,
    server: Server = None,
    api_key: ApiKey = None,
    json: AsJson = False,
) -> None:
    """Show a batch: how many pictures stand where, and what was rejected."""
    from seg_pipeline.cli import batches

    with asked_service(server, api_key) as service:
        batches.print_batch(batches.batch_of(service, uuid), json, say)
        if failed:
            batches.print_failed(service, uuid, limit, say)


@batch_app.command("cancel", epilog=example("seg-pipeline batch cancel 0193…"))
def cancel_batch(uuid: BatchUuid, server: Server = None, api_key: ApiKey = None) -> None:
    """Cancel a batch; delete one that has ended, with all its jobs."""
    from seg_pipeline.cli import batches

    with asked_service(server, api_key) as service:
        is_deleted = batches.cancel(service, uuid)
    say(f"{uuid} {'is deleted' if is_deleted else 'is cancelled; what has not ended ends soon'}.")


@batch_app.command("coco", epilog=example("seg-pipeline batch coco 0193… found.json"))
def save_coco(
    uuid: BatchUuid,
    path: Annotated[Path, typer.Argument(help="Where to write it.")],
    server: Server = None,
    api_key: ApiKey = None,
) -> None:
    """Write COCO's file of all that a batch found."""
    from seg_pipeline.cli import batches

    with asked_service(server, api_key) as service:
        batches.save_coco(service, uuid, path)
    say(f"{path} is written.")


@contextlib.contextmanager
def asked_service(server: str | None, api_key: str | None) -> Iterator["AskedService"]:
    """The service that a command asks. What it refuses is one line, and exit code 1."""
    from seg_pipeline.adapters.remote_service import ServiceRefused
    from seg_pipeline.cli.jobs import open_asked
    from seg_pipeline.cli.segmenting import WrongUsage
    from seg_pipeline.errors import InvalidUuid

    try:
        with open_asked(server, api_key, read_settings()) as service:
            yield service
    except (WrongUsage, InvalidUuid) as error:
        fail(str(error), exit_code=2)
    except ServiceRefused as error:
        fail(str(error))


def read_settings() -> Settings:
    """The settings; what is wrong with them is one line, and the end. A name in `.env` that is no
    setting is a warning."""
    for line in unknown_names_in_env_file():
        typer.echo(f"WARNING {line}", err=True)
    try:
        return Settings()
    except ValidationError as error:
        fail(_told(error))


@contextlib.contextmanager
def warned(kind: type[Exception]) -> Iterator[None]:
    """Prints an error of this kind as a warning."""
    try:
        yield
    except kind as error:
        typer.echo(f"WARNING {error}", err=True)


def say(line: str) -> None:
    """Prints a line, and goes on if nobody reads it any more."""
    with contextlib.suppress(OSError):
        print(line, flush=True)


def complain(line: str) -> None:
    """Prints a line on standard error, and goes on if nobody reads it any more."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def fail(message: str, exit_code: int = 1) -> NoReturn:
    """Prints the reason on standard error, and ends."""
    complain(f"seg-pipeline: {message}")
    raise typer.Exit(exit_code)


def _told(error: ValidationError) -> str:
    return "; ".join(f"{_setting_of(each['loc'])}: {each['msg']}" for each in error.errors())


def _setting_of(location: tuple[int | str, ...]) -> str:
    return str(location[-1]).upper() if location else "settings"


if __name__ == "__main__":
    app()
