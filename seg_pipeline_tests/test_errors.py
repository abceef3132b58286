"""Every error: its code, whether another try may help, whose fault it is, and its one sentence."""

import pytest

from seg_pipeline import errors
from seg_pipeline.errors import Fault, SegPipelineError, codes_of, fault_of, without_folders


def tree(root: type[SegPipelineError] = SegPipelineError) -> set[type[SegPipelineError]]:
    """The errors of the module; other modules derive theirs."""
    found = {root}.union(*(tree(child) for child in root.__subclasses__()))
    return {error for error in found if error.__module__ == errors.__name__}


def names(attribute: str, value: object) -> set[str]:
    return {error.__name__ for error in tree() if getattr(error, attribute) == value}


def test_what_may_go_well_another_time_is_no_other_than_this() -> None:
    """A permanent error that is retried costs runs; a passing one that is not fails a job."""
    assert names("permanent", False) == {
        *("FetchUnavailable", "PictureOnItsWay", "ModelFailed", "ModelOutOfMemory", "DeviceBroken"),
        *("StoreUnavailable", "StoreFull", "QueueUnavailable", "DecoderLost", "UnexpectedError"),
    }


def test_what_is_surely_not_the_jobs_doing_costs_it_no_attempt() -> None:
    expected = {"PictureOnItsWay", "DeviceBroken", "StoreUnavailable", "StoreFull"}
    assert names("counts_as_attempt", False) == expected


def test_an_error_that_costs_no_attempt_may_go_well_another_time() -> None:
    assert names("counts_as_attempt", False) <= names("permanent", False)


@pytest.mark.parametrize("branch", [errors.RequestError, errors.ImageError, errors.FetchError])
def test_requests_pictures_and_their_hosts_are_the_clients_to_mend(
    branch: type[SegPipelineError],
) -> None:
    assert {error.fault for error in tree(branch)} == {Fault.CLIENT}


@pytest.mark.parametrize("branch", [errors.ModelError, errors.StoreError, errors.QueueUnavailable])
def test_models_store_and_queue_are_ours_to_mend(branch: type[SegPipelineError]) -> None:
    assert {error.fault for error in tree(branch)} == {Fault.OURS}


def test_no_code_is_both_the_clients_fault_and_ours() -> None:
    assert not set(codes_of(Fault.CLIENT)) & set(codes_of(Fault.OURS))


def test_a_code_that_nobody_knows_is_our_fault() -> None:
    assert fault_of("not_an_image") is Fault.CLIENT
    assert fault_of("cancelled") is Fault.CLIENT
    assert fault_of("worker_lost") is Fault.OURS
    assert fault_of("never_heard_of") is Fault.OURS


def test_a_code_is_shared_only_within_a_branch() -> None:
    """A client switches on it: the same word may not mean two unrelated things."""
    for error in tree():
        for other in tree():
            if error.code == other.code:
                assert issubclass(error, other.__mro__[1]) or issubclass(other, error.__mro__[1])


def test_codes_are_words_of_lower_case_letters() -> None:
    assert all(error.code.replace("_", "").isalpha() for error in tree())
    assert all(error.code == error.code.lower() for error in tree())


SENTENCES = {
    errors.InvalidUuid("no/slash"): ("'no/slash'", "1 to 64"),
    errors.InvalidResize(0, 8192): ("resize 0 ", "1 to 8192"),
    errors.InvalidTtl("long", 99): ("ttl_seconds long ", "1 to 99"),
    errors.UnknownModel("vgg", ["a", "b", "a"]): ("'vgg'", "name a, b, or"),
    errors.UnknownModel("vgg"): ("'vgg'", "one that MODELS lists"),
    errors.JobConflict("job-1"): ("job job-1 ", "another uuid"),
    errors.JobNotFound("job-1"): ("job job-1 ", "expired"),
    errors.ParkedNotFound("m-1"): ("'m-1'", "replayed or dropped"),
    errors.PictureOnItsWay("job-1"): ("job job-1 ", "being fetched"),
    errors.InvalidKey("../up"): ("'../up'", "segments of letters"),
    errors.StoreTooNew(99, 3, "9.1"): ("format 99, written by version 9.1", "up to 3"),
    errors.WorkerLost("job-1", 3): ("job job-1 ", "each of 3 attempts"),
    errors.JobCancelled("job-1"): ("job job-1 ", "send it again"),
}


@pytest.mark.parametrize("error", SENTENCES, ids=lambda error: type(error).__name__)
def test_a_message_names_the_value_the_limit_and_what_to_do(error: SegPipelineError) -> None:
    for words in SENTENCES[error]:
        assert words in str(error)
    assert str(error).endswith(".")
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    "error",
    [
        errors.InvalidUuid("x" * 10_000),
        errors.InvalidResize("9" * 10_000, 1),
        errors.InvalidTtl("9" * 10_000, 1),
        errors.UnknownModel("x" * 10_000),
        errors.ParkedNotFound("x" * 10_000),
        errors.InvalidKey("x" * 10_000),
        errors.StoreTooNew("9" * 10_000, 1, "9" * 10_000),
    ],
)
def test_a_long_value_is_cut_in_its_message(error: SegPipelineError) -> None:
    """It is the client's, and the message is kept with the job."""
    assert len(str(error)) < 300


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("cannot open '/srv/data/models/a.pt'", "cannot open 'a.pt'"),
        ("cannot open /var/lib/a.b/c", "cannot open c"),
        ("/a/b and /c/d/e", "b and e"),
        ("https://host/path/to/a.png", "https://host/path/to/a.png"),
        ("models/weights/a.pt", "models/weights/a.pt"),
        ("either/or", "either/or"),
        ("3/4 of 1/2", "3/4 of 1/2"),
    ],
)
def test_folders_of_this_machine_are_cut_from_foreign_words(text: str, cut: str) -> None:
    assert without_folders(text) == cut
