"""Every setting, its default and its meaning. Only this module reads the environment and `.env`."""

import os
import re
import sys
from collections.abc import Collection
from difflib import get_close_matches
from functools import lru_cache
from ipaddress import ip_network
from pathlib import Path
from typing import Literal

from dotenv import dotenv_values
from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from seg_pipeline.domain import (
    MAX_BATCH_JOBS,
    MAX_TTL_SECONDS,
    SAM2_AND_YOLO,
    parts_of,
    resolved_model,
)

LONGEST_S3_LINK_SECONDS = 7 * 86_400
"""How long S3 lets a signed link hold."""

_HOST_OR_NETWORK = re.compile(
    r"\*|(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|[0-9a-fA-F:.]+(/[0-9]{1,3})?"
)

InferenceMode = Literal["exact", "turbo"]
"""How models run: in full precision, or in the fastest form with the same segments."""


class Settings(BaseSettings):
    """Read from the environment, then from `.env` in the current folder, by upper-case names."""

    model_config = SettingsConfigDict(
        env_file=".env", extra="ignore", frozen=True, env_ignore_empty=True
    )

    # What segments
    model: str = Field(
        "yolov8x-seg", description="Model for uploads: any yolo*-seg name, or a path to weights."
    )
    queue_model: str = Field("sam2.1_hiera_large", description="Model for jobs that come by SQS.")
    models: str | None = Field(
        None,
        description=(
            "Comma-separated models that jobs may name beside MODEL, QUEUE_MODEL and the demo"
            " models."
        ),
    )
    device: str = Field(
        "auto", description="auto, cpu, cuda or cuda:N; auto takes CUDA where there is one."
    )
    weights_dir: Path = Field(
        Path("models/weights"), description="Where downloaded weights are kept."
    )
    inference_mode: InferenceMode = Field(
        "exact",
        description="exact, or turbo: quicker, if it finds the same on the bundled pictures.",
    )
    compile_models: bool = Field(
        True, description="Compile SAM-2 for a GPU in the background; false: run it as it is."
    )
    confidence: float = Field(
        0.25, ge=0, le=1, description="YOLO detections below this are dropped."
    )
    # SAM-2's automatic masks; unset: upstream's default, or what suits demo-sam2
    sam2_points_per_side: int | None = Field(
        None, ge=1, le=256, description="Grid of prompts; 32 by default."
    )
    sam2_points_per_batch: int | None = Field(
        None, ge=1, description="Prompts at once, at most; 64 by default."
    )
    sam2_pred_iou_thresh: float | None = Field(
        None, ge=0, le=1, description="Least predicted IoU; 0.8 by default."
    )
    sam2_stability_score_thresh: float | None = Field(
        None, ge=0, le=1, description="Least stability; 0.95 by default."
    )
    sam2_box_nms_thresh: float | None = Field(
        None, ge=0, le=1, description="Boxes that share more; 0.7 by default."
    )
    sam2_crop_n_layers: int | None = Field(
        None, ge=0, le=4, description="Layers of crops, each finer; 0 by default."
    )
    sam2_min_mask_region_area: int | None = Field(
        None, ge=0, description="Smaller holes and islands go; 0 by default."
    )
    tile_above_pixels: int = Field(
        50_000_000, ge=0, description="Pictures of more pixels go in tiles; 0: none do."
    )
    tile_side: int = Field(2048, ge=256, le=8192, description="Side of a tile in pixels.")
    embedding_bytes: int = Field(
        512 * 2**20,
        ge=0,
        description="What SAM-2 keeps of pictures for further prompts, in DATA_DIR; 0: nothing.",
    )
    embedding_seconds: int = Field(
        900, ge=1, description="How long after its last prompt a picture's share of that is kept."
    )
    idle_unload_seconds: int = Field(
        600, ge=0, description="A model unused for so long is unloaded; 0: never."
    )
    warm_models: str | None = Field(
        None,
        description=(
            "Comma-separated models that a worker loads as it starts, and keeps while idle."
        ),
    )

    # Where things live
    data_dir: Path = Field(
        Path("data"), description="Folder for the embedded broker, database and markers."
    )
    assets_dir: Path | None = Field(
        None, description="Folder of the jobs' files; DATA_DIR/assets by default."
    )
    s3_bucket: str | None = Field(
        None, description="Bucket for files and markers; without one, folders."
    )
    s3_endpoint_url: str | None = Field(None, description="S3 endpoint, if it is not AWS's.")
    s3_access_key: SecretStr | None = Field(
        None, description="S3 key id; boto3's own chain without it."
    )
    s3_secret_key: SecretStr | None = Field(None, description="S3 secret key.")
    aws_region: str = Field("us-east-1", description="Region of bucket and queue.")
    aws_profile: str | None = Field(None, description="Profile in ~/.aws, in development.")
    broker_url: str | None = Field(
        None, description="Celery broker (redis://…); a folder by default."
    )
    database_url: str | None = Field(
        None, description="Dagster's storage (postgresql://…); SQLite by default."
    )
    celery_queue: str = Field(
        "seg-pipeline", description="Queue name; one per deployment on a shared broker."
    )

    code_server: str = Field(
        "127.0.0.1:4000",
        pattern=r"^[^\s:]+:\d{1,5}$",
        description="Where daemon and UI find the code server, if they are started one by one.",
    )

    # The door
    api_host: str = Field("127.0.0.1", description="Address the API listens on.")
    api_port: int = Field(8000, ge=1, le=65535, description="Port of the API.")
    dagster_host: str = Field("127.0.0.1", description="Address the Dagster UI listens on.")
    dagster_port: int = Field(3000, ge=1, le=65535, description="Port of the Dagster UI.")
    dagster_allowed_hosts: str | None = Field(
        None,
        description=(
            "Comma-separated names the UI is reached by, besides localhost and DAGSTER_HOST."
        ),
    )
    dagster_password: SecretStr | None = Field(
        None, description="The UI asks for it (HTTP Basic); unset: open."
    )
    dagster_identity_header: str | None = Field(
        None,
        description="A header in which a proxy says who somebody is; without it the UI refuses.",
    )
    dagster_proxies: str | None = Field(
        None,
        description="Comma-separated addresses or networks of such proxies, besides this machine.",
    )
    dagster_url: str | None = Field(
        None,
        pattern=r"^https?://[^\s\"'<>]+$",
        description=(
            "Public address of the Dagster UI, for links to a job; unset: no link, but for this"
            " machine's while API_HOST is this machine alone."
        ),
    )
    base_url: str | None = Field(
        None, description="Public address of the API, for links; from the request if unset."
    )
    forwarded_allow_ips: str = Field(
        "127.0.0.1",
        description="Proxies whose X-Forwarded-For is believed; commas between them, * for all.",
    )
    allowed_hosts: str | None = Field(
        None,
        description=(
            "Comma-separated names that the API answers to beside BASE_URL's; by default all, "
            "or none that a stranger could register while API_HOST is this machine alone."
        ),
    )
    api_keys: SecretStr | None = Field(
        None,
        description="Comma-separated keys that may use the API, each key or name:key; unset: open.",
    )
    api_rates: str | None = Field(
        None,
        pattern=r"^\s*([A-Za-z0-9_.*-]+\s*=\s*[1-9][0-9]{0,6}\s*(,\s*|$))+$",
        description="Requests a minute by a key's name, such as shop=60,*=600; unset: no limit.",
    )
    asset_link_secret: SecretStr | None = Field(
        None,
        description=(
            "Signs the links to files, which then expire and lead to the API; unset: they are open."
        ),
    )
    asset_link_seconds: int = Field(
        3600, ge=1, le=MAX_TTL_SECONDS, description="How long a signed link holds."
    )
    s3_signed_links: bool = Field(
        False,
        description=(
            "Links to files lead to the bucket, which may be private: S3's own signed ones, which"
            " expire."
        ),
    )
    wait_seconds: float = Field(
        60, ge=0, le=600, description="How long POST /segment waits before it answers 202."
    )
    health_idle_seconds: int = Field(
        120, ge=0, description="/health fails this long after the last request; 0: off."
    )
    upload_stall_seconds: float = Field(
        60, gt=0, description="An upload that stalls for so long is refused."
    )
    reuse_results: bool = Field(
        False,
        description=(
            "Answer the same bytes with the same options from the store, also where a request does"
            " not say `reuse`."
        ),
    )
    idempotency_key_seconds: int = Field(
        86_400, ge=1, description="An Idempotency-Key is known for at least so long."
    )
    cors_origins: str | None = Field(
        None,
        pattern=r"^\s*((\*|https?://[^\s/,*]+/?)\s*(,\s*|$))+$",
        description=(
            "Comma-separated origins whose web pages may use the API, such as"
            " https://shop.example; * is all of them; unset: none."
        ),
    )
    max_connections: int = Field(
        2000, ge=16, description="Beyond, the connections longest silent are closed."
    )
    max_uploads: int = Field(1000, ge=0, description="Uploads received at once; more get 503.")
    max_uploads_per_client: int = Field(
        500, ge=0, description="Uploads received at once from one address; more get 429."
    )
    max_waiting: int = Field(
        512, ge=0, description="Requests waiting for a result at once; more get 202."
    )
    max_waiting_per_client: int = Field(
        256, ge=0, description="Requests waiting at once from one address; more get 202."
    )
    max_listeners: int = Field(
        400, ge=0, description="Listeners to jobs' events at once; more get 503."
    )
    max_listeners_per_client: int = Field(
        256, ge=0, description="Listeners at once from one address; more get 429."
    )
    max_queued_jobs: int = Field(
        50_000, ge=1, description="With so many jobs unfinished, new ones get 503."
    )
    max_exports: int = Field(2, ge=1, description="Exports made at once; more wait, then get 503.")
    max_batch_jobs: int = Field(
        10_000, ge=1, le=MAX_BATCH_JOBS, description="Pictures of a batch, at most."
    )
    max_batch_list_bytes: int = Field(
        16 * 2**20, ge=1, description="Larger lists of a batch's addresses are refused."
    )
    max_batch_zip_bytes: int = Field(
        2 * 2**30,
        ge=1,
        description="Larger ZIPs of a batch's pictures are refused; unpacked, too.",
    )
    min_free_bytes: int = Field(
        256 * 2**20, ge=0, description="Uploads that would leave less disk free get 503."
    )
    max_image_bytes: int = Field(
        32 * 2**20, ge=1, description="Larger uploads and downloads are refused."
    )
    max_image_pixels: int = Field(
        50_000_000, ge=1, description="Pictures of more pixels are refused."
    )
    max_segments: int = Field(
        1_000, ge=1, description="Of more segments in a picture the surest stay."
    )
    max_output_pixels: int = Field(
        500_000_000, ge=1, description="A job whose cut-outs have more pixels in all is failed."
    )

    # The queue and the app server
    sqs_queue_url: str | None = Field(None, description="Queue of jobs; none without it.")
    sqs_endpoint_url: str | None = Field(None, description="SQS endpoint, for local stand-ins.")
    app_server_url: str | None = Field(None, description="Receives a PATCH per job.")
    app_server_api_key: SecretStr | None = Field(
        None, description="Sent to the app server as x-api-key."
    )
    callback_secret: SecretStr | None = Field(None, description="Signs callbacks with HMAC-SHA256.")
    callback_give_up_seconds: int = Field(
        86_400, ge=1, description="A delivery is parked after so long."
    )
    parked_ttl_seconds: int = Field(
        7 * 86_400,
        ge=1,
        description="What could not be delivered or understood is kept for so long.",
    )

    webhook_hosts: str | None = Field(
        None,
        description=(
            "Comma-separated hosts that a job's webhook may be at: names, *.name, or * for all at"
            " public addresses; and private addresses or networks that these may have. Unset: none."
        ),
    )
    webhook_secret: SecretStr | None = Field(
        None, description="Signs what webhooks get, as CALLBACK_SECRET does callbacks."
    )

    # Pictures that jobs name by their addresses
    allow_private_urls: bool = Field(
        False, description="Fetch from private addresses too; development only."
    )
    s3_sources: str | None = Field(
        None,
        description=(
            "Buckets, or bucket/prefix, that jobs may name as s3://, comma-separated. Empty: none."
            " Unset: S3_BUCKET but for the service's own files; without S3_BUCKET all that"
            " S3_ACCESS_KEY may read."
        ),
    )
    fetches_at_once: int = Field(
        128, ge=1, le=1024, description="Pictures that a fetcher fetches at the same time."
    )
    fetches_per_host: int = Field(8, ge=1, description="Of these at most so many from one host.")
    fetch_seconds: float = Field(
        60, gt=0, description="How long a fetch may take in all, redirects among it."
    )
    fetch_attempts: int = Field(
        4, ge=1, le=20, description="Fetches before a picture counts as out of reach."
    )

    # Who is told when something is wrong
    alert_webhook_url: SecretStr | None = Field(
        None,
        description='Gets a POST of {"text": …}, as Slack takes it, for alarms and faults of ours.',
    )
    oldest_job_seconds: int = Field(
        600, ge=1, description="A job that waits longer than this is an alarm."
    )

    # How it runs
    workers: int = Field(
        1,
        ge=1,
        le=64,
        description="Workers that `make run` starts here; unset on GPUs: enough to keep them busy.",
    )
    batch_size: int = Field(
        32, ge=1, le=256, description="At most so many pictures in one run under load."
    )
    max_attempts: int = Field(
        3, ge=1, le=20, description="Runs that a job may spoil before it is failed."
    )
    heartbeat_seconds: float = Field(2, gt=0, description="How often a worker says that it lives.")
    worker_stale_seconds: float = Field(
        15, gt=0, description="A worker silent for so long counts as dead."
    )
    run_stall_seconds: float = Field(
        1800, ge=1, description="A run without progress for so long is ended, and its jobs retried."
    )

    tick_seconds: float = Field(
        20, gt=0, le=45, description="How long a sensor's tick waits for work."
    )
    inbox_poll_seconds: float | None = Field(
        None,
        gt=0,
        le=10,
        description="How often sensor and fetcher look for jobs; 0.05 in a folder, 1 in a bucket.",
    )

    # What goes when
    asset_ttl_seconds: int = Field(
        3600, ge=1, le=MAX_TTL_SECONDS, description="How long a job's files are kept."
    )
    run_retention_seconds: int = Field(
        86_400, ge=1, description="How long finished runs stay in Dagster."
    )
    live_partitions: int = Field(
        10_000, ge=1, description="At most so many uuids stay registered in Dagster."
    )

    @model_validator(mode="after")
    def _bucket_credentials_come_in_pairs(self) -> "Settings":
        if (self.s3_access_key is None) != (self.s3_secret_key is None):
            raise ValueError("S3_ACCESS_KEY and S3_SECRET_KEY must be set together.")
        return self

    @model_validator(mode="after")
    def _heartbeats_come_before_a_worker_counts_as_dead(self) -> "Settings":
        if 2 * self.heartbeat_seconds >= self.worker_stale_seconds:
            raise ValueError(
                f"WORKER_STALE_SECONDS = {self.worker_stale_seconds:g} must be more than twice"
                f" HEARTBEAT_SECONDS = {self.heartbeat_seconds:g}: one late heartbeat is no death."
            )
        return self

    @model_validator(mode="after")
    def _rates_are_of_keys(self) -> "Settings":
        keys = listed(self.api_keys.get_secret_value()) if self.api_keys else []
        if self.api_rates and not keys:
            raise ValueError("API_RATES limits the keys of API_KEYS, which is not set.")
        limited = {rate.partition("=")[0].strip() for rate in listed(self.api_rates)} - {"*"}
        if strange := sorted(limited - _key_names(keys)):
            raise ValueError(
                f"API_RATES names {strange[0]}, and no key of API_KEYS is called that."
            )
        return self

    @model_validator(mode="after")
    def _proxies_say_who_somebody_is(self) -> "Settings":
        if self.dagster_proxies and not self.dagster_identity_header:
            raise ValueError(
                "DAGSTER_PROXIES are believed in DAGSTER_IDENTITY_HEADER, which is not set."
            )
        return self

    @field_validator("app_server_url")
    @classmethod
    def _app_server_url_ends_with_its_path(cls, url: str | None) -> str | None:
        if url and ("?" in url or "#" in url):
            raise ValueError(
                "APP_SERVER_URL must have no query and no fragment: a path is put behind it."
                " APP_SERVER_API_KEY is sent as x-api-key."
            )
        return url

    @model_validator(mode="after")
    def _links_are_signed_in_one_way(self) -> "Settings":
        if not self.s3_signed_links:
            return self
        if self.s3_bucket is None or self.asset_link_secret is not None:
            raise ValueError("S3_SIGNED_LINKS needs S3_BUCKET, and no ASSET_LINK_SECRET.")
        if self.asset_link_seconds > LONGEST_S3_LINK_SECONDS:
            raise ValueError(
                f"ASSET_LINK_SECONDS = {self.asset_link_seconds} must be at most"
                f" {LONGEST_S3_LINK_SECONDS}, as S3 has it, with S3_SIGNED_LINKS."
            )
        return self

    @field_validator("webhook_hosts")
    @classmethod
    def _webhook_hosts_are_names_and_networks(cls, text: str | None) -> str | None:
        for word in listed(text):
            if not _HOST_OR_NETWORK.fullmatch(word):
                raise ValueError(
                    f"WEBHOOK_HOSTS names {word[:80]!r}, which is no name such as"
                    " hooks.example.com or *.example.com, no address and no network."
                )
        return text

    @field_validator("dagster_proxies")
    @classmethod
    def _proxies_are_addresses(cls, text: str | None) -> str | None:
        for word in listed(text):
            try:
                ip_network(word)
            except ValueError as error:
                raise ValueError(
                    f"DAGSTER_PROXIES must name addresses or networks: {error}."
                ) from error
        return text

    @model_validator(mode="after")
    def _connections_are_more_than_what_holds_them(self) -> "Settings":
        if self.max_connections <= self.max_uploads + self.max_waiting:
            raise ValueError(
                f"MAX_CONNECTIONS = {self.max_connections} must be more than MAX_UPLOADS +"
                f" MAX_WAITING = {self.max_uploads + self.max_waiting}: probes need some too."
            )
        return self

    @property
    def assets_path(self) -> Path:
        """The folder that holds `{uuid}/` when there is no bucket."""
        return self.assets_dir or self.data_dir / "assets"

    @property
    def uploads_path(self) -> Path:
        """Where uploads are kept until they belong to a job."""
        return self.data_dir / "uploads"

    @property
    def inbox_pause_seconds(self) -> float:
        """The pause between two listings of the inbox: free in a folder, billed in a bucket."""
        return self.inbox_poll_seconds or (1.0 if self.s3_bucket else 0.05)

    @property
    def public_url(self) -> str:
        """The base of links that are made without a request."""
        return self.base_url or f"http://localhost:{self.api_port}"

    @property
    def offered_models(self) -> tuple[str, ...]:
        """The models that the operator offers; they may be paths.

        Jobs may name no others but the demo models.
        """
        names = (self.model, self.queue_model, *listed(self.models))
        parts = [part for name in names if name != SAM2_AND_YOLO for part in parts_of(name)]
        return tuple(dict.fromkeys((*names, *parts)))

    @property
    def wanted_models(self) -> list[str]:
        """The models that jobs here use unless they name one, and those to load ahead.

        Of named masks these are both models.
        """
        queued = [self.queue_model] if self.sqs_queue_url else []
        names = [self.model, *queued, *listed(self.warm_models)]
        resolved = [resolved_model(name, self.offered_models) for name in names]
        return list(dict.fromkeys(part for name in resolved for part in parts_of(name)))


