# The whole command line in an image:
#
#   docker build -t inbound-audit .
#   docker run -p 25:2525 --shm-size 1g -v mail:/var/lib/inbound_audit inbound-audit
#   docker run ... inbound-audit serve --listen :2525 --shared mail --limit /32,/64=10
#
# Shared counts lie in /dev/shm, of which a container has 64 MiB by default: --shm-size is the room for them.
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY . /source
RUN pip wheel --no-cache-dir --wheel-dir /wheels "/source[all]"

FROM python:${PYTHON}-slim
# hadolint ignore=DL3013
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels "inbound-audit[all]" \
    && useradd --system --no-create-home --uid 925 inbound-audit \
    && install -d -m 700 -o inbound-audit -g inbound-audit /var/lib/inbound_audit
USER 925
# What policies persist, and --maildir /var/lib/inbound_audit/mail.
ENV INBOUND_AUDIT_STATE=/var/lib/inbound_audit
VOLUME /var/lib/inbound_audit
EXPOSE 2525
# The audit of --shared below: it can be read while a process counts in it.
HEALTHCHECK --start-period=30s CMD ["inbound-audit", "ps", "mail"]
ENTRYPOINT ["inbound-audit"]
CMD ["serve", "--listen", ":2525", "--shared", "mail"]
