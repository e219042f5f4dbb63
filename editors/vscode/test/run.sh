#!/bin/sh
# The client half against the real server, under Node: run.sh CRITIC MODEL
set -eu
cd "$(dirname "$0")/.."
export CRITIC="$1" MODEL="$2"
[ -d node_modules ] || npm install --silent --no-audit --no-fund
npx tsc -p .
exec node --test out/test/
