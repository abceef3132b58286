"""The reference of the documentation site, as Markdown made from the code: settings, API, errors,
assets, metrics."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from prometheus_client import Metric
from pydantic.fields import FieldInfo

from api.app import create_app
from api.error_responses import STATUS_BY_CODE
from api.metrics import Metrics
from api.service_metrics import gauges_of, store_up
from seg_pipeline.definitions import defs
from seg_pipeline.errors import Fault, SegPipelineError, fault_of
from seg_pipeline.monitoring.service_state import PruneState, read_service_state
from seg_pipeline.settings import Settings
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline.telemetry import metrics

Rows = Iterable[Sequence[str]]

OF_NO_CLASS = {
    "method_not_allowed": "The route exists, but not with this method.",
    "no_masks_found": "Nothing was found in the picture, on a route that waits.",
}
"""Codes that no error class brings. All are the client's fault."""


def settings_page() -> str:
    """Every setting with its default and its meaning."""
    rows = [
        (f"`{name.upper()}`", _default(field), field.description or "")
        for name, field in Settings.model_fields.items()
    ]
    return _page(
        "Settings",
        "From the environment or `.env`; the defaults suit a laptop. `seg-pipeline settings` shows"
        " what is in force.",
        _table(("setting", "default", "meaning"), rows),
    )


def api_page() -> str:
    """Every route by its path, with its parameters and answers, as the OpenAPI document has it."""
    document = create_app(Settings(_env_file=None)).openapi()
    operations = [
        _operation(method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    return _page(
        "API",
        "The routes. A running service shows the same with examples at `/docs`, and serves the"
        " document itself at `/openapi.json`.",
        *operations,
    )


def errors_page() -> str:
    """Every code with its status, whose fault it is, and what it means."""
    rows = [
        (f"`{code}`", str(STATUS_BY_CODE[code]), _fault(code), meaning)
        for code, meaning in sorted({**_meanings(), **OF_NO_CLASS}.items())
    ]
    return _page(
        "Errors",
        'The body of an error is `{"error": "<sentence>", "code": "<code>"}`, with the `uuid` of'
        " the job if there is one. The fault is `client` where the one who sent the job can mend"
        " it, else `ours`.",
        _table(("code", "status", "fault", "meaning"), rows),
    )


def assets_page() -> str:
    """Every asset of Dagster with what it comes from and its description."""
    specs = sorted(defs.resolve_all_asset_specs(), key=lambda spec: spec.key.to_user_string())
    return _page(
        "Assets",
        "What Dagster shows of a job. Each partition is the uuid of a job.",
        *(_asset(spec) for spec in specs),
    )


def metrics_page() -> str:
    """Every metric that `GET /metrics` serves, by its name."""
    rows = [
        (f"`{_exposed_name(metric)}`", metric.type, metric.documentation)
        for metric in sorted(_metrics(), key=lambda metric: metric.name)
    ]
    return _page(
        "Metrics",
        "What `GET /metrics` serves beside the figures of the process itself. The"
        " [runbook](../operating.md#metrics) has their labels, and what to watch.",
        _table(("metric", "type", "what it is"), rows),
    )


PAGES: Mapping[str, Callable[[], str]] = {
    "reference/settings.md": settings_page,
    "reference/api.md": api_page,
    "reference/errors.md": errors_page,
    "reference/assets.md": assets_page,
    "reference/metrics.md": metrics_page,
}
"""The pages by their places below docs/, where no file of theirs lies."""


def _default(field: FieldInfo) -> str:
    return "" if field.default is None else f"`{field.default}`"


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    parameters = [
        (f"`{each['name']}`", each["in"], each.get("description", ""))
        for each in operation.get("parameters", [])
    ]
    answers = [(status, each["description"]) for status, each in operation["responses"].items()]
    parts = [f"## `{method.upper()} {path}`", operation.get("description", operation["summary"])]
    if parameters:
        parts.append(_table(("parameter", "in", "meaning"), parameters))
    return "\n\n".join([*parts, _table(("status", "answer"), answers)])


def _fault(code: str) -> str:
    return (Fault.CLIENT if code in OF_NO_CLASS else fault_of(code)).value


def _meanings() -> dict[str, str]:
    """The first sentence about each code, by the class that brings the code."""
    return {
        error.code: (error.__doc__ or "").split("\n\n")[0].replace("\n", " ")
        for error in _errors(SegPipelineError)
        if "code" in vars(error)
    }


def _errors(root: type[SegPipelineError]) -> Iterator[type[SegPipelineError]]:
    """The errors of the service; those that another program defines are none of them."""
    if root.__module__.partition(".")[0] in ("api", "seg_pipeline"):
        yield root
    for child in root.__subclasses__():
        yield from _errors(child)


def _asset(spec: Any) -> str:
    before = sorted(f"`{dep.asset_key.to_user_string()}`" for dep in spec.deps)
    parts = [f"## `{spec.key.to_user_string()}`", spec.description or ""]
    if before:
        parts.append(f"Made from {', '.join(before)}.")
    return "\n\n".join(parts)


def _metrics() -> Iterator[Metric]:
    yield from metrics.REGISTRY.collect()
    state = read_service_state(ObjectStore.in_memory(), 15)
    yield from gauges_of(replace(state, prune=PruneState(state.at)))
    yield store_up(True)
    yield from Metrics().families()


def _exposed_name(metric: Metric) -> str:
    return f"{metric.name}_total" if metric.type == "counter" else metric.name


def _page(title: str, introduction: str, *parts: str) -> str:
    return "\n\n".join([f"# {title}", introduction, *parts]) + "\n"


def _table(heads: Sequence[str], rows: Rows) -> str:
    lines = [heads, ["---"] * len(heads), *(map(_cell, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """The text on one line, with nothing that would end the cell or begin a tag."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
