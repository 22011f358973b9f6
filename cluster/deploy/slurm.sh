#!/usr/bin/env bash
# Runs a recipe on nodes that SLURM lends: a Ray cluster with token authentication, the recipe as a job, and away again.
#
#   sbatch --nodes=3 --gpus-per-node=8 cluster/deploy/slurm.sh recipes/mine.yaml --set run.storage=/shared/runs
#
# Start it in the checkout, on storage that all nodes see, with .venv in it (`make setup PROFILE=gpu`) or VENV naming
# another. The first LEARNER_NODES nodes (1) carry the learner, the others the engines; with a single node both share it.
# HEAD_IP is the IPv4 address at which the other nodes reach the first, where the script does not find the right one.
#SBATCH --job-name=fleming
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --output=fleming-%j.log
set -euo pipefail

checkout="${SLURM_SUBMIT_DIR:-$PWD}"
venv="${VENV:-$checkout/.venv}"
learner_nodes="${LEARNER_NODES:-1}"
port="${RAY_PORT:-6379}"
dashboard_port="${RAY_DASHBOARD_PORT:-8265}"
cpus="${SLURM_CPUS_ON_NODE:?start this script with sbatch}"
gpus="${SLURM_GPUS_ON_NODE:-0}"

if [ $# -lt 1 ]; then
    echo "error: no recipe. Remedy: sbatch [options] cluster/deploy/slurm.sh RECIPE [--set KEY=VALUE ...]" >&2
    exit 2
fi

cd "$checkout"
# shellcheck source=/dev/null
. "$venv/bin/activate"

# Everybody on the network of the cluster could run code on these nodes: the token is this job's own.
RAY_AUTH_MODE=token
RAY_AUTH_TOKEN="$(python -c 'import secrets; print(secrets.token_hex(32))')"
RAY_USAGE_STATS_ENABLED=0
export RAY_AUTH_MODE RAY_AUTH_TOKEN RAY_USAGE_STATS_ENABLED
unset RAY_ADDRESS RAY_API_SERVER_ADDRESS PYTHONPATH

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head="${nodes[0]}"

# own_address PEER: the IPv4 address of this node at which PEER reaches it, which is the one that packets to PEER carry;
# without a way to PEER the first that is not of the loopback. A node's own name leads to 127.0.1.1 on Debian, and to
# several addresses elsewhere.
own_address() {
    local peer found=""
    peer="$(getent ahostsv4 "$1" | awk 'NR == 1 {print $1}')" || true
    if [ -n "$peer" ]; then
        found="$(ip -4 route get "$peer" | awk '{for (i = 1; i < NF; i++) if ($i == "src") print $(i + 1)}')" || true
    fi
    case "$found" in
        "" | 127.*) hostname -I | tr ' ' '\n' | awk '/^[0-9.]+$/ && !/^127[.]/ && !seen++' ;;
        *) echo "$found" ;;
    esac
}

head_ip="${HEAD_IP:-}"
if [ -z "$head_ip" ]; then
    peer="${nodes[1]:-${SLURM_SUBMIT_HOST:-$head}}"
    head_ip="$(srun --nodes=1 --ntasks=1 --nodelist="$head" bash -c "$(declare -f own_address); own_address '$peer'")" || true
fi
if [ -z "$head_ip" ]; then
    echo "error: no IPv4 address of $head found. Remedy: set HEAD_IP to the one at which the other nodes reach it" >&2
    exit 1
fi
groups=()
if [ "${#nodes[@]}" -gt "$learner_nodes" ]; then
    groups=(--set rollouts.node_group=engines --set learner.node_group=learner)
fi

# start NUMBER NODE ARGUMENTS...: one node of Ray, for as long as the job.
start() {
    local number="$1" node="$2" group=engines
    shift 2
    if [ "$number" -lt "$learner_nodes" ]; then group=learner; fi
    srun --nodes=1 --ntasks=1 --overlap --nodelist="$node" --cpus-per-task="$cpus" \
        ray start --block --disable-usage-stats --num-cpus="$cpus" --num-gpus="$gpus" \
        --resources="{\"$group\": 1}" "$@" &
}

trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT
start 0 "$head" --head --node-ip-address="$head_ip" --port="$port" \
    --dashboard-host="$head_ip" --dashboard-port="$dashboard_port"
address="http://$head_ip:$dashboard_port"
until fleming_answer="$(python -m cluster jobs --address "$address" 2>&1)"; do
    if [ $SECONDS -gt 300 ]; then
        echo "error: Ray's head did not come up on $head: $fleming_answer" >&2
        exit 1
    fi
    sleep 3
done
for number in $(seq 1 $((${#nodes[@]} - 1))); do
    start "$number" "${nodes[$number]}" --address="$head_ip:$port"
done

recipe="$1"
shift
# Nodes that are still joining are waited for by the run itself, and missed with a table.
python -m cluster submit "$recipe" --address "$address" --set run.wait_for_nodes_s=300 "${groups[@]}" "$@"
