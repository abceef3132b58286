"""What is called what in the store: every key of the service, and nothing else.

A job's files are `assets/{uuid}/…`; the rest are small markers whose names are their meaning.
"""

ASSETS = "assets/"
INBOX = "inbox/"
INFLIGHT = "inflight/"
DONE = "done/"
EXPIRY = "expiry/"
WORKERS = "workers/"
PARKED = "parked/"


def asset(uuid: str, name: str) -> str:
    """A file of a job: `assets/{uuid}/{name}`."""
    return f"{ASSETS}{uuid}/{name}"


def request(uuid: str) -> str:
    """The job as it was asked for."""
    return asset(uuid, "request.json")


def source(uuid: str, extension: str) -> str:
    """The picture's bytes as received; the extension has no dot."""
    return asset(uuid, f"source.{extension}")


def segments(uuid: str) -> str:
    """What the model found, without the pixels: the next stages read it beside the masks."""
    return asset(uuid, "segments.json")


def mask(uuid: str, index: int) -> str:
    """The full-frame mask of a segment, numbered without gaps from 0."""
    return asset(uuid, f"mask_images/mask_{index:03d}.png")


def original(uuid: str) -> str:
    """The whole picture as WEBP."""
    return asset(uuid, "original.webp")


def crop(uuid: str, name: str) -> str:
    """A cut-out; `cutouts.crop_name` names it."""
    return asset(uuid, f"crops/{name}")


def overlay(uuid: str) -> str:
    """The picture with its masks drawn on it."""
    return asset(uuid, "overlay.webp")


def result(uuid: str) -> str:
    """The document; a job is finished when this exists."""
    return asset(uuid, "result.json")


def inbox(uuid: str) -> str:
    """An accepted job that nobody has taken."""
    return f"{INBOX}{uuid}"


def inflight(uuid: str) -> str:
    """A job that a run was asked for; JSON with attempt and run key."""
    return f"{INFLIGHT}{uuid}"


def done(status: str, uuid: str) -> str:
    """A finished job, by how it ended."""
    return f"{DONE}{status}/{uuid}"


def expiry(expires_at_epoch: int, uuid: str) -> str:
    """A finished job's end; sorted by name is sorted by time."""
    return f"{EXPIRY}{expires_at_epoch:012d}-{uuid}"


def worker(name: str) -> str:
    """A worker's last heartbeat."""
    return f"{WORKERS}{name}"
