# One image for every process of the service. Two targets, from the same lock and by the same steps as `make`:
#
#   docker build --target cpu  -t seg-pipeline:cpu .
#   docker build --target cuda -t seg-pipeline:cuda .     # what docker-compose.yml runs; computes on a CPU as well
#   docker run -p 8000:8000 -p 127.0.0.1:3000:3000 -v seg-data:/data seg-pipeline:cpu
#
# and `dev`, which is cpu with what tests and docker-compose-dev.yml need. docs/docker.md has the rest.

FROM debian:bookworm-slim AS base

# python3 is 3.11. libgl1 and libglib2.0-0 are what OpenCV links against; it draws the overlays.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libgl1 libglib2.0-0 python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* /var/log/*.log /var/cache/ldconfig/aux-cache

# 1000 is the first user of most machines, so that a folder mounted at /data is writable without more ado.
RUN useradd --uid 1000 --create-home seg && install -d -o seg -g seg /data

# In a container the outside comes in through published ports, so what listens, listens to all of them.
ENV PATH=/app/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    UV_LINK_MODE=copy \
    API_HOST=0.0.0.0 \
    API_PORT=8000 \
    DAGSTER_HOST=0.0.0.0 \
    DAGSTER_PORT=3000 \
    DATA_DIR=/data \
    WEIGHTS_DIR=/data/weights

WORKDIR /app
VOLUME /data
EXPOSE 8000 3000
# Ready means that jobs are accepted and worked on; a first start may have to download weights before that.
HEALTHCHECK --interval=15s --timeout=5s --start-period=5m --retries=3 \
    CMD ["python", "docker/healthy.py", "http://127.0.0.1:8000/readyz"]
CMD ["seg-pipeline", "up", "--no-sample"]

# The packages come before the project's own files: they are gigabytes and change seldom. No compiler is needed
# to install them. On a GPU Triton compiles kernels for the very card: that takes gcc and Python's headers, 0.2 GB.
FROM base AS cuda-packages
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev python3-dev \
    && rm -rf /var/lib/apt/lists/* /var/log/*.log /var/cache/ldconfig/aux-cache
COPY requirements.lock ./
COPY scripts/environment.py scripts/
COPY docker/install.py docker/
RUN --mount=type=cache,target=/root/.cache python3 docker/install.py packages cuda

FROM base AS cpu-packages
COPY requirements.lock ./
COPY scripts/environment.py scripts/
COPY docker/install.py docker/
RUN --mount=type=cache,target=/root/.cache python3 docker/install.py packages cpu

# The driver is the host's (its NVIDIA Container Toolkit brings it in); the libraries are in the packages.
FROM cuda-packages AS cuda
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY . .
RUN --mount=type=cache,target=/root/.cache python3 docker/install.py project
USER seg

FROM cpu-packages AS dev
# One test asks make for its targets.
RUN apt-get update && apt-get install -y --no-install-recommends make && rm -rf /var/lib/apt/lists/*
COPY requirements-dev.lock ./
RUN --mount=type=cache,target=/root/.cache python3 docker/install.py dev-packages cpu
COPY . .
RUN --mount=type=cache,target=/root/.cache python3 docker/install.py project
USER seg

# The last one is what `docker build .` makes.
FROM cpu-packages AS cpu
ENV DEVICE=cpu
COPY . .
RUN --mount=type=cache,target=/root/.cache python3 docker/install.py project
USER seg
