#!/usr/bin/env bash
# Improve a policy by DPO. Variables and overrides as in launch/stage.sh: SIZE=8b launch/dpo.sh section.key=value
exec "$(dirname "$0")/stage.sh" dpo "$@"
