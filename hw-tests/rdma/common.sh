# What checks have in common. Sourced.

# Large things lie here: not in $OUT, which is slow in the virtual machine.
WORK=${WORK:-/tmp}

# Milliseconds of some clock.
now_ms() { awk '{ printf "%d", $1 * 1000 }' /proc/uptime; }

# lose PERCENT: what each direction between the two hosts loses from now on.
lose() {
    if [ "$1" = 0 ]; then
        tc qdisc del dev v0 root; ip netns exec far tc qdisc del dev v1 root
    else
        tc qdisc add dev v0 root netem loss "$1%" && ip netns exec far tc qdisc add dev v1 root netem loss "$1%"
    fi
}

# How many packets were lost on purpose since `lose`.
lost() {
    { tc -s qdisc show dev v0; ip netns exec far tc -s qdisc show dev v1; } | sed -n 's/.*dropped \([0-9]*\).*/\1/p' | awk '{ n += $1 } END { print n + 0 }'
}

# serve COMMAND...: starts the server's end and waits until it listens. It ends with the check; its output is in $OUT/server.
serve() {
    $FAR "$@" >"$OUT/server" 2>&1 &
    server=$!
    trap finish EXIT
    if command -v rdma >/dev/null; then
        until_true 8 listens_or_is_gone $server
        kill -0 $server 2>/dev/null || fail "the server has ended"
        listens $server || fail "the server does not listen"
    else
        sleep 3
    fi
}

listens_or_is_gone() { gone "$1" || listens "$1"; }

gone() { ! kill -0 "$1" 2>/dev/null; }

# One of its threads may have made the listener, and counts as its owner.
listens() { $FAR rdma resource show cm_id | grep -Eq "state LISTEN .* pid ($(ls "/proc/$1/task" | tr '\n' '|')none) "; }

# wait_for_address: until the connecting host's device has its address again.
wait_for_address() {
    until_true 20 grep -q 0a09:0001 /sys/class/infiniband/rxe_near/ports/1/gids/0 /sys/class/infiniband/rxe_near/ports/1/gids/1
    # The kernel believes in it a moment later.
    sleep 1
}

# capture: what goes between the two hosts from now on is in $OUT/wire.pcap, which run.py judges. Nothing where there is one host.
capture() {
    [ -n "$FAR" ] || return 0
    tcpdump -Z root -B 32768 -i v0 -U -w /tmp/wire.pcap udp port 4791 2>"$OUT/tcpdump" &
    sniffer=$!
    trap finish EXIT
    until_true 20 grep -q '^tcpdump: listening' "$OUT/tcpdump" || fail "no capture: $(cat "$OUT/tcpdump")"
}

# Ends the server, and the capture once all of it is written.
finish() {
    kill $server 2>/dev/null
    if [ -n "$sniffer" ] && [ -e /tmp/wire.pcap ]; then
        seen=-1
        for _ in 1 2 3 4 5 6 7 8 9 10; do
            size=$(stat -c %s /tmp/wire.pcap)
            if [ "$size" = "$seen" ]; then break; fi
            seen=$size; sleep 0.5
        done
        kill $sniffer; wait $sniffer
        mv /tmp/wire.pcap "$OUT/"
        grep -q '^0 packets dropped by kernel' "$OUT/tcpdump" || rm "$OUT/wire.pcap"
    fi
}

# until_true SECONDS COMMAND...: tries again until it is true.
until_true() {
    left=$(($1 * 5)); shift
    until "$@"; do
        left=$((left - 1)); [ $left -gt 0 ] || return 1
        sleep 0.2
    done
}

# The peer's programs, with its libraries.
peer() {
    program=$1; shift
    LD_LIBRARY_PATH=$PEER/lib QPID_MODULE_DIR=$PEER/lib/qpid/client "$PEER/$program" "$@"
}

# skip REASON
skip() { echo "$1"; exit 77; }

fail() { echo "$1"; sed 's/^/server: /' "$OUT/server" 2>/dev/null | tail -n 20; echo "$1"; exit 1; }

# serve_fulmar OPTION...: Fulmar as the server, for AMQP over RDMA on port 5672 of its address. Of an option that comes
# twice, the last counts.
serve_fulmar() {
    command -v fulmar >/dev/null || skip "no program fulmar"
    # guest may log in from the broker's own address alone.
    [ -e /tmp/users.$$ ] || echo secret | fulmar user add checker --password-stdin --users-file /tmp/users.$$ >/dev/null || fail "no user"
    serve fulmar serve --users-file /tmp/users.$$ --listen "$AT:5672" --rdma-port 5672 --anonymous --plain-without-tls --no-data-dir --shards 2 --idle block "$@"
}

