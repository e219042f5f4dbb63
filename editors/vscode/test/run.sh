#!/bin/sh
# The client half against the real server, under Node: run.sh CRITIC MODEL
set -eu
cd "$(dirname "$0")/.."
export CRITIC="$1" MODEL="$2"
# npm writes that file last. What packages would run when they are installed is not needed.
[ node_modules/.package-lock.json -nt package-lock.json ] || npm ci --ignore-scripts --silent --no-audit --no-fund
node_modules/.bin/tsc -p .
exec node --test out/test/
