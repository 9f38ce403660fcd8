#!/usr/bin/env bash
# The main job on real input: a real AoE target (vblade) over 1 GiB, found and exported by aoed,
# written and verified through NBD, measured with aoe-perf, its file compared with what was written.
# Everything is in a network namespace of its own and is taken down again, however this ends.
set -euo pipefail
cd "$(dirname "$0")/../.."

bin=$PWD/target/release
ns=aoedemo
near=aoedemo0
far=aoedemo1
run=/run/aoe-demo
uri="nbd+unix:///e1.1?socket=$run/nbd.sock"
work=
made_run=
made_ns=
made_link=
vblade_pid=
aoed_pid=
pages_before=
step="starting"

say() { printf '\n== %s\n' "$*"; step=$*; }
fail() { step="$step: $*"; exit 1; }

stop() { # PID: asks, waits up to 5 s, then insists
    [ -n "$1" ] || return 0
    kill "$1" 2>/dev/null || return 0
    for _ in $(seq 50); do kill -0 "$1" 2>/dev/null || break; sleep 0.1; done
    kill -9 "$1" 2>/dev/null || true
}

cleanup() {
    local rc=$?
    # Whatever comes now, what was made is taken down.
    trap - EXIT
    trap '' INT TERM HUP
    set +e
    [ $rc -eq 0 ] || [ -z "$work" ] || { echo; echo "-- aoed's log:"; tail -n 20 "$work/aoed.log" 2>/dev/null; }
    stop "$aoed_pid"
    stop "$vblade_pid"
    [ -z "$made_link" ] || ip link del $near 2>/dev/null
    [ -z "$made_ns" ] || ip netns del $ns
    [ -z "$work" ] || rm -rf "$work"
    [ -z "$made_run" ] || rm -rf "$run"
    [ -z "$pages_before" ] || echo "$pages_before" > /proc/sys/vm/nr_hugepages
    if [ $rc -eq 0 ]; then echo "demo: ok"; else echo "demo: FAILED at: $step"; fi
    exit $rc
}

huge_pages() { # reserves 256 MiB of huge pages if it can
    local free
    free=$(awk '/HugePages_Free/ {print $2}' /proc/meminfo)
    [ "$free" -lt 160 ] || { echo "huge pages: $free are free"; return 0; }
    pages_before=$(cat /proc/sys/vm/nr_hugepages)
    echo "$pages_before" > "$run/pages"
    echo $((pages_before + 160 - free)) 2>/dev/null > /proc/sys/vm/nr_hugepages || pages_before=
    free=$(awk '/HugePages_Free/ {print $2}' /proc/meminfo)
    if [ "$free" -ge 160 ]; then
        echo "huge pages: $free reserved"
    else
        [ -z "$pages_before" ] || echo "$pages_before" > /proc/sys/vm/nr_hugepages
        pages_before=
        export AOED__EAL__HUGE_PAGES=never
        echo "huge pages: cannot be reserved here; going on without (--no-huge)"
    fi
}

stale() { # takes down what a demo left that was killed
    [ -d "$run" ] || return 0
    ! kill -0 "$(cat "$run/pid" 2>/dev/null || echo 0x)" 2>/dev/null || return 0
    echo "a demo was killed here; taking down what it left"
    local old name
    for name in aoed vblade; do
        old=$(cat "$run/$name" 2>/dev/null || true)
        # Only if the number is still that program's.
        [ -z "$old" ] || [ "$(cat "/proc/$old/comm" 2>/dev/null)" != "$name" ] || stop "$old"
    done
    [ ! -s "$run/pages" ] || cat "$run/pages" > /proc/sys/vm/nr_hugepages
    old=$(cat "$run/work" 2>/dev/null || true)
    case "$old" in /var/tmp/aoe-demo.*) rm -rf "$old" ;; esac
    ip link del $near 2>/dev/null || true
    ip netns del $ns 2>/dev/null || true
    rm -rf "$run"
}

