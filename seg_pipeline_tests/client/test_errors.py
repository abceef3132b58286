"""Every code that the API answers has a class of the client's."""

from api.error_responses import STATUS_BY_CODE
from seg_client.errors import BY_CODE, RequestError, ServiceError, api_error
from seg_pipeline.errors import Fault, codes_of


def test_every_code_has_a_class_with_its_status() -> None:
    assert {code: error.status for code, error in BY_CODE.items()} == STATUS_BY_CODE


def test_every_code_of_the_service_is_known() -> None:
    assert {*codes_of(Fault.CLIENT), *codes_of(Fault.OURS)} <= BY_CODE.keys()


def test_what_is_the_clients_fault_is_no_service_error() -> None:
    ours = {code for code in BY_CODE if issubclass(BY_CODE[code], ServiceError)}
    assert not ours & set(codes_of(Fault.CLIENT))
    assert ours >= set(codes_of(Fault.OURS)) - {"error"}


def test_an_error_carries_all_that_was_said() -> None:
    error = api_error("This is a text.", "not_an_image", "job-1", 400)
    assert type(error).__name__ == "NotAnImage"
    assert (error.sentence, error.code, error.uuid, error.status) == (
        *("This is a text.", "not_an_image", "job-1", 400),
    )


def test_an_unknown_code_is_the_group_of_its_status() -> None:
    refused, failed = api_error("No.", "newer", None, 422), api_error("No.", "newer", None, 507)
    assert (type(refused), refused.code) == (RequestError, "newer")
    assert (type(failed), failed.status) == (ServiceError, 507)
