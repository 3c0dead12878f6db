# The image of a cluster's nodes: Ray's own image, this code and its requirements. It was never built: docs/limits.md.
#
#   docker build --tag REGISTRY/spon-sweep .                      # run here, then push; docs/cluster.md says where its name goes
#
# Ray's CPU image is enough for GPUs: torch ships the CUDA libraries, and the node has the driver.
FROM python:3.11-slim AS wheel
WORKDIR /source
COPY LICENSE README.md pyproject.toml requirements*.txt ./
COPY search_spaces search_spaces
COPY trainables trainables
COPY sweep sweep
COPY analysis analysis
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

FROM rayproject/ray:2.60.0-py311
# Triton builds its launchers with a C compiler, which the base image lacks. Its version does not matter
USER 0
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
# The user ray, who owns the image's Python
USER 1000
# Gigabytes, in a layer of their own that a code change does not rebuild
COPY requirements.txt requirements-cluster.txt requirements.lock /tmp/
RUN pip install --no-cache-dir --constraint /tmp/requirements.lock \
    --requirement /tmp/requirements.txt --requirement /tmp/requirements-cluster.txt
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel pip install --no-cache-dir --no-deps /wheel/*.whl
# Ask the container runtime for the GPUs, as CUDA images do
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
