#!/usr/bin/env bash
# One stage: the config of a size, in one process or several. launch/sft.sh and its like are this with their own name.
# usage: launch/stage.sh COMMAND [section.key=value ...]
#   SIZE=tiny|small|8b   whose config: configs/tiny (a CPU), configs (about 0.5B, a small GPU), configs/8b (24 GB)
#   CONFIG=FILE          another config
#   NPROC=N              N processes: for sft, reward, dpo and ppo, one for each GPU
set -euo pipefail
command=${1:?usage: launch/stage.sh COMMAND [section.key=value ...]}
shift
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
size=${SIZE:-small}
case $size in
  small) config=$root/configs/$command.yaml ;;
  tiny | 8b) config=$root/configs/$size/$command.yaml ;;
  *) echo "launch/$command.sh: SIZE is tiny, small or 8b, not $size" >&2; exit 2 ;;
esac
[ -f "$config" ] || config=$root/configs/$command.yaml   # what takes no model has no size
config=${CONFIG:-$config}
echo "prefloop $command ${config#"$PWD/"} $*"
if [ "${NPROC:-1}" = 1 ]; then
  exec "$python" -m prefloop.cli "$command" "$config" "$@"
fi
exec "$python" -m prefloop.launch.several "$NPROC" "$command" "$config" "$@"
