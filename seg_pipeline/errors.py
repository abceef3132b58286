"""Everything that can go wrong, as one tree.

SegPipelineError
├── RequestError            the caller's to mend
│   ├── InvalidRequest      ├── InvalidUuid  ├── InvalidResize  ├── InvalidTtl  ├── UnknownModel
│   │                       ├── InvalidParameter  ├── InvalidUrl  ├── WebhookRefused
│   │                       ├── InvalidPrompt  └── PromptOutside
│   │                       └── InvalidPageToken
│   ├── OutputTooLarge      more pixels of cut-outs, or corners of a polygon, than may be made
│   ├── JobConflict  ├── BatchConflict         the uuid stands for another request
│   ├── IdempotencyKeyReused
│   ├── JobNotFound  ├── PictureNotKept  ├── BatchNotFound
│   ├── BatchTooLarge       more pictures or bytes than a batch may have
│   ├── ParkedNotFound  ├── NotReplayable  ├── NotFailed
│   └── NothingToTell       the app server is not to be told of the job, or not yet
├── ImageError              the picture's fault
│   ├── EmptyImage  ├── NotAnImage  ├── UnsupportedImage  ├── TruncatedImage  ├── AnimatedImage
│   ├── ImageTooLarge  ├── TooManyPixels  ├── ImageTooCostly  └── UndecodableImage
├── FetchError              the picture could not be had
│   ├── UrlRefused  ├── FetchRejected          for good
│   └── FetchUnavailable                       worth a retry
│       ├── FetchGivenUp                       for good: its tries are used up
│       └── PictureOnItsWay                    the job goes on when it has come
├── ModelError
│   ├── WeightsMissing                         for good
│   ├── ModelFailed  └── ModelOutOfMemory      worth a retry
│   └── DeviceBroken                           worth a retry, in another process
├── StoreError
│   ├── ObjectNotFound  ├── InvalidKey         nothing can have this key
│   ├── StoreTooNew                            a newer version has written it
│   └── StoreUnavailable  └── StoreFull        worth a retry
├── QueueUnavailable        SQS cannot be reached; worth a retry
├── DecoderLost             its process was ended from outside; worth a retry
├── WorkerLost              a job's worker died more often than it may; for good
├── JobCancelled            an operator's word
└── UnexpectedError         a fault of ours, worth a retry

`code` is the word a client switches on; `permanent` says that trying again cannot help,
`counts_as_attempt` that the job may be what is wrong, `fault` whether the one who sent the job can
mend it, or we must. A message is one sentence that names the value, the limit and what to do.
"""

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Self

_FOLDERS = re.compile(r"(?<![\w:/.~-])/(?:[^/\s'\":;,]+/)+(?=[^/\s])")


class Fault(StrEnum):
    """Who can fix it: the client (its request, its picture, the picture's host), or we."""

    CLIENT = "client"
    OURS = "ours"


class SegPipelineError(Exception):
    """Any error that this service reports on purpose."""

    code = "error"
    permanent = True
    counts_as_attempt = True
    fault = Fault.OURS


class RequestError(SegPipelineError):
    """The request cannot be served as it is."""

    code = "invalid_request"
    fault = Fault.CLIENT


class InvalidRequest(RequestError):
    """A field of the request is missing or wrong."""


class InvalidPageToken(InvalidRequest):
    """The token for the next page of a listing is none that a page had."""

    def __init__(self) -> None:
        super().__init__("after is not the `next` of a former page; leave it out to begin.")


class InvalidUuid(InvalidRequest):
    """The uuid cannot be a path segment."""

    code = "invalid_uuid"

    def __init__(self, uuid: object) -> None:
        super().__init__(
            f"uuid {str(uuid)[:80]!r} must be 1 to 64 letters, digits, '-' or '_', the first a"
            " letter or digit."
        )


class InvalidResize(InvalidRequest):
    """The size of the cut-outs is out of range."""

    code = "invalid_resize"

    def __init__(self, resize: object, limit: int) -> None:
        super().__init__(
            f"resize {str(resize)[:40]} must be a whole number of pixels from 1 to {limit}."
        )


class InvalidTtl(InvalidRequest):
    """The time to keep the result is out of range."""

    code = "invalid_ttl"

    def __init__(self, ttl_seconds: object, limit: int) -> None:
        super().__init__(
            f"ttl_seconds {str(ttl_seconds)[:40]} must be a whole number from 1 to {limit}."
        )


class UnknownModel(InvalidRequest):
    """No such model, or it is not offered here."""

    code = "unknown_model"

    def __init__(self, model: object, offered: Iterable[str] = ()) -> None:
        names = ", ".join(dict.fromkeys(offered)) or "one that MODELS lists"
        super().__init__(
            f"model {str(model)[:80]!r} is not offered here; name {names}, or leave it out."
        )


class InvalidParameter(InvalidRequest):
    """The model has no such parameter, or not with this value."""

    code = "invalid_parameter"