def _key_names(keys: list[str]) -> set[str]:
    """What keys may be called: by the name before the colon, or by their number."""
    numbered = {f"key-{number}" for number in range(1, len(keys) + 1)}
    return numbered | {key.partition(":")[0] for key in keys if ":" in key}


OTHERS_NAMES = ("AWS_", "COMPOSE_", "DAGSTER_", "DOCKER_", "OMP_", "POSTGRES_", "SSL_", "TZ")
"""What `.env` may hold beside settings: docker compose hands the file on to the containers."""


def unknown_names_in_env_file(path: Path = Path(".env")) -> list[str]:
    """A sentence on each name in the file that is no setting, with the likeliest one it meant."""
    if not path.is_file():
        return []
    known = {name.upper() for name in Settings.model_fields}
    names = [name.upper() for name in dotenv_values(path)]
    strange = [n for n in names if n not in known and not n.endswith("_PROXY")]
    return [_about_unknown(name, path, known) for name in strange if not _is_others(name)]


def _is_others(name: str) -> bool:
    return name.startswith(OTHERS_NAMES)


def _about_unknown(name: str, path: Path, known: Collection[str]) -> str:
    alike = get_close_matches(name, known, n=1)
    hint = f"did you mean {alike[0]}?" if alike else "`seg-pipeline settings` lists them."
    return f"{path} sets {name}, which is no setting: {hint}"


def listed(text: str | None) -> list[str]:
    """The entries of a comma-separated setting."""
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def has_display() -> bool:
    """Whether a program that this process starts can open a window."""
    return sys.platform in ("darwin", "win32") or any(
        os.environ.get(name)  # noqa: TID251  names of the desktop's, not settings
        for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The process's settings, read once."""
    return Settings()
