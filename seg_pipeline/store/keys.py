"""Every key of the service in the store.

A job's files are `assets/{uuid}/…`. All other keys are small markers, whose names are their
meaning.
"""

import re
from hashlib import sha256

from seg_pipeline.errors import InvalidKey

# No segment begins with a dot: that rules out `..`, and leaves such names to half-written files.
_SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,199}"
_KEY = re.compile(rf"{_SEGMENT}(/{_SEGMENT})*")

ASSETS = "assets/"
FETCHING = "fetching/"
INBOX = "inbox/"
INFLIGHT = "inflight/"
DONE = "done/"
EXPIRY = "expiry/"
WORKERS = "workers/"
FETCHERS = "fetchers/"
UPKEEP = "upkeep/"
PARKED = "parked/"
OUTBOX = "outbox/"
WEBHOOKS = "webhooks/"
METRICS = "metrics/"
METRICS_PAST = "metrics-past/"
APP_SERVER_STATE = "state/app-server"
PRUNE_STATE = "state/prune"
LEFTOVERS_STATE = "state/leftovers"
ALARMS_STATE = "state/alarms"
DRAIN_STATE = "state/drain"
LISTENERS_STATE = "state/listeners"
GIVE_WAY_STATE = "state/give-way"
CANCELS = "cancels/"
PROGRESS = "progress/"
REUSE = "reuse/"
RETRIES = "retries/"
BATCHES = "batches/"
BATCH_WORK = "batch-work/"
_TOLD_BATCH = "batch."
_WEBHOOK_OF_BATCH = "batch-webhook."
_CALLBACK = "callback-"
CHECKS = "checks/"
IDEMPOTENCY = "idempotency/"
RUN_LOGS = "run-logs/"
FORMAT = "format.json"
"""The format of the store's keys and documents; see `format.py`."""

PREFIXES = (
    *(ASSETS, FETCHING, INBOX, INFLIGHT, DONE, EXPIRY, WORKERS, FETCHERS, UPKEEP, PARKED, OUTBOX),
    *(CANCELS, RETRIES, IDEMPOTENCY, METRICS, METRICS_PAST, "state/", CHECKS, RUN_LOGS),
    *(BATCHES, BATCH_WORK, WEBHOOKS, PROGRESS, REUSE),
)
"""All prefixes of the service's own keys, in a bucket that may hold other files."""

_PICTURE_TYPES = {
    "avif": "image/avif",
    "bmp": "image/bmp",
    "gif": "image/gif",
    "heic": "image/heic",
    "jpeg": "image/jpeg",
    "jpg": "image/jpeg",
    "jxl": "image/jxl",
    "png": "image/png",
    "tif": "image/tiff",
    "tiff": "image/tiff",
    "webp": "image/webp",
}
PICTURE_EXTENSIONS = tuple(_PICTURE_TYPES)
"""Of the files that are pictures, and of their sources among them."""

_CONTENT_TYPES = {**_PICTURE_TYPES, "json": "application/json"}


def is_key(key: str) -> bool:
    """Whether it can name an object. Foreign files in our folders may have other names."""
    return len(key) <= 900 and bool(_KEY.fullmatch(key))


def check_key(key: str) -> str:
    """The key, if it can name an object on every kind of store; else InvalidKey."""
    if not is_key(key):
        raise InvalidKey(key)
    return key


def check_prefix(prefix: str) -> str:
    """The prefix, if it is a key followed by `/`; else InvalidKey."""
    if not prefix.endswith("/"):
        raise InvalidKey(prefix)
    check_key(prefix[:-1])
    return prefix


def asset(uuid: str, name: str) -> str:
    """A file of a job: `assets/{uuid}/{name}`."""
    return f"{ASSETS}{uuid}/{name}"


def request(uuid: str) -> str:
    """The job as requested."""
    return asset(uuid, "request.json")


def source(uuid: str, extension: str) -> str:
    """The picture's bytes as received; the extension has no dot."""
    return asset(uuid, f"source.{extension}")


def comes_with_acceptance(key: str) -> bool:
    """Whether it names a job's request, its source or the description of that."""
    name = key.removeprefix(ASSETS).partition("/")[2]
    return name == "request.json" or (name.startswith("source.") and "/" not in name)


def source_info(uuid: str) -> str:
    """The description of the source: extension, format, size, hash.

    It exists once that was checked.
    """
    return asset(uuid, "source.json")


def segments(uuid: str) -> str:
    """The model's output without pixels: the next stages read it beside the masks."""
    return asset(uuid, "segments.json")


