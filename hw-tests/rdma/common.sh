# What checks have in common. Sourced.

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
    trap 'kill $server $sniffer 2>/dev/null' EXIT
    if command -v rdma >/dev/null; then
        until_true 20 listens $server || fail "the server does not listen"
    else
        sleep 3
    fi
}

listens() { $FAR rdma resource show cm_id | grep -q "state LISTEN .* pid $1 "; }

# capture: what goes between the two hosts from now on is in $OUT/wire.pcap, which run.py judges. Nothing where there is one host.
capture() {
    [ -n "$FAR" ] || return 0
    tcpdump -Z root -i v0 -U -w "$OUT/wire.pcap" udp port 4791 2>"$OUT/tcpdump" &
    sniffer=$!
    until_true 10 grep -q '^tcpdump: listening' "$OUT/tcpdump" || fail "no capture: $(cat "$OUT/tcpdump")"
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
