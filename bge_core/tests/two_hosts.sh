#!/usr/bin/env bash
# Two hosts as two network namespaces, with mpirun between them: the weights must be those of two threads.
#
#   bge_core/tests/two_hosts.sh BGE        BGE is the command, built with the feature mpi
#
# Needs root, iproute2 and Open MPI. A host has its own network and name; its disk is shared, as in most clusters. All that goes
# between the two goes over TCP through a pair of virtual network cards.
set -euo pipefail
bge=$(realpath "$1")
fixtures=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../../tests/fixtures/parity")

here=$(mktemp -d)
a=bge-a-$$ b=bge-b-$$ card=bge$$
end() {
    ip netns del "$a" 2>/dev/null || true
    ip netns del "$b" 2>/dev/null || true
    rm -rf "$here"
}
trap end EXIT

if ! ip netns add "$a" 2>/dev/null; then
    echo "skipped: no network namespaces here"
    exit 0
fi
ip netns add "$b"
ip link add "${card}a" netns "$a" type veth peer name "${card}b" netns "$b"
for host in "$a ${card}a 10.77.0.1" "$b ${card}b 10.77.0.2"; do
    read -r name link address <<<"$host"
    ip -n "$name" addr add "$address/24" dev "$link"
    ip -n "$name" link set "$link" up
    ip -n "$name" link set lo up
done

# What mpirun starts its daemon on the other host with, where clusters have ssh.
cat >"$here/agent" <<AGENT
#!/bin/sh
[ "\$1" = 10.77.0.2 ] || { echo "no host \$1" >&2; exit 1; }
shift
exec ip netns exec $b unshare --uts sh -c "hostname host-b; \$*"
AGENT
chmod +x "$here/agent"

cat >"$here/run" <<RUN
#!/bin/sh
hostname host-a
exec mpirun --allow-run-as-root --mca plm_rsh_agent "$here/agent" --host 10.77.0.1:1,10.77.0.2:1 -n 2 \
    --mca oob_tcp_if_include 10.77.0.0/24 --mca btl tcp,self --mca btl_tcp_if_include 10.77.0.0/24 "\$@"
RUN
chmod +x "$here/run"
two_hosts() {
    ip netns exec "$a" unshare --uts "$here/run" "$@"
}

cd "$here"
names=$(two_hosts hostname | sort | xargs)
[ "$names" = "host-a host-b" ] || { echo "the ranks run on: $names"; exit 1; }

cp -r "$fixtures/models/bert" model
cp "$fixtures/data/plain.jsonl" data.jsonl
export HF_HUB_OFFLINE=1 RAYON_NUM_THREADS=1
flags=(finetune encoder_only.base --model_name_or_path model --train_data data.jsonl --train_group_size 4
    --per_device_train_batch_size 4 --max_steps 20 --save_steps 10 --logging_steps 1 --negatives_cross_device)
"$bge" "${flags[@]}" --output_dir threads --nproc_per_node 2 2>threads.log || { cat threads.log; exit 1; }
received() {
    ip -n "$b" -s link show "${card}b" | awk '/RX:/ { getline; print $1; exit }'
}
before=$(received)
two_hosts "$bge" "${flags[@]}" --output_dir hosts 2>hosts.log || { cat hosts.log; exit 1; }
after=$(received)
for file in model.safetensors checkpoint-10/optimizer.safetensors checkpoint-20/trainer_state.json; do
    cmp "threads/$file" "hosts/$file"
done
[ "$(grep -c '^done: ' hosts.log)" = 1 ] || { cat hosts.log; exit 1; }
echo "two hosts train the bytes of two threads; $(((after - before) / 1024)) KiB went to the second one"
