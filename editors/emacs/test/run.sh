#!/bin/sh
# Drives Emacs in batch mode against the real server: run.sh CRITIC MODEL
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
export CRITIC="$1" MODEL="$2"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HOME="$work"
cd "$work"
exec emacs --batch --eval "(package-initialize)" -L "$here" -l "$here/test/client.el" </dev/null
