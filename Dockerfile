# Airflow with LUMOS inside: every component of compose.yaml runs this image.
FROM apache/airflow:3.3.2-python3.11

USER root
# Java for Spark; libgomp1 is LightGBM's OpenMP runtime.
RUN apt-get update \
 && apt-get install -y --no-install-recommends openjdk-17-jre-headless libgomp1 \
 && rm -rf /var/lib/apt/lists/* \
 && install -d -o airflow -g root -m 775 /opt/lumos /opt/lumos/home

USER airflow
WORKDIR /opt/lumos
ENV LUMOS_HOME=/opt/lumos/home \
    LUMOS_SQL=/opt/lumos/include/sql \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/lumos/dags \
    AIRFLOW__CORE__PLUGINS_FOLDER=/opt/lumos/plugins \
    AIRFLOW__CORE__LOAD_EXAMPLES=False

# The lock goes over the image's own packages; PostgreSQL's drivers are in both.
# The first uv is the image's; the lock's replaces it.
COPY --chown=airflow:root requirements.txt ./
RUN uv pip install --no-cache --require-hashes --compile-bytecode -r requirements.txt

COPY --chown=airflow:root pyproject.toml requirements.in README.md LICENSE NOTICE ./
COPY --chown=airflow:root lumos ./lumos
COPY --chown=airflow:root include ./include
# The wheel is what rented machines and Databricks get (`wheels` of LUMOS_CLOUD).
RUN SOURCE_DATE_EPOCH=315532800 uv build --quiet --wheel --no-build-isolation --out-dir dist . \
 && rm -rf build \
 && uv pip install --no-cache --no-deps --compile-bytecode dist/lumos-*.whl \
 && cd / && python -m lumos.aggregate.prepare

# The runbook is a page of Airflow's server.
COPY --chown=airflow:root docs/runbook.md ./docs/
COPY --chown=airflow:root plugins ./plugins
COPY --chown=airflow:root dags ./dags
