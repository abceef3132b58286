"""How this process's C library keeps the memory that torch frees."""

import ctypes
import os

# From glibc's malloc.h; mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

_LARGEST = 2**31 - 1
_USED_FROM_THE_HEAP = 2**30


def keep_freed_memory() -> bool:
    """Keeps freed memory for the next picture. Returns whether the C library can.

    A network's layers free tens of megabytes each and allocate them again. By default every page
    then comes from the system anew, zeroed and mapped. `devices.give_memory_back` still gives all
    of it back.
    """
    if os.name != "posix":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's; others have no such call
    if mallopt is None:
        return False
    return bool(
        mallopt(_M_MMAP_THRESHOLD, _USED_FROM_THE_HEAP) and mallopt(_M_TRIM_THRESHOLD, _LARGEST)
    )
