#!/usr/bin/env bash
#SBATCH --job-name=musetalk
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --output=%x-%j.log
# One film on many nodes of a Slurm cluster: an array of shards, then one job that joins them. With GPUs add
#   export SBATCH_GPUS=1        (and --device cuda is what `work` chooses by itself)
#
#   export DIR=/shared/film.work SHARDS=16         a folder that all nodes see
#   examples/slurm.sh submit FILM --audio fr=VOICE -o OUT [flags of `musetalk plan`]
#
# A shard that is killed or requeued goes on from what it had finished; one that never runs is made by the others. The same steps without
# Slurm: plan, then `SLURM_ARRAY_TASK_ID=0 examples/slurm.sh work` for 0 to SHARDS-1 at once, then `examples/slurm.sh join`.
set -euo pipefail
: "${DIR:?export DIR, a folder that all nodes see}" "${SHARDS:?export SHARDS, how many nodes}"
step=${1:?submit, plan, work or join}
shift

case $step in
    submit)
        "$0" plan "$@"
        array=$(sbatch --parsable --array="0-$((SHARDS - 1))" "$0" work)
        sbatch --parsable --dependency="afterany:${array%%;*}" "$0" join # afterany: join itself says what is missing
        ;;
    plan)
        musetalk plan "$@" --work-dir "$DIR"
        ;;
    work)
        # of SHARDS, not of SLURM_ARRAY_TASK_COUNT: that is 1 where a single shard is begun again
        musetalk work "$DIR" --shard "${SLURM_ARRAY_TASK_ID:?}/$SHARDS" --progress plain
        ;;
    join)
        musetalk join "$DIR" --skip-existing --progress plain
        ;;
    *)
        echo "$step: choose submit, plan, work or join" >&2
        exit 2
        ;;
esac
