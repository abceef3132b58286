"""The models that jobs may have, and what a job may set for each."""

from pathlib import PurePath
from typing import Any

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from api.auth import RequireKey
from api.openapi import EVERYWHERE, failures, shown
from api.schemas import ModelList
from api.service import Service, ServiceDep, in_thread
from seg_pipeline.domain import (
    DEMO_MODELS,
    SAM2_AND_YOLO,
    Range,
    Switch,
    parameters_of,
    parts_of,
    resolved_model,
    shown_model,
)
from seg_pipeline.model_parameters import MEANINGS, configured_parameters, is_sam2
from seg_pipeline.settings import Settings

router = APIRouter(tags=["models"], dependencies=[RequireKey])

_SUMMARIES = {
    "demo-yolo": "Finds drawn shapes and names them; it knows no photographs.",
    "demo-sam2": "Masks everything in drawn scenes, without names; it knows no photographs.",
}


@router.get(
    "/models",
    summary="List models and their parameters",
    response_model=ModelList,
    responses={
        200: {"description": "The models, the default first.", "content": shown("models")},
        **failures(*EVERYWHERE),
    },
)
async def list_models(service: ServiceDep) -> Response:
    """The default, the others that the operator offers, and the demo models."""
    loaded = await in_thread(_loaded_models, service)
    names = nameable_models(service.settings)
    return JSONResponse({"models": [describe(name, service.settings, loaded) for name in names]})


def nameable_models(settings: Settings) -> list[str]:
    """The default model, and the others that a job may name; paths it may not."""
    others = [name for name in settings.offered_models if shown_model(name) == name]
    return list(dict.fromkeys((settings.model, *others, *DEMO_MODELS, SAM2_AND_YOLO)))


def describe(name: str, settings: Settings, loaded: set[str]) -> dict[str, Any]:
    """A model as clients see it."""
    named = resolved_model(name, settings.offered_models)
    values, parts = configured_parameters(named, settings), parts_of(named)
    return {
        "name": shown_model(name),
        "kind": _kind(named),
        "summary": _summary(named),
        "is_default": name == settings.model,
        "is_bundled": all(part in DEMO_MODELS for part in parts),
        "is_loaded": all(part in loaded for part in parts),
        "takes_prompts": is_sam2(name),
        "parameters": [
            {"name": key, "default": values[key], "description": MEANINGS[key], **_limits(limits)}
            for key, limits in parameters_of(named).items()
        ],
    }


def _kind(name: str) -> str:
    if len(parts_of(name)) > 1:
        return SAM2_AND_YOLO
    return "sam2" if is_sam2(name) else "yolo"


def _limits(limits: Range | Switch) -> dict[str, Any]:
    if isinstance(limits, Switch):
        return {"type": "boolean", "minimum": None, "maximum": None}
    kind = "integer" if limits.whole else "number"
    return {"type": kind, "minimum": limits.least, "maximum": limits.most}


def _summary(name: str) -> str:
    if name in _SUMMARIES:
        return _SUMMARIES[name]
    if len(parts_of(name)) > 1:
        masks, labels = map(shown_model, parts_of(name))
        return f"{masks}'s masks, with {labels}'s labels where both agree, and what lies in what."
    if is_sam2(name):
        return "Masks everything in the picture, without names."
    if PurePath(name).name != name or name.endswith(".pt"):
        return "Finds what it was trained to find, and names it."
    return "Finds everyday objects, and names them."


def _loaded_models(service: Service) -> set[str]:
    return {name for beat in service.live_heartbeats() for name in beat.models}
