"""What the report of CUDA says is what torch says."""

import torch

from seg_pipeline.segmenters.gpu_report import gpu_report


def test_it_names_every_device_that_torch_can_use() -> None:
    report = gpu_report()
    usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    assert (report["torch"], report["cuda"]) == (torch.__version__, torch.version.cuda)
    assert len(report["devices"]) == len(report["memory_mib"]) == usable
