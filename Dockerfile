# Fleming on the CPU, for people whose system is not a Debian with Python 3.11.
#   docker build --tag fleming:cpu .
#   docker run --rm --shm-size=4g --volume fleming-runs:/home/fleming/fleming-runs fleming:cpu run recipes/quickstart.yaml
FROM python:3.11-slim

# g++ and make: DeepSpeed compiles an operator at its first use. libnuma1: vLLM's CPU build links to it.
# The distribution's current patch versions are wanted, so they are not pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ make libnuma1 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /fleming
ENV PIP_NO_CACHE_DIR=1 UV_NO_CACHE=1

# The dependencies are a layer of their own: a change of code does not install them again. The empty files stand for
# those that the package's metadata names.
COPY requirements/ requirements/
COPY pyproject.toml ./
RUN touch README.md LICENSE NOTICE && requirements/install.sh cpu

# The application runs from its checkout; nobody writes there.
COPY . .

RUN useradd --create-home --uid 1000 fleming \
    && mkdir -p /home/fleming/fleming-runs \
    && chown fleming:fleming /home/fleming/fleming-runs
USER 1000
ENV PATH=/fleming/.venv/bin:$PATH \
    PYTHONPATH=/fleming \
    PYTHONUNBUFFERED=1 \
    HF_HUB_OFFLINE=1 \
    RAY_USAGE_STATS_ENABLED=0 \
    VLLM_NO_USAGE_STATS=1

ENTRYPOINT ["fleming"]
CMD ["--help"]
