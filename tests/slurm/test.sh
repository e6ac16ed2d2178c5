#!/usr/bin/env bash
# A sweep on a real SLURM cluster of this one host, made for it and stopped after it, whatever happens. Needs root.
# usage: tests/slurm/test.sh PYTHON
set -euo pipefail

here="$(cd "$(dirname "$0")" && pwd)"
exports="$("$here/cluster.sh" start)"
eval "$exports"
trap '"$here/cluster.sh" stop' EXIT
"$1" "$here/run.py"
