#!/bin/sh
# User-space instructions that the broker spends on a message, from publish to deliver.
#
# Runs the broker under callgrind twice, with N and 2N messages; the difference leaves out starting, connecting and
# stopping. Valgrind does not know enough of io_uring, so the broker runs on epoll. Where the machine has hardware
# counters, `perf stat -e instructions:u -p PID` beside `fulmar bench throughput` tells the same for io_uring.
#
# usage: bench/instructions.sh [FULMAR [MESSAGES [SIZE [OPTIONS of fulmar bench throughput...]]]]
# Leaves the profile of the second run in target/callgrind.fulmar.out.
set -eu

fulmar=${1:-target/release/fulmar}
messages=${2:-20000}
size=${3:-64}
[ $# -gt 3 ] && shift 3 || set --

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

# instructions COUNT: runs the broker for so many messages, prints what callgrind counted. Runs in a shell of its own,
# which ends the broker however it ends itself.
instructions() (
    broker=
    trap '[ -z "$broker" ] || kill "$broker" 2>/dev/null || true' EXIT
    trap 'exit 1' INT TERM
    count=$1
    shift
    rm -f "$work/port"
    valgrind --tool=callgrind --callgrind-out-file="$work/callgrind.out" --log-file="$work/valgrind.log" \
        "$fulmar" serve --listen 127.0.0.1:0 --print-port --io epoll --idle block --shards 1 \
        --data-dir "$work/data" >"$work/port" 2>"$work/log" &
    broker=$!
    tries=0
    until [ -s "$work/port" ]; do
        tries=$((tries + 1))
        if [ $tries -gt 300 ] || ! kill -0 "$broker" 2>/dev/null; then
            cat "$work/log" "$work/valgrind.log" >&2
            exit 1
        fi
        sleep 0.1
    done
    "$fulmar" bench throughput --url "amqp://guest:guest@127.0.0.1:$(head -n 1 "$work/port")/" \
        --size "$size" --messages "$count" --warmup 0 --seconds 300 "$@" >&2
    kill "$broker"
    wait "$broker" || true
    broker=
    awk '/^(summary|totals):/ { print $2; exit }' "$work/callgrind.out"
)

one=$(instructions "$messages" "$@")
two=$(instructions $((2 * messages)) "$@")
mv "$work/callgrind.out" target/callgrind.fulmar.out
echo "instructions per message ($size B): $(((two - one) / messages))"
