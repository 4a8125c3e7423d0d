#!/bin/bash
# Training on several machines with SLURM, one torchrun agent on each:
#
#     sbatch cluster/slurm.sh configs/universal/hipie_r50_joint.yaml OUTPUT_DIR /shared/hipie_r50_joint
#
# OUTPUT_DIR is a folder that all machines share. Five minutes before the time limit, and when the job
# is cancelled or preempted, all processes finish their step and save a checkpoint; the same command
# continues from it.
#SBATCH --job-name=hipie
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --output=%x-%j.log
set -euo pipefail

first_machine=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --kill-on-bad-exit=1 torchrun \
    --nnodes "$SLURM_NNODES" \
    --nproc-per-node gpu \
    --rdzv-backend c10d \
    --rdzv-id "$SLURM_JOB_ID" \
    --rdzv-endpoint "$first_machine:29500" \
    --max-restarts 3 \
    train_net.py --resume --config-file "$@"
