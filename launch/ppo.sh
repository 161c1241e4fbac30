#!/usr/bin/env bash
# Improve a policy by PPO. Variables and overrides as in launch/stage.sh: SIZE=8b launch/ppo.sh section.key=value
exec "$(dirname "$0")/stage.sh" ppo "$@"
