"""The published weights: their names, URLs and hashes. Nothing here needs a model library."""

import re

PUBLISHED_SHA256 = {
    "sam2_hiera_tiny": "65b50056e05bcb13694174f51bb6da89c894b57b75ccdf0ba6352c597c5d1125",
    "sam2_hiera_small": "95949964d4e548409021d47b22712d5f1abf2564cc0c3c765ba599a24ac7dce3",
    "sam2_hiera_base_plus": "d0bb7f236400a49669ffdd1be617959a8b1d1065081789d7bbff88eded3a8071",
    "sam2_hiera_large": "7442e4e9b732a508f80e141e7c2913437a3610ee0c77381a66658c3a445df87b",
    "sam2.1_hiera_tiny": "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69",
    "sam2.1_hiera_small": "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38",
    "sam2.1_hiera_base_plus": "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5",
    "sam2.1_hiera_large": "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318",
}
"""The SHA-256 of SAM-2's files.

Upstream's page names no hashes. These are in the registry of
computational-cell-analytics/micro-sam, those of `sam2_hiera_*` in
mazurowski-lab/SlicerSegmentWithSAM too, and each in several other projects. For Ultralytics' files,
which have the same names in several releases, no such list was found. Their hash is recorded at the
first download, and checked from then on.
"""

_SAM2 = re.compile(r"(sam2(?:\.1)?)_hiera_(?:tiny|small|base_plus|large)")
_SAM2_FOLDERS = {"sam2": "072824", "sam2.1": "092824"}
_SAM2_URL = "https://dl.fbaipublicfiles.com/segment_anything_2"
"""From upstream's `checkpoints/download_ckpts.sh`, which its package leaves out."""

_YOLO = re.compile(
    r"yolov8[nsmlx]-seg|yolov9[ce]-seg|yolo11[nsmlx]-seg|yolo26[nsmlx](?:-objv1)?-seg"
    r"|yoloe-(?:v8|11)[sml]-seg|yoloe-26[nsmlx]-seg"
)
_YOLO_URL = "https://github.com/ultralytics/assets/releases/download/v8.4.0"
"""Names and URL as in the pinned `ultralytics.utils.downloads`. A test compares them.

To import that takes seconds and torch.
"""


def published_url(name: str) -> str | None:
    """The URL of a model's published weights; None if nobody publishes them under this name."""
    if sam2 := _SAM2.fullmatch(name):
        return f"{_SAM2_URL}/{_SAM2_FOLDERS[sam2[1]]}/{name}.pt"
    return f"{_YOLO_URL}/{name}.pt" if _YOLO.fullmatch(name) else None
