# One image for all processes of a node: docker-compose.yml says which one a container runs.
# docs/deploy.md says how to use it; `make image-check` runs these steps without an engine.
ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS builder
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/dfs
WORKDIR /app
COPY requirements.txt constraints.txt ./
RUN /opt/dfs/bin/pip install --requirement requirements.txt --constraint constraints.txt \
    && /opt/dfs/bin/pip uninstall --yes pip setuptools
COPY . .
# Compiled here, since nothing can be written beside the code later.
RUN /opt/dfs/bin/python -m compileall -q --invalidation-mode unchecked-hash .

FROM python:${PYTHON}
ARG VERSION=dev
LABEL org.opencontainers.image.title="dfs" \
      org.opencontainers.image.description="A file store that acknowledges a write when it is on disk" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
# A number of its own: Kubernetes must see that it is not root, and the host has nobody of it.
RUN groupadd --gid 10001 dfs \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent \
       --shell /usr/sbin/nologin dfs \
    && install --directory --owner=10001 --group=10001 --mode=0700 /data /replica
COPY --from=builder /opt/dfs /opt/dfs
COPY --from=builder /app /app
ENV PATH=/opt/dfs/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    DFS_HOST=0.0.0.0 \
    PORT=8000 \
    STORAGE_PATH=/data/primary \
    WAL_PATH=/data/wal \
    DATABASE_URL=sqlite:////data/dfs.db \
    DFS_RUN_PATH=/data/run \
    REPLICA1_PATH= \
    REPLICA2_PATH=
WORKDIR /app
USER 10001:10001
VOLUME ["/data"]
EXPOSE 8000
STOPSIGNAL SIGTERM
# While a node recovers it listens and answers nothing yet: that is the start period.
HEALTHCHECK --interval=30s --timeout=10s --start-period=10m --retries=3 \
    CMD ["python", "-m", "scripts.health", "web"]
CMD ["gunicorn", "-c", "gunicorn.conf.py", "wsgi:app"]
