"""Which tests run in one process, when several share the work."""

import pytest

from seg_pipeline_tests.conftest import scope

SHARED = "@pytest.mark.slow\ndef test_a(\n    stack: Stack, kill: Kill\n) -> None:\n"
BY_A_FIXTURE = """@pytest.fixture(scope="module")
def reader(stack: Stack) -> Reader:

@pytest.mark.slow
def test_a(reader: Reader) -> None:
"""
OWN = "@pytest.mark.slow\ndef test_a(profile: str) -> None:\n    stack: Stack = Stack()\n"


@pytest.mark.parametrize(
    ("test", "text", "expected"),
    [
        ("x.py::test_a[embedded]", SHARED, "stack[embedded]"),
        ("y.py::test_b[servers-kill_daemon]", SHARED, "stack[servers]"),
        ("x.py::test_a[kill-embedded]", SHARED, "stack[embedded]"),
        ("x.py::test_a[embedded]", BY_A_FIXTURE, "stack[embedded]"),
        ("x.py::test_of_servers", SHARED, "x.py[]"),
        ("x.py::test_a[servers]", OWN, "x.py[servers]"),
        ("x.py::test_a[serversize]", OWN, "x.py[]"),
        ("x.py::test_a[servers]", "def test_a(profile: str) -> None:\n", "x.py::test_a[servers]"),
    ],
)
def test_those_that_share_a_running_service_run_in_one_process(
    test: str, text: str, expected: str
) -> None:
    assert scope(test, text) == expected
