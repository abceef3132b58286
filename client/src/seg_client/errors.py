"""Everything that can go wrong, as one tree: what the client finds, and what the service says.

SegClientError
├── PictureUnreadable       what was given is no picture that can be sent
├── ConnectionFailed        the service cannot be reached
├── WaitTimeout             the job has not ended within the time
├── UnexpectedAnswer        this client does not understand the answer
└── ApiError                the service's word, by its code
    ├── RequestError        the request is the caller's to mend
    ├── ImageError          the picture's fault
    ├── FetchError          the picture's server did not give it
    └── ServiceError        a fault of the service

Each code of the service has a class of its own. A code that is newer than this client is raised as
the group of its status.
"""

from collections.abc import Iterator


class SegClientError(Exception):
    """Any error that this package raises on purpose."""


class PictureUnreadable(SegClientError):
    """What was given is no picture that can be sent."""


class ConnectionFailed(SegClientError):
    """The service cannot be reached, or the connection broke too often."""


class WaitTimeout(SegClientError):
    """The job has not ended within the time; it goes on, and `uuid` names it."""

    def __init__(self, uuid: str, seconds: float) -> None:
        self.uuid = uuid
        super().__init__(f"job {uuid} has not ended within {seconds:g} s; ask for it later.")


class UnexpectedAnswer(SegClientError):
    """The answer is not what this service sends; something else may be at the address."""


class ApiError(SegClientError):
    """What the service refused or failed to do: `sentence`, `code`, `uuid` and `status`."""

    code: str = "error"
    status: int = 500
    uuid: str | None = None

    def __init__(
        self,
        sentence: str,
        code: str | None = None,
        uuid: str | None = None,
        status: int | None = None,
    ) -> None:
        self.sentence = sentence
        self.code = code or type(self).code
        self.uuid = uuid
        self.status = status or type(self).status
        super().__init__(sentence)


class RequestError(ApiError):
    """The request cannot be served as it is."""

    status = 400


class ImageError(ApiError):
    """The bytes are not a picture that can be segmented."""

    code, status = "invalid_image", 400


class FetchError(ApiError):
    """The picture's address did not return the picture."""

    code, status = "fetch_failed", 502


class ServiceError(ApiError):
    """The service failed."""


class InvalidHost(RequestError):
    """The request has not exactly one valid Host header (RFC 9112, section 3.2)."""

    code, status = "invalid_host", 400


class InvalidRequest(RequestError):
    """A field of the request is missing or wrong."""

    code, status = "invalid_request", 422


class InvalidUuid(RequestError):
    """The uuid cannot be a path segment."""

    code, status = "invalid_uuid", 422


class InvalidResize(RequestError):
    """The size of the cut-outs is out of range."""

    code, status = "invalid_resize", 422


class InvalidTtl(RequestError):
    """The time to keep the result is out of range."""

    code, status = "invalid_ttl", 422


class InvalidParameter(RequestError):
    """The model has no such parameter, or not with this value."""

    code, status = "invalid_parameter", 422


class InvalidPrompt(RequestError):
    """The points or boxes cannot be a prompt, or the model takes none."""

    code, status = "invalid_prompt", 422


class PromptOutside(RequestError):
    """A point or a box lies outside the picture."""

    code, status = "prompt_outside", 422


class PictureNotKept(RequestError):
    """The job that `image_of` names has no picture yet, or none any more."""

    code, status = "picture_not_kept", 404


class InvalidUrl(RequestError):
    """The image_url is not an http, https or s3 address."""

    code, status = "invalid_url", 422


class WebhookRefused(RequestError):
    """The webhook is no address, or none that the service may tell."""

    code, status = "webhook_refused", 422


class IdempotencyKeyReused(RequestError):
    """The idempotency key was sent before with a different request."""

    code, status = "idempotency_key_reused", 422


class UnknownModel(RequestError):
    """The service offers no such model."""

    code, status = "unknown_model", 422


class Unauthorized(RequestError):
    """The service needs an API key, and this is none of its keys."""

    code, status = "unauthorized", 401


class LinkRefused(RequestError):
    """A link to a file has no signature of ours, or has expired."""

    code, status = "link_refused", 403


class JobNotFound(RequestError):
    """No such job, or it has expired."""

    code, status = "job_not_found", 404


class AssetNotFound(RequestError):
    """A finished job has no such file."""

    code, status = "asset_not_found", 404


class NotFound(RequestError):
    """There is nothing at this address."""

    code, status = "not_found", 404


class ParkedNotFound(RequestError):
    """Nothing is parked under this name, or no longer."""

    code, status = "parked_not_found", 404


class MethodNotAllowed(RequestError):
    """The address does not take this method."""

    code, status = "method_not_allowed", 405


class BodyTooSlow(RequestError):
    """The body stalled, or took too long in all."""

    code, status = "body_too_slow", 408


class JobCancelled(RequestError):
    """An operator cancelled the job's run."""

    code, status = "cancelled", 409


class BatchNotFound(RequestError):
    """No such batch, or it has expired."""

    code, status = "batch_not_found", 404


class BatchConflict(RequestError):
    """The uuid is taken by a batch with a different request."""

    code, status = "batch_conflict", 409


class BatchTooLarge(RequestError):
    """A batch has more pictures or bytes than MAX_BATCH_JOBS and the like allow."""

    code, status = "batch_too_large", 413


class JobConflict(RequestError):
    """The uuid is taken by a job with a different request."""

    code, status = "job_conflict", 409


