# A server for one model, on the CPU: docs/serve.md says how it is built and run.
FROM python:3.13-slim

# Another index of Python packages, asked first: PyTorch's of wheels without CUDA makes the image some GB smaller.
ARG INDEX=""

WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN if [ -n "$INDEX" ]; then pip install --no-cache-dir --index-url "$INDEX" torch torchvision; fi \
    && pip install --no-cache-dir ".[serve,export]" \
    && useradd --create-home --uid 10001 gesta

USER gesta
WORKDIR /home/gesta
ENV PYTHONUNBUFFERED=1
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["gesta"]
CMD ["serve", "/model", "--host", "0.0.0.0", "--port", "8000", "--json"]
