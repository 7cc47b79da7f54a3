#!/usr/bin/env bash
# Everything that is to be measured on a GPU, in at most nine minutes, into one JSON file:
#   bash benchmarks/gpu.sh [--out FILE] [--minutes 9] [--smoke]
# --smoke runs all of it with small sizes on a CPU. A machine without internet gets missing packages from the folder
# wheels, if there is one: pip download --dest wheels --python-version 3.12 --only-binary :all: --no-deps av tyro …
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
[ -n "${PYTHON:-}" ] || [ ! -x .venv/bin/python ] || python=.venv/bin/python
if [ -d wheels ]; then
  "$python" -m pip install --quiet --no-index --no-deps wheels/*.whl
fi
export PYTHONPATH=$PWD/src PYTHONUNBUFFERED=1
exec "$python" benchmarks/gpu.py "$@"
