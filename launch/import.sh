#!/usr/bin/env bash
# Read outside data into a snapshot. Variables and overrides as in launch/stage.sh: SIZE=8b launch/import.sh section.key=value
exec "$(dirname "$0")/stage.sh" import "$@"
