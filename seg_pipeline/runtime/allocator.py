"""How this process's C library keeps the memory that torch frees."""

import ctypes
import os

# From glibc's malloc.h; mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

_LARGEST = 2**31 - 1
_USED_FROM_THE_HEAP = 2**30


def keep_freed_memory() -> bool:
    """Keeps what is freed for the next picture instead of giving it back to the system at once;
    whether it could.

    A network's layers free tens of megabytes each and ask for them again: by default every page of
    them is taken from the system anew, emptied and mapped. `devices.give_memory_back` still gives
    all of it back.
    """
    if os.name != "posix":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc's; others have no such call
    if mallopt is None:
        return False
    return bool(
        mallopt(_M_MMAP_THRESHOLD, _USED_FROM_THE_HEAP) and mallopt(_M_TRIM_THRESHOLD, _LARGEST)
    )
