#!/usr/bin/env bash
# Serve the page on which people rank. Variables and overrides as in launch/stage.sh: SIZE=8b launch/feedback.sh section.key=value
exec "$(dirname "$0")/stage.sh" feedback "$@"