# serve_qpid: the peer's broker, likewise.
serve_qpid() {
    [ -n "$PEER" ] || skip "no PEER (make hw-test PEER=DIR, see the book on testing)"
    export LD_LIBRARY_PATH="$PEER/lib"
    serve "$PEER/sbin/qpidd" --no-data-dir --auth no --port 5672 --mgmt-enable no --module-dir "$PEER/lib/qpid/daemon" --log-enable info+
    unset LD_LIBRARY_PATH
}

# bodies BYTES: makes the file $bodies, whose lines are bodies of that size, each with its number; $count says how many.
bodies() {
    if [ "$1" -ge 1000000 ]; then count=4; elif [ "$1" -ge 100000 ]; then count=10; else count=40; fi
    bodies=$WORK/bodies-$1
    [ -s "$bodies" ] || awk -v size="$1" -v count=$count 'BEGIN {
        rest = "0123456789abcdefghijklmnopqrstuvwxyz"
        while (length(rest) < size) rest = rest rest
        for (n = 1; n <= count; n++) print substr(sprintf("%08d", n) rest, 1, size)
    }' >"$bodies"
}

# qpid_round BYTES: bodies of that size to the server and back by the peer's tools.
qpid_round() {
    bodies "$1"
    peer bin/qpid-send -b "rdma:$AT:5672" -a "q; {create: always}" --content-stdin <"$bodies" >"$OUT/send-$1" 2>&1 ||
        fail "qpid-send of $1 B ended with $?: $(tail -n 1 "$OUT/send-$1")"
    peer bin/qpid-receive -b "rdma:$AT:5672" -a q -m $count --timeout 20 >"$WORK/received" 2>"$OUT/receive-$1" ||
        fail "qpid-receive of $1 B ended with $?: $(tail -n 1 "$OUT/receive-$1")"
    cmp -s "$bodies" "$WORK/received" || fail "other than $count messages of $1 B came, or in another order"
}

# url SCHEME: of the server, with whom to log in.
url() { echo "$1://${LOGIN-checker:secret@}$AT:5672"; }

# fulmar_send SCHEME QUEUE BYTES: bodies of that size, each confirmed.
fulmar_send() {
    bodies "$3"
    $NEAR fulmar send --url "$(url "$1")" --queue "$2" --declare --confirm --timeout 30 <"$bodies" >"$OUT/send-$1-$3" 2>&1 ||
        fail "fulmar send of $3 B over $1 ended with $?: $(tail -n 1 "$OUT/send-$1-$3")"
}

# fulmar_receive SCHEME QUEUE BYTES: those bodies, in order.
fulmar_receive() {
    bodies "$3"
    $NEAR fulmar receive --url "$(url "$1")" --queue "$2" --count $count --timeout 30 >"$WORK/received" 2>"$OUT/receive-$1-$3" ||
        fail "fulmar receive of $3 B over $1 ended with $?: $(tail -n 1 "$OUT/receive-$1-$3")"
    cmp -s "$bodies" "$WORK/received" || fail "other than $count messages of $3 B came over $1, or in another order"
}

# fulmar_round SCHEME BYTES: there and back by Fulmar's tools, over that scheme of URLs.
fulmar_round() {
    fulmar_send "$1" "q-$1" "$2"
    fulmar_receive "$1" "q-$1" "$2"
}

# kilobytes NAME: what the kernel says of the server's memory: VmRSS, VmPin, VmLck.
kilobytes() { sed -n "s/^$1:[^0-9]*\([0-9]*\) kB/\1/p" "/proc/$server/status"; }

# holds_some PID: whether that process waits for room in a pipe.
holds_some() { grep -q pipe_write "/proc/$1/wchan" "/proc/$1"/task/*/wchan 2>/dev/null; }

# ldd_of PROGRAM: the files of the libraries that it is linked with, and its loader.
ldd_of() {
    loader=/lib64/ld-linux-x86-64.so.2
    echo $loader
    $loader --list "$1" | sed -n 's/.*=> \(\/[^ ]*\).*/\1/p'
}

# perftest PROGRAM OPTION...: perftest's program at both ends; what it printed is in $OUT/client. It crashes by itself now and
# then, so it has three tries.
perftest() {
    for try in 1 2 3; do
        serve "$@"
        $NEAR "$@" "$AT" >"$OUT/client" 2>&1
        status=$?
        if [ $status != 139 ]; then break; fi
        kill $server 2>/dev/null; wait $server 2>/dev/null
    done
    [ $status = 0 ] || fail "$1 ended with $status"
    wait $server
}
