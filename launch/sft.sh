#!/usr/bin/env bash
# Fine-tune a base on demonstrations. Variables and overrides as in launch/stage.sh: SIZE=8b launch/sft.sh section.key=value
exec "$(dirname "$0")/stage.sh" sft "$@"
