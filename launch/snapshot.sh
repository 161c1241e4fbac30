#!/usr/bin/env bash
# Freeze the rankings given so far. Variables and overrides as in launch/stage.sh: SIZE=8b launch/snapshot.sh section.key=value
exec "$(dirname "$0")/stage.sh" snapshot "$@"
