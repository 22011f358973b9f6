# Fleming in a container, in two stages: the dependencies, and the dependencies with this checkout's code.
#   docker build --tag fleming:cpu .                                            # `make image`
#   docker run --rm --shm-size=4g --volume fleming-runs:/home/fleming/fleming-runs fleming:cpu run recipes/quickstart.yaml
# A cluster's image holds the dependencies only, so that the code that runs is the code that was sent:
#   docker build --target dependencies --build-arg PROFILE=gpu --tag fleming-gpu:0.1.0 .    # `make image PROFILE=gpu`
#
# BASE needs apt and a Python 3.11 or 3.12 with venv (its own, or from apt). The GPU profile brings CUDA's libraries as
# wheels; it needs no CUDA in BASE unless learner.offload_optimizer is on, whose operator is compiled with nvcc: then
# use a -devel image of the CUDA release in requirements/gpu.txt (BASE=nvidia/cuda:13.0.2-devel-ubuntu24.04).
ARG BASE=python:3.11-slim

# hadolint ignore=DL3006
FROM ${BASE} AS dependencies
ARG PROFILE=cpu

# g++ and make: DeepSpeed compiles an operator at its first use, and Triton its launchers. libnuma1: vLLM's CPU build
# links to it. rsync, openssh-client, wget: what `ray up` and KubeRay's probes call inside a node.
# The distribution's current patch versions are wanted, so they are not pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ make libnuma1 rsync openssh-client wget \
    && if ! command -v python3.11 && ! command -v python3.12; then \
           apt-get install --yes --no-install-recommends python3 python3-dev python3-venv; fi \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /fleming
ENV PIP_NO_CACHE_DIR=1 UV_NO_CACHE=1

# A layer of its own: a change of code does not install the dependencies again. The empty files stand for those that
# the package's metadata names.
COPY requirements/ requirements/
COPY pyproject.toml ./
RUN touch README.md LICENSE NOTICE && requirements/install.sh "${PROFILE}"

RUN if id ubuntu; then userdel --remove ubuntu; fi \
    && useradd --create-home --uid 1000 --shell /bin/bash fleming \
    && mkdir -p /home/fleming/fleming-runs \
    && chown fleming:fleming /home/fleming/fleming-runs
USER 1000
ENV PATH=/fleming/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HF_HUB_OFFLINE=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    VLLM_NO_USAGE_STATS=1
CMD ["bash"]

FROM dependencies AS application

# The application runs from its checkout; nobody writes there.
COPY . .
ENV PYTHONPATH=/fleming

ENTRYPOINT ["fleming"]
CMD ["--help"]
