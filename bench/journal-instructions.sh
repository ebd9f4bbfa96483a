#!/bin/sh
# User-space instructions that the journal spends on a record: encoding, checksum, accounts, the turn's share. The disk is
# left out. Appends N and 2N records under callgrind; the difference leaves out starting.
#
# usage: bench/journal-instructions.sh [BYTES [MESSAGES AT A TIME [RECORDS]]]
# Leaves the profile of the second run in target/callgrind.journal.out.
set -eu

bytes=${1:-64}
messages=${2:-1}
records=${3:-100000}

cargo build --quiet --release --package fulmar-journal --example append

instructions() {
    valgrind --quiet --tool=callgrind --callgrind-out-file=target/callgrind.journal.out \
        target/release/examples/append "$1" "$bytes" "$messages"
    awk '/^(summary|totals):/ { print $2; exit }' target/callgrind.journal.out
}

one=$(instructions "$records")
two=$(instructions $((2 * records)))
echo "instructions per record ($messages times $bytes B): $(((two - one) / records))"
