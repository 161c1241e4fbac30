#!/usr/bin/env bash
# A stage over the GPUs of several machines under SLURM: sft, reward or dpo. Adjust the header, then
#   sbatch launch/slurm.sh sft configs/8b/sft.yaml data.path=snapshots/mine
# Runs go to a folder that all machines see. Each machine starts torchrun, which starts a process for each of its GPUs.
#SBATCH --job-name=prefloop
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=12:00:00
#SBATCH --output=%x-%j.log
#SBATCH --signal=B:TERM@120
set -euo pipefail
: "${1:?usage: sbatch launch/slurm.sh COMMAND CONFIG [section.key=value ...]}"
cd "${SLURM_SUBMIT_DIR:-.}"
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun .venv/bin/python -m torch.distributed.run --nnodes "$SLURM_NNODES" --nproc-per-node "${SLURM_GPUS_ON_NODE:-4}" \
  --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$first:29500" -m prefloop.cli "$@"
