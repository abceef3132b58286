"""`python -m seg_pipeline.runtime.reaching broker|database`: one log-in to a server, no retry."""

import sys

from seg_pipeline.runtime.preparation import NotReady, check_broker, check_database
from seg_pipeline.settings import get_settings

CHECKS = {"broker": check_broker, "database": check_database}


def main() -> None:
    """Checks what the command line names. What is wrong is one line, and exit code 1."""
    try:
        CHECKS[sys.argv[1]](get_settings())
    except NotReady as error:
        sys.exit(" ".join(str(error).split()))


if __name__ == "__main__":
    main()
