#!/usr/bin/env bash
# Compare checkpoints on held-out prompts. Variables and overrides as in launch/stage.sh: SIZE=8b launch/compare.sh section.key=value
exec "$(dirname "$0")/stage.sh" compare "$@"
