# check.sh PLACES OUT: runs checks/* in each of the places that they name, one line of result each.
#
# A check is a script with a line `# places: ...`, and one `# quick: ...` if it is among those that run with QUICK set; it finds
#   AT      the address to listen on and connect to
#   FAR     what runs a command on the listening host, NEAR: on the connecting one; empty on one host
#   PLACE   which place this is
#   OUT     a folder of its own
#   PEER    the peer's programs, if there are any
# and ends with 0 (its last line is shown), with 77 if it cannot run here (its last line says why), or has failed.
places=$1 out=$2
here=$(cd "$(dirname "$0")" && pwd)
. "$here/common.sh"
limit_s=${HW_LIMIT_S:-120}
# Which line of a check says where it runs.
places_line=places
[ -z "$QUICK" ] || places_line=quick

enter() {
    NEAR='' FAR='' DEVICE='' FAR_DEVICE=''
    case $1 in
        one) AT=10.8.0.1 DEVICE=rxe_one FAR_DEVICE=rxe_one ;;
        two | lossy) AT=10.9.0.2 FAR='ip netns exec far' DEVICE=rxe_near FAR_DEVICE=rxe_far ;;
        # A device of this host: DEVICE:ADDRESS.
        *:*) AT=${1#*:} DEVICE=${1%%:*} FAR_DEVICE=${1%%:*} ;;
    esac
    export AT NEAR FAR DEVICE FAR_DEVICE
}

run_check() {
    place=$1 file=$2 name=$(basename "$2")
    OUT=$out/${place%%:*}-$name PLACE=$place; export OUT PLACE; mkdir -p "$OUT"
    started=$(now_ms)
    timeout -k 5 "$limit_s" sh "$file" >"$OUT/log" 2>&1
    case $? in
        0) result=ok ;;
        77) result=skipped ;;
        124 | 137 | 143) result=FAILED; echo "not done after $limit_s s" >>"$OUT/log" ;;
        *) result=FAILED ;;
    esac
    echo "RESULT ${place%%:*} $name $result $(($(now_ms) - started)) $(tail -n 1 "$OUT/log")"
    [ ! -e "$OUT/table" ] || sed 's/^/TABLE /' "$OUT/table"
}

for place in $places; do
    enter "$place"
    [ "$place" = lossy ] && lose 1
    for file in "$here"/checks/*; do
        wanted=" $(sed -n 's/^# '$places_line': //p' "$file") "
        kind=$place
        case $place in *:*) kind=one ;; esac
        case ${file##*/} in ${ONLY:-*}) ;; *) continue ;; esac
        case $wanted in *" $kind "*) run_check "$place" "$file" ;; esac
    done
    [ "$place" = lossy ] && lose 0
done
exit 0