class JobFailed(RequestError):
    """The job has failed, so there is nothing of it to be had."""

    code, status = "job_failed", 409


class JobFinished(RequestError):
    """The job has ended, so there is nothing to cancel."""

    code, status = "job_finished", 409


class JobInProgress(RequestError):
    """The job has not ended, or the app server waits for it: what is asked must wait too."""

    code, status = "job_in_progress", 409


class NotFailed(RequestError):
    """Only a job that has failed can be run again."""

    code, status = "not_failed", 409


class NotReplayable(RequestError):
    """The parked item was not kept whole, or has nothing to try again."""

    code, status = "not_replayable", 409


class NothingToTell(RequestError):
    """There is nothing to tell the app server about this job, or no app server to tell."""

    code, status = "nothing_to_tell", 409


class BodyTooLarge(RequestError):
    """A body other than a picture exceeds its limit."""

    code, status = "body_too_large", 413


class TooManyRequests(RequestError):
    """The client has as many requests in progress as one client may."""

    code, status = "too_many_requests", 429


class UnsupportedBody(RequestError):
    """This route does not read the body's content type."""

    code, status = "unsupported_body", 415


class UnknownHost(RequestError):
    """The request came under a name that may be somebody else's."""

    code, status = "unknown_host", 421


class RateLimited(RequestError):
    """The API key was used more often than it may."""

    code, status = "rate_limited", 429


class OutputTooLarge(RequestError):
    """The cut-outs would have more pixels than the service makes."""

    code, status = "output_too_large", 413


class EmptyImage(ImageError):
    """There were no bytes."""

    code, status = "empty_image", 400


class NotAnImage(ImageError):
    """The bytes are not a picture of a known format."""

    code, status = "not_an_image", 400


class TruncatedImage(ImageError):
    """The picture begins correctly but cannot be decoded to its end."""

    code, status = "truncated_image", 400


class AnimatedImage(ImageError):
    """The picture has more than one frame."""

    code, status = "animated_image", 400


class NoMasksFound(ImageError):
    """Nothing was found; the client returns a result without segments instead."""

    code, status = "no_masks_found", 400


class ImageTooLarge(ImageError):
    """The picture has more bytes than the service takes."""

    code, status = "image_too_large", 413


class TooManyPixels(ImageError):
    """The picture has more pixels than the service takes."""

    code, status = "too_many_pixels", 413


class ImageTooCostly(ImageError):
    """Decoding takes more memory, time or parts than a picture of this size needs."""

    code, status = "image_too_costly", 413


class UnsupportedImage(ImageError):
    """A complete picture of an unsupported kind: a camera's raw file, a rare compression."""

    code, status = "unsupported_image", 400


class UndecodableImage(ImageError):
    """The picture ended the process that decoded it."""

    code, status = "undecodable_image", 400


class UrlRefused(FetchError):
    """The address, or one that it redirects to, is private, local or otherwise forbidden."""

    code, status = "url_refused", 400


class FetchRejected(FetchError):
    """The server refused the picture for good (404, 403, too many redirects)."""

    code, status = "fetch_rejected", 502


class FetchUnavailable(FetchError):
    """The server failed, or could not be reached in time. Another try may help."""

    code, status = "fetch_unavailable", 502


class DeviceBroken(ServiceError):
    """The device no longer works in the process that ran the model."""

    code, status = "device_broken", 500


class StoreTooNew(ServiceError):
    """A newer version of this service wrote the store in a format that this one does not know."""

    code, status = "store_too_new", 500


class InternalError(ServiceError):
    """A fault of the service; its log has the details."""

    code, status = "internal_error", 500


class ModelError(ServiceError):
    """The model did not segment the picture."""

    code, status = "model_failed", 500


class ModelOutOfMemory(ServiceError):
    """The device's memory was too small."""

    code, status = "model_out_of_memory", 500


class WorkerLost(ServiceError):
    """On every attempt the job's worker died while it worked on that job alone."""

    code, status = "worker_lost", 500


class DecoderLost(ServiceError):
    """The process that decodes pictures was ended from outside, or does not answer."""

    code, status = "decoder_lost", 500


class StoreError(ServiceError):
    """The store of jobs and files failed."""

    code, status = "store_failed", 500


class ObjectNotFound(ServiceError):
    """No object has this key."""

    code, status = "object_not_found", 500


class Busy(ServiceError):
    """The service has as much in progress, or as little space left, as it may."""

    code, status = "busy", 503


class QueueUnavailable(ServiceError):
    """SQS cannot be reached, or refuses us. It may come back."""

    code, status = "queue_unavailable", 503


class WeightsMissing(ServiceError):
    """The weights are missing and could not be downloaded."""

    code, status = "weights_missing", 503


class StoreUnavailable(ServiceError):
    """The store cannot be reached or refuses us. It may come back."""

    code, status = "store_unavailable", 503


class StoreFull(ServiceError):
    """The store has no space left."""

    code, status = "store_full", 507


def api_error(
    sentence: str, code: str | None, uuid: str | None = None, status: int | None = None
) -> ApiError:
    """The error of this code; of an unknown code, the group of the status."""
    known = BY_CODE.get(code or "")
    unknown = RequestError if status and status < 500 else ServiceError
    return (known or unknown)(sentence, code, uuid, status)


def _tree(error: type[ApiError]) -> Iterator[type[ApiError]]:
    yield error
    for child in error.__subclasses__():
        yield from _tree(child)


BY_CODE = {each.code: each for each in _tree(ApiError) if "code" in vars(each)}
"""The class of each code."""
