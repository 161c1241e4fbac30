#!/usr/bin/env bash
# Sample answers to be ranked. Variables and overrides as in launch/stage.sh: SIZE=8b launch/generate.sh section.key=value
exec "$(dirname "$0")/stage.sh" generate "$@"
