# syntax=docker/dockerfile:1
# The service: docker build -t diffusion-lab .   docker run -p 8000:8000 diffusion-lab allow_open=true
# PyTorch's usual wheel for Linux serves on GPUs and CPUs alike (docker run --gpus all ...). For a small image without CUDA,
# name an index of CPU wheels: docker build --build-arg TORCH_INDEX=<address> -t diffusion-lab:cpu .
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
ARG TORCH_INDEX=""
RUN python -m venv /opt/lab
ENV PATH=/opt/lab/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN pip install "pip>=25.1" && pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch>=2.11,<3"
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
# What the service needs and nothing of the training: no Lightning, no W&B, no torchvision.
RUN pip install --group service --group telemetry
COPY src src
COPY conf conf
RUN pip install --no-deps .

FROM python:${PYTHON}-slim AS service
RUN useradd --system --uid 10001 --home-dir /srv/lab --no-log-init lab
WORKDIR /srv/lab
COPY --from=build /opt/lab /opt/lab
ENV PATH=/opt/lab/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
ENTRYPOINT ["diffusion-lab", "serve", "host=0.0.0.0"]
