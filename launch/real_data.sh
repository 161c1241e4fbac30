#!/usr/bin/env bash
# Every stage on real preference pairs with a small real checkpoint, on a CPU: import, SFT, reward, DPO, PPO, compare.
# usage: launch/real_data.sh MODEL PAIRS [FOLDER]     PAIRS: HH-style JSON lines, plain or gzipped
set -euo pipefail
model=${1:?usage: launch/real_data.sh MODEL PAIRS [FOLDER]}
pairs=${2:?usage: launch/real_data.sh MODEL PAIRS [FOLDER]}
out=${3:-runs/real}
prefloop=${PREFLOOP:-.venv/bin/prefloop}
data="$out/pairs"

$prefloop import configs/import.yaml import.path="$pairs" import.format=hh import.bad_rows=drop import.out="$data"
common=(data.path="$data" run.root="$out")
$prefloop sft configs/tiny/sft.yaml model.path="$model" "${common[@]}" run.name=sft \
  train.max_steps=300 train.max_length=256 train.per_device_train_batch_size=4
$prefloop reward configs/tiny/reward.yaml model.path="$out/sft" "${common[@]}" run.name=reward \
  train.max_steps=200 train.max_length=256 train.per_device_train_batch_size=4
$prefloop dpo configs/tiny/dpo.yaml model.path="$out/sft" "${common[@]}" run.name=dpo \
  train.max_steps=200 train.max_length=256 train.per_device_train_batch_size=4
$prefloop ppo configs/tiny/ppo.yaml model.path="$out/sft" reward.path="$out/reward" "${common[@]}" run.name=ppo \
  train.rollouts=50 train.episodes=32 train.max_prompt_tokens=192 train.max_new_tokens=48
verdict=0
$prefloop compare configs/compare.yaml compare.runs="[$out/sft,$out/dpo,$out/ppo]" compare.reward="$out/reward" \
  "${common[@]}" run.name=compare model.four_bit=false sampling.max_new_tokens=48 sampling.max_prompt_tokens=192 || verdict=$?
# 3 is reject and 4 undecided: verdicts, not failures.
[ "$verdict" = 0 ] || [ "$verdict" = 3 ] || [ "$verdict" = 4 ] || exit "$verdict"
$prefloop runs run.root="$out"
