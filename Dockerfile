# bncheck on the CPU, with the files of this folder and as their owner:
#   docker build -t bncheck .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" -v bncheck-cache:/cache bncheck run
# Environments of frameworks are made in /cache when a run first needs them; a volume keeps them.
FROM python:3.11-slim
COPY pyproject.toml README.md LICENSE /src/
COPY bncheck /src/bncheck
COPY scenarios /src/scenarios
RUN pip install --no-cache-dir /src && rm -rf /src && useradd --create-home bncheck && install -d -m 1777 /cache /work
USER bncheck
# Whoever it runs as can write there, and nobody but root elsewhere.
ENV BNCHECK_CACHE=/cache HOME=/cache
VOLUME /cache
WORKDIR /work
ENTRYPOINT ["bncheck"]
CMD ["--help"]
