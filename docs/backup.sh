#!/usr/bin/env bash
# Copy the lake, MLflow and Airflow's database into a new folder, beside whatever runs.
#
#   docs/backup.sh NEW_FOLDER
#
# Reads LUMOS_LAKE, LUMOS_HOME, MLFLOW_TRACKING_URI and AIRFLOW__DATABASE__SQL_ALCHEMY_CONN, as verbs and
# Airflow do. The order is what makes it whole: a copy of what names others is made before a copy of
# what it names, and nothing that is named is ever changed or removed within its retention. So first the
# ledger and the manifests, which pin versions of tables and a model; then the databases; then the
# logs of all other tables; and last the files that logs and MLflow name.
# Not beside `lumos erase`: a backup would keep whom it takes out.
set -euo pipefail

target=${1:?usage: docs/backup.sh NEW_FOLDER}
home=${LUMOS_HOME:-.lumos}
lake=${LUMOS_LAKE:-$home/lake}
mlflow=${MLFLOW_TRACKING_URI:-sqlite:///$home/mlflow.db}
airflow=${AIRFLOW__DATABASE__SQL_ALCHEMY_CONN:-}
python=${PYTHON:-python3}

case $lake in *://*)
  echo "LUMOS_LAKE=$lake is no folder: docs/operate.md has the same steps for S3" >&2; exit 2 ;;
esac
[ ! -e "$target" ] || { echo "$target exists: name a new folder" >&2; exit 2; }
mkdir -p "$(dirname "$target")"
target=$(cd "$(dirname "$target")" && pwd)/$(basename "$target")
draft=$target.draft
rm -rf "$draft"
mkdir -p "$draft/lake"

# Files of the lake that find selects. Twice: a listing beside commits may miss one of two that are made
# meanwhile. Without `_last_checkpoint`, a mere hint that may name what comes after the listing.
copy() {
  for _ in 1 2; do
    (cd "$lake" && find . -type f ! -name _last_checkpoint "$@" -exec cp -pu --parents -t "$draft/lake" {} +)
  done
}

dump() { # DATABASE FILE
  case $1 in
    sqlite:///*) "$python" -c 'import sqlite3, sys
sqlite3.connect(sys.argv[1]).backup(sqlite3.connect(sys.argv[2]))' "${1#sqlite:///}" "$draft/$2.db" ;;
    postgresql*://*) pg_dump --format=custom --file="$draft/$2.dump" "${1/postgresql+*:\/\//postgresql://}" ;;
    "") ;;
    *) echo "$2: its database is elsewhere; back it up where it runs" >&2 ;;
  esac
}

pins=(-path './*/ledger/_delta_log/*' -o -path './*/manifests/_delta_log/*')
copy \( "${pins[@]}" \)
dump "$mlflow" mlflow
dump "$airflow" airflow
copy -path './*/_delta_log/*' ! \( "${pins[@]}" \)
copy ! -path '*/_delta_log/*' ! -path '*/_locks/*' ! -name '.*'
[ ! -d "$home/mlartifacts" ] || cp -a "$home/mlartifacts" "$draft/"
mv "$draft" "$target"
echo "$target"