def mask(uuid: str, index: int) -> str:
    """The full-frame mask of a segment, numbered without gaps from 0."""
    return asset(uuid, f"mask_images/mask_{index:03d}.png")


def of_segments(uuid: str) -> tuple[str, str]:
    """The prefixes of a job's masks and cut-outs."""
    return asset(uuid, "mask_images/"), asset(uuid, "crops/")


def original(uuid: str) -> str:
    """The whole picture as WEBP."""
    return asset(uuid, "original.webp")


def crop(uuid: str, index: int) -> str:
    """The cut-out of a segment: its name is the same whenever the job is run again."""
    return asset(uuid, f"crops/{sha256(f'{uuid}/{index}'.encode()).hexdigest()[:32]}.webp")


def overlay(uuid: str) -> str:
    """The picture with its masks drawn on it."""
    return asset(uuid, "overlay.webp")


def thumbnail(uuid: str) -> str:
    """A small overlay, for pages that show many jobs."""
    return asset(uuid, "thumbnail.webp")


def result(uuid: str) -> str:
    """The result. A job is finished when this exists."""
    return asset(uuid, "result.json")


def delivery(name: str) -> str:
    """The state of telling somebody of a job, or of a batch by its name in the outbox."""
    batch_id = batch_told(name)
    if batch_id is None:
        return asset(name, "delivery.json")
    file_name = "delivery-webhook.json" if is_batch_webhook(name) else "delivery.json"
    return batch_file(batch_id, file_name)


def told_batch(batch_id: str) -> str:
    """The name in the outbox of a batch that the app server is told of. No uuid holds a dot."""
    return f"{_TOLD_BATCH}{batch_id}"


def batch_webhook(batch_id: str) -> str:
    """The name in the outbox of a batch that its webhook is told of."""
    return f"{_WEBHOOK_OF_BATCH}{batch_id}"


def names_of_batch(batch_id: str) -> tuple[str, str]:
    """All names of a batch in the outbox: who is told of its end, each has one."""
    return told_batch(batch_id), batch_webhook(batch_id)


def is_batch_webhook(name: str) -> bool:
    """Whether a name in the outbox stands for a batch that its webhook is told of."""
    return name.startswith(_WEBHOOK_OF_BATCH)


def batch_told(name: str) -> str | None:
    """The batch that a name in the outbox stands for; None if it is a job's uuid."""
    start, dot, batch_id = name.partition(".")
    return batch_id if f"{start}{dot}" in (_TOLD_BATCH, _WEBHOOK_OF_BATCH) else None


def told_of(name: str) -> str:
    """The request of the job or the batch that a name in the outbox stands for."""
    batch_id = batch_told(name)
    return batch_request(batch_id) if batch_id else request(name)


def evidence(uuid: str) -> str:
    """What a run that had the job alone was doing with it."""
    return asset(uuid, "evidence.json")


def fetched(uuid: str, request_id: str) -> str:
    """The fetched bytes of the job's picture.

    Once a run has found that they are a picture, they become its source.
    """
    return asset(uuid, f"source.fetched-{request_id}")


def fetch_record(uuid: str, request_id: str) -> str:
    """The state of fetching the job's picture."""
    return asset(uuid, f"source.fetch-{request_id}.json")


def is_fetched(key: str) -> bool:
    """Whether it is a fetch's output, which another fetch would bring again."""
    return "/source.fetch" in key


def fetching(uuid: str) -> str:
    """An accepted job whose picture is yet to be fetched."""
    return f"{FETCHING}{uuid}"


def inbox(uuid: str) -> str:
    """An accepted job, its picture in the store, that is not claimed yet."""
    return f"{INBOX}{uuid}"


def inflight(uuid: str) -> str:
    """A claimed job, for which a run was requested; JSON with attempt and run key."""
    return f"{INFLIGHT}{uuid}"


def cancel(uuid: str) -> str:
    """A cancelled job in flight; holds the time of the job's acceptance."""
    return f"{CANCELS}{uuid}"


def idempotency(name: str) -> str:
    """The job that an idempotency key stands for; `name` is the key's hash."""
    return f"{IDEMPOTENCY}{name}"


def retry(uuid: str) -> str:
    """A failed job that is to run again; holds the fingerprint of the result that it had."""
    return f"{RETRIES}{uuid}"


def reuse(name: str) -> str:
    """The job whose result answers what `name` stands for, which is a hash."""
    return f"{REUSE}{name}"


def progress(uuid: str) -> str:
    """How far a worker has come with a job."""
    return f"{PROGRESS}{uuid}"


