"""Runs pytest for `make quick`, and leaves without taking the interpreter apart: with torch and
Dagster in it that takes two seconds, for each part of the tests."""

import os
import sys

import pytest


def main() -> None:
    """Exits with pytest's code. `make test` ends as pytest does, and so shows what hangs there."""
    code = pytest.main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
