# hipie serve in a container, as a user without rights; docs/serve.md describes it.
#
#   docker build --tag hipie .                        for the CPU
#   docker build --tag hipie --build-arg DEVICE=cuda .
#
# The commands of the installation are those of docs/serve.md, which a test holds equal.

ARG DEVICE=cpu

FROM python:3.12-slim-bookworm AS cpu
RUN apt-get update && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
ENV HIPIE_CUDA=0

FROM nvidia/cuda:13.0.1-devel-ubuntu24.04 AS cuda
RUN apt-get update && apt-get install --yes --no-install-recommends \
    g++ python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
ENV FORCE_CUDA=1

FROM ${DEVICE}
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /opt/hipie
COPY . .
RUN pip install -c constraints.txt torch torchvision numpy setuptools wheel ninja
RUN python install/requirements.py detectron2 serve | xargs pip install -c constraints.txt
RUN python install/get_detectron2.py
RUN pip install --no-build-isolation --no-deps .

RUN useradd --create-home --home-dir /app --uid 10001 hipie
USER hipie
WORKDIR /app
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=120s CMD \
    ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/healthz')"]
ENTRYPOINT ["hipie", "serve", "--host", "0.0.0.0", "--port", "8000"]
