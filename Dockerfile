# docker build --tag focused-learning .
# docker run --rm --volume "$PWD:/project" focused-learning make repro
# Packages for an NVIDIA GPU: docker build --build-arg TORCH_INDEX=<index of the CUDA wheels>, and run with --gpus all.
FROM python:3.11-slim
RUN apt-get update && apt-get install --yes --no-install-recommends git make && rm -rf /var/lib/apt/lists/*
WORKDIR /setup
COPY requirements.lock Makefile ./
ARG TORCH_INDEX=""
RUN python -m venv /opt/venv \
    && if [ -n "$TORCH_INDEX" ]; then /opt/venv/bin/pip install --no-cache-dir --index-url "$TORCH_INDEX" "$(grep ^torch== requirements.lock)"; fi \
    && /opt/venv/bin/pip install --no-cache-dir --requirement requirements.lock
ENV VENV=/opt/venv PATH=/opt/venv/bin:$PATH
RUN touch /opt/venv/.ready && git config --system --add safe.directory /project
WORKDIR /project
