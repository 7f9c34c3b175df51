# bncheck on the CPU: docker build -t bncheck . && docker run --rm -v "$PWD:/work" -v bncheck-cache:/cache bncheck run
# Environments of frameworks are made in /cache when a run first needs them; a volume keeps them.
FROM python:3.11-slim
COPY pyproject.toml README.md LICENSE /src/
COPY bncheck /src/bncheck
COPY scenarios /src/scenarios
RUN pip install --no-cache-dir /src && rm -rf /src && useradd --create-home bncheck && install -d -o bncheck /cache /work
USER bncheck
ENV BNCHECK_CACHE=/cache
VOLUME /cache
WORKDIR /work
ENTRYPOINT ["bncheck"]
CMD ["--help"]
