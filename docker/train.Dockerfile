# The environment of a rented machine as a container, for those who run verbs on a cluster of their
# own: the lock's virtual environment where docs/aws/ami.sh puts it. LUMOS itself is not in it: it
# comes as the wheel, unpacked at /opt/lumos/code.
#   docker build -f docker/train.Dockerfile -t lumos-train .
#   make wheel && unzip -q dist/*.whl -d code
#   docker run --gpus all -v $PWD/code:/opt/lumos/code:ro lumos-train train --date 2026-01-31
# PyPI's torch brings CUDA's libraries: the host needs the NVIDIA driver and container toolkit only.
FROM python:3.11-slim

# libgomp1 is LightGBM's OpenMP runtime.
RUN apt-get update \
 && apt-get install -y --no-install-recommends libgomp1 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home lumos \
 && install -d -o lumos -g lumos /opt/lumos /opt/lumos/home

USER lumos
WORKDIR /opt/lumos
COPY --chown=lumos:lumos requirements.txt ./
# The installer comes from the same lock, hash and all.
RUN python -m venv venv \
 && awk '/^uv==/ {on=1} on {print} on && !/\\$/ {exit}' requirements.txt > /tmp/uv.txt \
 && venv/bin/pip install --quiet --no-cache-dir --require-hashes -r /tmp/uv.txt \
 && venv/bin/uv pip sync --no-cache --python venv/bin/python --require-hashes --compile-bytecode \
      requirements.txt

ENV PATH=/opt/lumos/venv/bin:$PATH \
    PYTHONPATH=/opt/lumos/code \
    LUMOS_HOME=/opt/lumos/home
ENTRYPOINT ["python", "-m", "lumos"]
CMD ["--help"]
