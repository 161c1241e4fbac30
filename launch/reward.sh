#!/usr/bin/env bash
# Train a reward model on a snapshot of rankings. Variables and overrides as in launch/stage.sh: SIZE=8b launch/reward.sh section.key=value
exec "$(dirname "$0")/stage.sh" reward "$@"
