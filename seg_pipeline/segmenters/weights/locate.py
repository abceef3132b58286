"""Finds the weights of a model: bundled, named by the operator, or downloaded once.

A .pt file is a pickle. Only files that the operator can vouch for are opened: those in the package,
those named in the settings and those in WEIGHTS_DIR. Segmenters still load only data and known
classes from them.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from seg_pipeline.domain import DEMO_MODELS, shown_model
from seg_pipeline.errors import WeightsMissing
from seg_pipeline.segmenters.weights.digest import verified
from seg_pipeline.segmenters.weights.download import (
    DownloadFailed,
    Progress,
    download,
    log_progress,
)
from seg_pipeline.segmenters.weights.published import published_url
from seg_pipeline.settings import Settings

BUNDLED = Path(__file__).parents[2] / "demo" / "weights"
logger = logging.getLogger(__name__)


def locate_weights(name: str, settings: Settings) -> Path:
    """The file with the weights of a model. It downloads nothing, which would hold up jobs.

    Raises WeightsMissing. Clients may read that, so only the log says where it searched.
    """
    places = _places(name, settings)
    for path in places:
        if path.is_file():
            return verified(path)
    logger.warning("the weights of %s are not at %s", name, " or ".join(map(str, places)))
    bare = shown_model(name)
    if _is_path(name):
        raise WeightsMissing(
            f"the weights {bare} are not there; their operator has to put them back."
        )
    raise WeightsMissing(
        f"the weights of {bare} are not here yet; `seg-pipeline weights pull {bare}` brings them."
    )


def find_weights(
    name: str,
    settings: Settings,
    progress: Progress = log_progress,
    url_of: Callable[[str], str | None] = published_url,
) -> Path:
    """The file with the weights of a model, downloaded into WEIGHTS_DIR if it is missing.

    Raises WeightsMissing, which says where it searched and what to do.
    """
    places = _places(name, settings)
    for path in places:
        if path.is_file():
            return verified(path)
    if Path(name).name != name:
        raise WeightsMissing(
            f"the weights {name} are not there; name an existing .pt file, or demo-yolo."
        )
    published_name = name.removesuffix(".pt")
    target = settings.weights_dir / f"{published_name}.pt"
    url = None if name in DEMO_MODELS else url_of(published_name)
    if url is None:
        raise _missing(name, places, "and nobody publishes weights under this name")
    try:
        return download(url, target, progress)
    except DownloadFailed as error:
        why = f"and downloading them from {url} failed ({error})"
        raise _missing(target.stem, [target], why) from error


def _places(name: str, settings: Settings) -> list[Path]:
    if name in DEMO_MODELS:
        return [BUNDLED / f"{name}.pt"]
    if not _is_path(name):
        return [settings.weights_dir / f"{name}.pt"]
    if name not in settings.offered_models:
        raise WeightsMissing(
            f"model {name} is a path, and paths come from the settings MODEL, QUEUE_MODEL and"
            " MODELS alone."
        )
    return [Path(name), settings.weights_dir / name]


def _is_path(name: str) -> bool:
    return Path(name).name != name or name.endswith(".pt")


def _missing(name: str, places: list[Path], why: str) -> WeightsMissing:
    searched = " or ".join(str(path) for path in places)
    return WeightsMissing(
        f"the weights of {name} are not at {searched}, {why}; put the file there, or use demo-yolo,"
        " which needs none."
    )