class InvalidPrompt(InvalidRequest):
    """The points or boxes cannot be a prompt, or the model takes none."""

    code = "invalid_prompt"


class PromptOutside(InvalidPrompt):
    """A point or a box lies outside the picture."""

    code = "prompt_outside"

    def __init__(self, what: str, resolution_wh: tuple[int, int]) -> None:
        width, height = resolution_wh
        super().__init__(
            f"{what} lies outside the picture, which is {width} pixels wide and {height} high;"
            " give pixels of the upright picture."
        )


class InvalidUrl(InvalidRequest):
    """The image_url is not an http, https or s3 address."""

    code = "invalid_url"


class WebhookRefused(InvalidRequest):
    """The webhook is no address, or none that WEBHOOK_HOSTS allows."""

    code = "webhook_refused"


class OutputTooLarge(RequestError):
    """Cut-outs would have more pixels than MAX_OUTPUT_PIXELS, or a polygon too many corners."""

    code = "output_too_large"


class JobConflict(RequestError):
    """The uuid is taken by a job with a different request."""

    code = "job_conflict"

    def __init__(self, uuid: str) -> None:
        super().__init__(
            f"job {uuid} exists with a different request; send another uuid or the same request."
        )


class IdempotencyKeyReused(RequestError):
    """The idempotency key was sent before with a different request."""

    code = "idempotency_key_reused"

    def __init__(self) -> None:
        super().__init__(
            "this Idempotency-Key was sent before with a different request; send a new key, or the"
            " same request."
        )


class JobNotFound(RequestError):
    """No such job, or it has expired."""

    code = "job_not_found"

    def __init__(self, uuid: str) -> None:
        super().__init__(f"job {uuid} does not exist or has expired.")


class BatchConflict(RequestError):
    """The uuid is taken by a batch with a different request."""

    code = "batch_conflict"

    def __init__(self, batch_id: str) -> None:
        super().__init__(
            f"batch {batch_id} exists with a different request; send another uuid or the same"
            " request."
        )


class BatchNotFound(RequestError):
    """No such batch, or it has expired."""

    code = "batch_not_found"

    def __init__(self, batch_id: str) -> None:
        super().__init__(f"batch {batch_id} does not exist or has expired.")


class BatchTooLarge(RequestError):
    """A batch has more pictures or bytes than MAX_BATCH_JOBS and the like allow."""

    code = "batch_too_large"


class PictureNotKept(RequestError):
    """The job that `image_of` names has no picture yet, or none any more."""

    code = "picture_not_kept"

    def __init__(self, uuid: str) -> None:
        super().__init__(
            f"the picture of job {uuid} is not kept: the job has expired, was deleted, or has none"
            " yet; send the picture itself."
        )


class ParkedNotFound(RequestError):
    """Nothing is parked under this name, or no longer."""

    code = "parked_not_found"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"nothing is parked as {name[:80]!r}; it may have been replayed or dropped already."
        )


class NotReplayable(RequestError):
    """The parked item was not kept whole, or has nothing to try again."""

    code = "not_replayable"


class NotFailed(RequestError):
    """Only a job that has failed can be run again."""

    code = "not_failed"

    def __init__(self, uuid: str, stands: str) -> None:
        super().__init__(f"job {uuid} {stands}; only a failed job can be run again.")


class NothingToTell(RequestError):
    """There is nothing to tell the app server about this job, or no app server to tell."""

    code = "nothing_to_tell"

    @classmethod
    def to_nobody(cls) -> Self:
        """The error where no app server is set."""
        return cls("APP_SERVER_URL is not set: there is nobody to tell.")


class ImageError(SegPipelineError):
    """The bytes are not a picture that can be segmented."""

    code = "invalid_image"
    fault = Fault.CLIENT


class EmptyImage(ImageError):
    """There were no bytes."""

    code = "empty_image"


class NotAnImage(ImageError):
    """The bytes are not a picture of a known format."""

    code = "not_an_image"


class UnsupportedImage(ImageError):
    """A complete picture of an unsupported kind: a camera's raw file, a rare compression."""

    code = "unsupported_image"


class TruncatedImage(ImageError):
    """The picture begins correctly but cannot be decoded to its end."""

    code = "truncated_image"


class AnimatedImage(ImageError):
    """The picture has more than one frame."""

    code = "animated_image"


class ImageTooLarge(ImageError):
    """The picture has more bytes than MAX_IMAGE_BYTES."""

    code = "image_too_large"


class TooManyPixels(ImageError):
    """By its header the picture has more pixels than MAX_IMAGE_PIXELS. Nothing was decoded."""

    code = "too_many_pixels"


class ImageTooCostly(ImageError):
    """Decoding takes more memory, time or parts than a picture of this size needs."""

    code = "image_too_costly"


class UndecodableImage(ImageError):
    """The picture ended the process that decoded it."""

    code = "undecodable_image"


