# The service with the predictor of this checkout, without TensorFlow, MLflow and DVC.
#   docker build -t pneumonia . && docker run --rm -p 127.0.0.1:8000:8000 pneumonia
FROM python:3.11-slim

WORKDIR /app
COPY requirements-serve.lock ./
RUN pip install --no-cache-dir --require-hashes -r requirements-serve.lock

# setuptools comes with its own isolated build environment; everything else is installed already.
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip install --no-cache-dir --no-deps .

COPY models/predictor models/predictor
# A number, so that Kubernetes can see that it is not root. Nothing is written: `docker run --read-only` works.
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/ready', timeout=4)"]
# Inside the container all addresses; `-p 127.0.0.1:8000:8000` lets only this machine in.
CMD ["pneumonia", "serve", "--model", "models/predictor", "--host", "0.0.0.0"]
