# Transom in a container: built from this directory, run without root, with nothing to write to but its cache.
# docs/packaging.md has the commands.

FROM python:3.12-slim-bookworm AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY pyproject.toml CMakeLists.txt README.md ./
COPY transom transom
RUN pip wheel --no-cache-dir --wheel-dir /wheels .

FROM python:3.12-slim-bookworm
COPY --from=build /wheels /wheels
# What the first stage built, and nothing else.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir --no-index --find-links /wheels transom \
    && rm -rf /wheels \
    && useradd --system --user-group --uid 10001 --no-create-home --home-dir /var/cache/transom transom \
    && install -d -o transom -g transom -m 0700 /var/cache/transom
USER 10001
WORKDIR /var/cache/transom
ENV HOME=/var/cache/transom PYTHONDONTWRITEBYTECODE=1
VOLUME /var/cache/transom
EXPOSE 9632
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:9632/health/ready', timeout=2)"]
ENTRYPOINT ["transom"]
# Listening beyond the container needs a key: TRANSOM_API_KEY.
CMD ["serve", "--host", "0.0.0.0"]
