"""The errors that the documentation shows, with the messages that are really raised."""

from collections.abc import Callable, Iterator

from api.error_responses import (
    STORE_SENTENCES,
    UNEXPECTED,
    AssetNotFound,
    BodyTooLarge,
    BodyTooSlow,
    Busy,
    JobFailed,
    JobFinished,
    JobInProgress,
    LinkRefused,
    RateLimited,
    TooManyRequests,
    Unauthorized,
    UnsupportedBody,
)
from seg_pipeline.domain import (
    MAX_RESIZE,
    MAX_TTL_SECONDS,
    check_model,
    check_parameters,
    check_uuid,
)
from seg_pipeline.errors import (
    AnimatedImage,
    BatchConflict,
    BatchNotFound,
    BatchTooLarge,
    FetchRejected,
    FetchUnavailable,
    IdempotencyKeyReused,
    ImageTooCostly,
    ImageTooLarge,
    InvalidRequest,
    InvalidResize,
    InvalidTtl,
    InvalidUrl,
    JobConflict,
    JobNotFound,
    ModelFailed,
    ModelOutOfMemory,
    NotFailed,
    NothingToTell,
    NotReplayable,
    OutputTooLarge,
    ParkedNotFound,
    PictureNotKept,
    PromptOutside,
    SegPipelineError,
    StoreFull,
    StoreUnavailable,
    TooManyPixels,
    TruncatedImage,
    UnexpectedError,
    UnsupportedImage,
    UrlRefused,
    WebhookRefused,
    WeightsMissing,
    WorkerLost,
)
from seg_pipeline.imaging.images import identify

JOB = "abc123"
BATCH = "summer"


def error_examples() -> dict[str, SegPipelineError]:
    """One error for each code that a route can answer with."""
    return {error.code: error for error in _errors()}


def _errors() -> Iterator[SegPipelineError]:
    yield from _of_the_request()
    yield from _of_what_is_named()
    yield from _of_batches()
    yield from _of_prompts()
    yield from _of_the_picture()
    yield from _of_the_service()


def _of_the_request() -> Iterator[SegPipelineError]:
    yield _raised(lambda: check_uuid("../x"))
    yield _raised(lambda: check_model("gpt", ("yolov8x-seg",)))
    yield _raised(lambda: check_parameters("demo-sam2", {"points_per_side": 65}))
    yield InvalidRequest("send either a picture or an image_url, and not both.")
    yield InvalidResize(0, MAX_RESIZE)
    yield InvalidTtl(0, MAX_TTL_SECONDS)
    yield InvalidUrl(
        "image_url 'ftp://example.com/a.png' must begin with http://, https:// or s3:// and a host."
    )
    yield LinkRefused()
    yield Unauthorized()
    yield RateLimited("shop", 2)
    yield TooManyRequests("you have 500 uploads under way already; try again in a moment.")
    yield BodyTooLarge("a JSON body may have 65536 bytes; send a picture as multipart/form-data.")
    yield BodyTooSlow("the body stalled for 60 s or took ten times that in all; send it again.")
    yield UnsupportedBody(
        "POST /jobs reads application/json with an image_url, or multipart/form-data with a"
        " picture; a bare picture goes to POST /segment."
    )
    yield UrlRefused(
        "intranet.example is not a public address of the internet; send a URL that anybody could"
        " fetch."
    )


def _of_what_is_named() -> Iterator[SegPipelineError]:
    yield JobConflict(JOB)
    yield WebhookRefused("webhook: WEBHOOK_HOSTS does not name evil.example.")
    yield IdempotencyKeyReused()
    yield JobNotFound(JOB)
    yield JobInProgress(
        f"the app server has not been told of job {JOB} yet; delete it when it has."
    )
    yield JobFailed(JOB, "not_an_image", "The bytes are not a picture of a known format.")
    yield OutputTooLarge("a mask has more than 1000000 corners; take a format without polygons.")
    yield ParkedNotFound(f"callback-{JOB}")
    yield JobFinished(JOB, "completed")
    yield NotFailed(JOB, "is completed")
    yield NotReplayable(
        f"the message {JOB} was too long to be kept whole; drop it and send another."
    )
    yield NothingToTell(f"job {JOB} has not ended yet; the app server will be told when it has.")
    yield AssetNotFound(f"job {JOB} has no file crops/x.webp, or it has expired.")


def _of_batches() -> Iterator[SegPipelineError]:
    yield BatchConflict(BATCH)
    yield BatchNotFound(BATCH)
    yield BatchTooLarge(
        "the batch has more than MAX_BATCH_JOBS = 10000 pictures; send it in parts."
    )
    yield FetchRejected("'s3://pictures/summer/' answered 403 instead of a list.")
    yield FetchUnavailable("'s3://pictures/summer/' answered 503; it may be back later.")


def _of_prompts() -> Iterator[SegPipelineError]:
    yield _raised(lambda: check_parameters("demo-yolo", {"points": [[320, 240, 1]]}))
    yield PromptOutside("point (700, 20)", (640, 480))
    yield PictureNotKept(JOB)


def _of_the_picture() -> Iterator[SegPipelineError]:
    yield _raised(lambda: identify(b"", 1))
    yield _raised(lambda: identify(b"no picture", 1))
    yield AnimatedImage("The GIF picture has more than one frame; send a single one.")
    yield ImageTooCostly(
        "The JPEG picture has more than 100 scans; save it anew, with fewer passes."
    )
    yield ImageTooLarge("the picture has more than MAX_IMAGE_BYTES = 33554432 bytes.")
    yield TooManyPixels(
        "The picture has 20000x20000 = 400000000 pixels, more than MAX_IMAGE_PIXELS = 50000000."
    )
    yield TruncatedImage("The JPEG picture is truncated or damaged: image file is truncated.")
    yield UnsupportedImage(
        "The picture is a camera's raw file (DNG); export it as JPEG, PNG or TIFF."
    )


def _of_the_service() -> Iterator[SegPipelineError]:
    yield Busy("the service has 1000 uploads under way already; try again in a moment.")
    yield StoreFull(STORE_SENTENCES[StoreFull.code])
    yield StoreUnavailable(STORE_SENTENCES[StoreUnavailable.code])
    yield UnexpectedError(UNEXPECTED)
    yield ModelFailed("demo-yolo failed on the picture: RuntimeError: no message")
    yield ModelOutOfMemory("the memory did not suffice for demo-yolo; try a smaller model.")
    yield WeightsMissing(
        "the weights of yolov8x-seg are not here yet; `seg-pipeline weights pull yolov8x-seg`"
        " brings them."
    )
    yield WorkerLost(JOB, 3)


def _raised(call: Callable[[], object]) -> SegPipelineError:
    """The error that a call raises."""
    try:
        call()
    except SegPipelineError as error:
        return error
    raise AssertionError("it raised nothing")
