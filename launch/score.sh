#!/usr/bin/env bash
# Score answers with a reward model. Variables and overrides as in launch/stage.sh: SIZE=8b launch/score.sh section.key=value
exec "$(dirname "$0")/stage.sh" score "$@"
