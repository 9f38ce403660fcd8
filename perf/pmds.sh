#!/usr/bin/env bash
# Verified I/O over each virtual driver, and what each does to the frame pool: a table.
# Root; makes a network namespace and reserves huge pages, and undoes both.
#   perf/pmds.sh [--plain]     with --plain: without poisoned frames and mbuf checks
set -euo pipefail
cd "$(dirname "$0")/.."
bin=${AOE_BIN:-$PWD/target/release}
checks=(--checks)
[ "${1:-}" != --plain ] || checks=()
ns=aoepmds
work=$(mktemp -d /var/tmp/aoe-pmds.XXXXXX)
target_pid=
pages_before=$(cat /proc/sys/vm/nr_hugepages)

stop_target() {
    [ -n "$target_pid" ] || return 0
    kill "$target_pid" 2>/dev/null || true
    wait "$target_pid" 2>/dev/null || true
    target_pid=
}
cleanup() {
    set +e
    stop_target
    ip netns del $ns 2>/dev/null
    ip link del aoepmds0 2>/dev/null
    echo "$pages_before" > /proc/sys/vm/nr_hugepages
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

row() { # NAME, then the fields of aoe-perf's JSON
    jq -r --arg name "$1" '
        .frames.header as $h | .frames.full as $f | .counters as $c |
        "| \($name) | \(if .verify.mismatches == 0 and .errors == 0 then "ok" else "WRONG" end) | \(.read.ios)+\(.write.ios) | \($c.zero_copy // 0) / \($c.bounced // 0) | \($h.held_max) / \($f.held_max) | \($h.overflow_max) / \($f.overflow_max) | \($h.looked_past + $f.looked_past) | \($h.nudges + $f.nudges) | \($h.starved + $f.starved) | \($c.blocked_turns // 0) | \($c.resends // 0) |"' "$2"
}

try() { # NAME, TARGET'S NAMESPACE OR -, TARGET'S PORT, OUR PORT, further arguments of both
    local name=$1 where=$2 theirs=$3 ours=$4
    shift 4
    local in_ns=()
    [ "$where" = - ] || in_ns=(ip netns exec "$where")
    "${in_ns[@]}" "$bin/aoe-target" --port "$theirs" --lun e1.0=ram:64M --cpu 0 --memory-mb 200 "${checks[@]}" "$@" \
        > "$work/target.log" 2>&1 &
    target_pid=$!
    for _ in $(seq 200); do grep -q ready "$work/target.log" && break; kill -0 $target_pid 2>/dev/null || break; sleep 0.1; done
    if ! grep -q ready "$work/target.log"; then
        echo "| $name | the target does not start: $(tail -n 1 "$work/target.log" | cut -c1-200) |"
        stop_target
        return 0
    fi
    if timeout 60 "$bin/aoe-perf" run --port "$ours" --lun e1.0 --cpu 1 --memory-mb 200 "${checks[@]}" "$@" \
        --rw randrw --rwmix 50 --bs 8k --depth 64 --count 50000 --time 10 --verify --json \
        > "$work/out.json" 2> "$work/perf.log"; then
        row "$name" "$work/out.json"
    else
        echo "| $name | FAILED: $(tail -n 1 "$work/perf.log" | cut -c1-160) |"
        failed=1
    fi
    stop_target
}

failed=
echo $((pages_before + 320)) > /proc/sys/vm/nr_hugepages 2>/dev/null || true
ip netns add $ns
ip link add aoepmds0 mtu 9000 type veth peer name aoepmds1 mtu 9000 netns $ns
ip link set aoepmds0 up
ip -n $ns link set aoepmds1 up

echo "| driver | verified | reads+writes | in place / copied | held max (header / full) | overflow max | looked past | nudges | starved | blocked turns | resends |"
echo "|---|---|---|---|---|---|---|---|---|---|---|"
afp=framesz=9216,blocksz=36864,framecnt=1024
try af_packet $ns "net_af_packet0,iface=aoepmds1,$afp" "net_af_packet0,iface=aoepmds0,$afp"
memif=socket=$work/memif.sock,socket-abstract=no,bsize=9216
try memif - "net_memif0,role=server,$memif" "net_memif0,role=client,$memif"
rm -f "$work/memif.sock"
if [ "$(awk '/HugePages_Free/ {print $2}' /proc/meminfo)" -ge 300 ]; then
    try "memif zero-copy" - "net_memif0,role=server,$memif" "net_memif0,role=client,zero-copy=yes,$memif" --huge always
    rm -f "$work/memif.sock"
    vhost=$work/vhost.sock
    try "virtio-user / vhost" - "net_vhost0,iface=$vhost,queues=1" \
        "net_virtio_user0,path=$vhost,queues=1,queue_size=1024" --huge always
else
    echo "| memif zero-copy, virtio-user | skipped: no huge pages |"
fi
# Up to six sectors a frame: the kernel's limit for XDP on a veth.
ip link set aoepmds0 mtu 3498
ip -n $ns link set aoepmds1 mtu 3498
try af_xdp $ns "net_af_xdp0,iface=aoepmds1" "net_af_xdp0,iface=aoepmds0"
[ -z "$failed" ]
