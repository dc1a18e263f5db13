# The receiver. Build: docker build -t logbale-server .   Run: see docker-compose.yml, or make run.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
WORKDIR /build
ARG REQUIREMENTS=requirements.txt
COPY ${REQUIREMENTS} ./
# The virtual environment has no pip of its own: the outer one fills it, from wheels whose hashes are pinned.
RUN python -m venv --without-pip /opt/logbale \
 && pip --python /opt/logbale/bin/python install --no-cache-dir --only-binary :all: --require-hashes -r ${REQUIREMENTS}
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip --python /opt/logbale/bin/python install --no-cache-dir --no-deps .

FROM python:${PYTHON}-slim
COPY --from=build /opt/logbale /opt/logbale
COPY server_main.py /opt/logbale/
RUN install -d -o 10001 -g 10001 -m 0700 /archive
# By default the archive is ./archive. A variable that says so would seem to be wanted where SINK keeps none.
WORKDIR /
ENV PATH=/opt/logbale/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 METRICS_PORT=9100
USER 10001:10001
VOLUME /archive
EXPOSE 5000 8080
STOPSIGNAL SIGTERM
# /readyz is answered on the container's own loopback and says more than an open port: that entries can be stored.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 CMD ["python", "-c", \
  "import os, ssl, urllib.request as u; s = 's' * (os.environ.get('DASHBOARD_TLS') == 'on'); u.urlopen(f'http{s}://127.0.0.1:{os.environ[\"METRICS_PORT\"]}/readyz', timeout=2, context=ssl._create_unverified_context() if s else None)"]
CMD ["python", "/opt/logbale/server_main.py"]