def done(status: str, uuid: str) -> str:
    """A finished job, by its status."""
    return f"{DONE}{status}/{uuid}"


def expiry(expires_at_epoch: int, uuid: str) -> str:
    """When a finished job expires; sorted by name is sorted by time."""
    return f"{EXPIRY}{expires_at_epoch:012d}-{uuid}"


def expiry_of(key: str) -> tuple[int, str] | None:
    """The time and the uuid in an expiry marker's name; None for a name that is not ours."""
    epoch, _, uuid = key.removeprefix(EXPIRY).partition("-")
    return (int(epoch), uuid) if epoch.isdecimal() and uuid else None


def outbox(due_at_microseconds: int, uuid: str) -> str:
    """A delivery and when it is due; sorted by name is sorted by time."""
    return f"{OUTBOX}{due_at_microseconds:017d}-{uuid}"


def webhooks(host_id: str) -> str:
    """The prefix of the deliveries to one host."""
    return f"{WEBHOOKS}{host_id}/"


def webhook(host_id: str, due_at_microseconds: int, uuid: str) -> str:
    """A delivery to a webhook and when it is due; by host, so that none waits behind another."""
    return f"{webhooks(host_id)}{due_at_microseconds:017d}-{uuid}"


_DUE = re.compile(rf"(?:{OUTBOX}|{WEBHOOKS}[0-9a-f]+/)([0-9]{{17}})-(.+)")


def due_of(key: str) -> tuple[int, str] | None:
    """When the delivery of a marker is due, in microseconds, and its name in the outbox.

    None for a key that is not ours.
    """
    found = _DUE.fullmatch(key)
    return (int(found[1]), found[2]) if found else None


def worker(name: str) -> str:
    """A worker's last heartbeat."""
    return f"{WORKERS}{name}"


def fetcher(name: str) -> str:
    """A fetcher's last heartbeat."""
    return f"{FETCHERS}{name}"


def upkeep(run_id: str) -> str:
    """The last heartbeat of the process that executes a run of upkeep."""
    return f"{UPKEEP}{run_id}"


def parked(name: str) -> str:
    """A message or delivery that failed for good, with the reason."""
    return f"{PARKED}{name}"


def parked_callback(uuid: str) -> str:
    """The name, for `parked`, of a job's delivery."""
    return f"{_CALLBACK}{uuid}"


def is_parked_callback(key: str) -> bool:
    """Whether it names a parked callback, and not a message."""
    return key.startswith(f"{PARKED}{_CALLBACK}")


def metrics(process: str) -> str:
    """A process's metrics."""
    return f"{METRICS}{process}"


def metrics_past(generation: int) -> str:
    """The sum of the ended processes' metrics; the last generation counts."""
    return f"{METRICS_PAST}{generation:012d}"


def batch_file(batch_id: str, name: str) -> str:
    """A file of a batch: `batches/{id}/{name}`."""
    return f"{BATCHES}{batch_id}/{name}"


def batch_request(batch_id: str) -> str:
    """The batch as requested."""
    return batch_file(batch_id, "batch.json")


def batch_portion(batch_id: str, number: int) -> str:
    """Some of the batch's entries, in order; numbered from 0."""
    return batch_file(batch_id, f"entries/{number:04d}.json")


def batch_picture(batch_id: str, index: int, sha256: str) -> str:
    """A picture that came with the batch, until its job has it."""
    return batch_file(batch_id, f"pictures/{index:06d}-{sha256}")


def batch_progress(batch_id: str) -> str:
    """How far the batch has come."""
    return batch_file(batch_id, "progress.json")


def batch_rerun(batch_id: str) -> str:
    """The id of the backfill that runs again what failed of the batch."""
    return batch_file(batch_id, "rerun")


def batch_work(batch_id: str) -> str:
    """A batch that has not ended, or whose end is to be told; it holds a word if cancelled."""
    return f"{BATCH_WORK}{batch_id}"


def batch_news(uuid: str, ended_at_microseconds: int) -> str:
    """One end of a batch's job, yet to be counted. No uuid and no id holds an `@`."""
    return f"{BATCH_WORK}{uuid}@{ended_at_microseconds}"


def run_logs(run_id: str) -> str:
    """The prefix of all that a run has printed and logged."""
    return f"{RUN_LOGS}{run_id}/"


def content_type(key: str) -> str:
    """The media type that follows from the key's extension."""
    name = key.rpartition("/")[2]
    return _CONTENT_TYPES.get(name.rpartition(".")[2].lower(), "application/octet-stream")