class DecoderLost(SegPipelineError):
    """The process that decodes pictures was ended from outside, or does not answer."""

    code = "decoder_lost"
    permanent = False


class FetchError(SegPipelineError):
    """The image_url did not return the picture."""

    code = "fetch_failed"
    fault = Fault.CLIENT
    status: int | None = None
    """The status that the server answered, if it did."""


class UrlRefused(FetchError):
    """The address, or one that it redirects to, is private, local or otherwise forbidden."""

    code = "url_refused"


class FetchRejected(FetchError):
    """The server refused the picture for good (404, 403, too many redirects)."""

    code = "fetch_rejected"


class FetchUnavailable(FetchError):
    """The server failed, or could not be reached in time. Another try may help."""

    code = "fetch_unavailable"
    permanent = False
    retry_after_seconds = 0.0
    """The seconds that the server asked for."""


class FetchGivenUp(FetchUnavailable):
    """The server failed, or could not be reached, in every try."""

    permanent = True


class PictureOnItsWay(FetchUnavailable):
    """A run began before the picture was in the store. Nothing is wrong with the job."""

    counts_as_attempt = False

    def __init__(self, uuid: str) -> None:
        super().__init__(
            f"the picture of job {uuid} is not in the store. It is being fetched, and a run of the"
            " job follows; a job that has ended can be materialised again once its picture is"
            " there."
        )


class ModelError(SegPipelineError):
    """The model did not segment the picture."""

    code = "model_failed"


class WeightsMissing(ModelError):
    """The weights are missing and could not be downloaded."""

    code = "weights_missing"


class ModelFailed(ModelError):
    """The model raised an error. Another try may not."""

    permanent = False


class ModelOutOfMemory(ModelFailed):
    """The device's memory was too small."""

    code = "model_out_of_memory"


class DeviceBroken(ModelError):
    """The device no longer works in this process."""

    code = "device_broken"
    permanent = False
    counts_as_attempt = False


class StoreError(SegPipelineError):
    """The store of jobs and files failed."""

    code = "store_failed"


class ObjectNotFound(StoreError):
    """No object has this key."""

    code = "object_not_found"


class InvalidKey(ObjectNotFound):
    """No object can have this key: it would leave its folder, or hide in it."""

    def __init__(self, key: object) -> None:
        super().__init__(
            f"{str(key)[:80]!r} is not a key: use segments of letters, digits, '_', '-', '.' and"
            " '@'."
        )


class StoreTooNew(StoreError):
    """A newer version of this service wrote the store in a format that this one does not know."""

    code = "store_too_new"

    def __init__(self, found: object, known: int, written_by: object) -> None:
        super().__init__(
            f"the store has format {str(found)[:20]}, written by version {str(written_by)[:20]};"
            f" this version reads formats up to {known}: start the newer version again, or set"
            " another DATA_DIR or S3_BUCKET."
        )


class StoreUnavailable(StoreError):
    """The store cannot be reached or refuses us. It may come back."""

    code = "store_unavailable"
    permanent = False
    counts_as_attempt = False


class StoreFull(StoreUnavailable):
    """The store has no space left."""

    code = "store_full"


class QueueUnavailable(SegPipelineError):
    """SQS cannot be reached, or refuses us. It may come back."""

    code = "queue_unavailable"
    permanent = False


class WorkerLost(SegPipelineError):
    """On every attempt the job's worker died, or made no progress, with that job alone.

    The picture may be the cause.
    """

    code = "worker_lost"

    def __init__(self, uuid: str, attempts: int) -> None:
        super().__init__(
            f"job {uuid} ended its worker, or kept it without progress, on each of {attempts}"
            " attempts; it is given up."
        )


class JobCancelled(SegPipelineError):
    """An operator cancelled the job's run."""

    code = "cancelled"
    fault = Fault.CLIENT

    def __init__(self, uuid: str) -> None:
        super().__init__(f"job {uuid} was cancelled; send it again, or materialise its partition.")


class UnexpectedError(SegPipelineError):
    """A fault of this service. Another try may succeed; the log has the traceback."""

    code = "internal_error"
    permanent = False


def without_folders(text: str) -> str:
    """The text with every absolute path cut to its last part: clients need not know our folders."""
    return _FOLDERS.sub("", text)


def fault_of(code: str) -> Fault:
    """Whose fault an error with this code is; ours if the code is unknown."""
    return Fault.CLIENT if code in codes_of(Fault.CLIENT) else Fault.OURS


def codes_of(fault: Fault) -> tuple[str, ...]:
    """The codes of all errors with this fault, sorted."""
    return tuple(sorted({error.code for error in _tree(SegPipelineError) if error.fault is fault}))


def _tree(error: type[SegPipelineError]) -> list[type[SegPipelineError]]:
    return [error, *(each for child in error.__subclasses__() for each in _tree(child))]
