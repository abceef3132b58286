"""Which tests run in one process, when several share the work, and what a process leaves."""

import subprocess
import sys

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


@pytest.mark.process
def test_triton_calls_nothing_leaked_at_the_end() -> None:
    """Its binding counts what is still there at the exit, as all that was frozen would be."""
    pytest.importorskip("triton", reason="torch brings Triton on Linux alone")
    hook = "conftest.pytest_collection_finish()"
    script = f"import triton; from seg_pipeline_tests import conftest; {hook}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
