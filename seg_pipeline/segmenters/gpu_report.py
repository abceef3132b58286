"""`python -m seg_pipeline.segmenters.gpu_report`: what torch sees of CUDA, as a line of JSON."""

import json
import warnings
from typing import Any

import torch


def gpu_report() -> dict[str, Any]:
    """torch's version, the CUDA it was built for (None: none), its devices with their memory, and
    what it complains of."""
    with warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always")
        numbers = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
        devices = [torch.cuda.get_device_name(number) for number in numbers]
        memory = [torch.cuda.get_device_properties(number).total_memory for number in numbers]
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "devices": devices,
        "memory_mib": [size // 2**20 for size in memory],
        "complaint": " ".join(str(complaints[0].message).split()) if complaints else None,
    }


if __name__ == "__main__":
    print(json.dumps(gpu_report()))
