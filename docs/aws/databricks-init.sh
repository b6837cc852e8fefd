#!/bin/bash
# Runs on each node of a Databricks cluster as it starts: the libraries of the Spark verbs that the
# runtime lacks, in the lock's versions. Not pyspark, Delta, pandas or numpy: those are the runtime's.
set -euo pipefail
/databricks/python/bin/pip install --quiet --disable-pip-version-check \
  deltalake==1.6.6 \
  great-expectations==1.24.1 \
  holidays==0.109 \
  psutil==7.2.2 \
  pydantic==2.14.3 \
  rich==15.0.0
