#!/bin/sh
# Drives headless Neovim against the real server: run.sh CRITIC MODEL
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
export CRITIC="$1" MODEL="$2"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export XDG_CACHE_HOME="$work" XDG_DATA_HOME="$work" XDG_STATE_HOME="$work" HOME="$work"
cd "$work"
exec nvim --headless -u NONE -i NONE --cmd "set runtimepath^=$here" --cmd "runtime plugin/critic.lua" \
  -c "luafile $here/test/client.lua" </dev/null
