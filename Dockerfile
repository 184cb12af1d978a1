# memaudit in a container, for the CPU and for CUDA:
#
#   docker build --target cpu --tag memaudit:cpu .
#   docker build --target cuda --tag memaudit:cuda .
#
# docs/install.md says how to run them.
FROM python:3.12-slim AS source
WORKDIR /source
COPY pyproject.toml MANIFEST.in README.md LICENSE ./
COPY memaudit ./memaudit
RUN python -m venv /opt/memaudit \
    && /opt/memaudit/bin/pip install --no-cache-dir "uv>=0.9,<1"

# PyTorch's builds are chosen by uv's names for them, which are also those of PyTorch's selector.
FROM source AS installed-cpu
RUN /opt/memaudit/bin/uv pip install --no-cache --python /opt/memaudit/bin/python \
    --torch-backend cpu ".[cpu,all]"

FROM source AS installed-cuda
ARG TORCH=cu128
RUN /opt/memaudit/bin/uv pip install --no-cache --python /opt/memaudit/bin/python \
    --torch-backend "$TORCH" ".[gpu,all]"

FROM python:3.12-slim AS base
# What is decoded from images is kept here: mount a volume to keep it between runs.
ENV MEMAUDIT_CACHE=/cache \
    PATH=/opt/memaudit/bin:$PATH \
    PYTHONUNBUFFERED=1
RUN useradd --create-home --uid 1000 audit \
    && install --directory --owner audit --mode 700 /cache \
    && install --directory --owner audit /work
WORKDIR /work
ENTRYPOINT ["memaudit"]
CMD ["--help"]

FROM base AS cuda
# The compiler is for --compile. CUDA itself comes with PyTorch, and the driver from the host.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=installed-cuda /opt/memaudit /opt/memaudit
USER 1000

FROM base AS cpu
COPY --from=installed-cpu /opt/memaudit /opt/memaudit
USER 1000
