FROM python:3.12-slim-bookworm AS build

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python -m venv --without-pip /opt/torii

# The dependencies first: a change of the code alone does not install them again.
COPY requirements/hosts.txt requirements/
RUN pip --python /opt/torii/bin/python install --no-compile --require-hashes --only-binary :all: -r requirements/hosts.txt

# setuptools builds Torii, and no more.
COPY pyproject.toml LICENSE README.md ./
COPY app ./app
RUN pip --python /opt/torii/bin/python install --no-compile --no-deps --no-build-isolation . \
 && pip --python /opt/torii/bin/python uninstall --yes setuptools \
 && find /opt/torii/lib -type d \( -name tests -o -name test \) -prune -exec rm -rf {} + \
 && python -m compileall -q --invalidation-mode unchecked-hash /opt/torii/lib


FROM python:3.12-slim-bookworm

COPY --from=build /opt/torii /opt/torii

# A new volume that is mounted here takes over its owner, so that the ledger can be written.
RUN install -d -o 10001 -g 10001 /data

# Without a provider's key the sandbox answers; without a caller's key one is made for the run and shown in the log.
ENV PATH=/opt/torii/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TORII_HOST=0.0.0.0 \
    TORII_PORT=8000 \
    TORII_SANDBOX=auto \
    TORII_GENERATE_CALLER_KEY=true \
    XDG_STATE_HOME=/data

# The base image brings Python's own modules uncompiled; this compiles those that Torii uses, and shows that it starts.
RUN PYTHONDONTWRITEBYTECODE='' torii check > /dev/null

# Last, as they change with every commit: docker build --build-arg REVISION="$(git rev-parse HEAD)" --build-arg SOURCE=URL
ARG VERSION=0.1.0
ARG SOURCE=""
ARG REVISION=""
LABEL org.opencontainers.image.title="Torii" \
      org.opencontainers.image.description="A local, OpenAI-compatible gateway for Jina AI and AIHubMix" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.source="$SOURCE" \
      org.opencontainers.image.revision="$REVISION"

USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 CMD ["torii", "healthcheck"]
CMD ["torii", "serve"]