main() {
    [ "$(id -u)" -eq 0 ] || fail "not root (a network namespace is needed); try: cargo run -p aoe-perf -- selftest"
    [ "$(nproc)" -ge 2 ] || fail "two CPUs are needed: one polls"
    stale
    mkdir "$run" 2>/dev/null || fail "another demo is running (process $(cat "$run/pid" 2>/dev/null))"
    made_run=1
    echo $$ > "$run/pid"
    work=$(mktemp -d /var/tmp/aoe-demo.XXXXXX)
    echo "$work" > "$run/work"

    say "Huge pages, a network namespace, a veth pair with jumbo frames"
    huge_pages
    ip netns add $ns
    made_ns=1
    ip link add $near mtu 9000 type veth peer name $far mtu 9000 netns $ns
    made_link=1
    ip link set $near up
    ip -n $ns link set $far up

    say "Debian's vblade serves e1.1 over a file of 1 GiB"
    truncate -s 1G "$work/disk.img"
    ip netns exec $ns vblade 1 1 $far "$work/disk.img" > "$work/vblade.log" 2>&1 &
    vblade_pid=$!
    echo $vblade_pid > "$run/vblade"

    say "aoed with configs/demo.toml"
    NO_COLOR=1 "$bin/aoed" --config configs/demo.toml > "$work/aoed.log" 2>&1 &
    aoed_pid=$!
    echo $aoed_pid > "$run/aoed"
    for _ in $(seq 100); do
        kill -0 $aoed_pid 2>/dev/null || fail "aoed has ended: $(tail -n 3 "$work/aoed.log")"
        "$bin/aoectl" -s $run/control.sock list 2>/dev/null | grep -q ' up ' && break
        sleep 0.1
    done
    cat "$work/aoed.log"
    "$bin/aoectl" -s $run/control.sock discover --wait 300
    "$bin/aoectl" -s $run/control.sock identify e1.1
    "$bin/aoectl" -s $run/control.sock list | grep -q ' up ' || fail "e1.1 is not up"

    say "fio, random reads and writes of 4 to 128 KiB through NBD, every block verified"
    (cd "$work" && fio --name=demo --ioengine=nbd --uri="$uri" --rw=randrw --bsrange=4k-128k --iodepth=16 \
        --size=192m --verify=crc32c --verify_fatal=1 --output-format=normal) | grep -E 'READ:|WRITE:|err='

    say "256 MiB of random data through nbdcopy, compared in the target's own file and read back"
    head -c 256M /dev/urandom > "$work/data"
    nbdcopy "$work/data" "$uri"
    cmp -n $((256 << 20)) "$work/data" "$work/disk.img" || fail "the target's file differs from what was written"
    echo "the target's file holds what was written"
    nbdcopy "$uri" "$work/back"
    cmp "$work/back" "$work/disk.img" || fail "what was read differs from the target's file"
    echo "what was read is what the target's file holds"
    "$bin/aoectl" -s $run/control.sock stat

    say "aoed stops in good order"
    kill $aoed_pid
    wait $aoed_pid || fail "aoed ended with $?"
    aoed_pid=

    say "aoe-perf on the same LUN: verified 4 KiB random I/O, then latencies"
    local port="net_af_packet0,iface=$near,framesz=9216,blocksz=36864,framecnt=1024"
    local common=(--port "$port" --lun e1.1 --cpu 1 --memory-mb 256)
    [ "${AOED__EAL__HUGE_PAGES:-}" != never ] || common+=(--huge never)
    "$bin/aoe-perf" run "${common[@]}" --rw randrw --bs 4k --depth 16 --time 3 --size 128m --verify
    "$bin/aoe-perf" run "${common[@]}" --rw randread --bs 4k --depth 16 --time 3
    "$bin/aoe-perf" run "${common[@]}" --rw randwrite --bs 4k --depth 16 --time 3
    say "done"
}

trap cleanup EXIT
trap 'step="$step: interrupted"; exit 130' INT TERM HUP
main
