#!/usr/bin/env bash
# Three national nodes find their true overlaps through a broker that never sees a selector or a
# key: real processes on this machine, real certificates, real lists. Needs the Rust toolchain,
# bash, awk and coreutils. `--help` tells more.
set -euo pipefail
export LC_ALL=C
umask 077

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly ROOT
readonly COMMUNITY=quickstart
readonly TRUST_DOMAIN=sotto.example
# A list's letter, the node that gets it, and the region hint of its national forms.
readonly PARTIES=(a b c)
declare -rA NODE=([a]=nl-fiu [b]=de-bka [c]=fr-pj)
declare -rA REGION=([a]=NL [b]=DE [c]=FR)
readonly CUSTODIAN=a
readonly TYPES=(phone email domain ip url iban crypto_address file_hash
    passport national_id vehicle_plate vin imei vessel_imo)
# Types whose normal form asks for a country (selectors.md).
readonly REGIONAL=' phone passport national_id vehicle_plate '
readonly K=30

usage() {
    cat <<TEXT
Usage: deploy/quickstart.sh [--once] [--data DIR] [--keep DIR]

Starts one broker and three nodes (nl-fiu, de-bka, fr-pj) on loopback, imports a list of each
selector type at each node, publishes, probes, and compares the hits with the true overlap.

  --once      stop everything at the end and remove the work folder (it stays after a failure)
  --data DIR  take DIR/<type>/{a,b,c}.txt instead of deploy/sample: a goes to nl-fiu, b to de-bka,
              c to fr-pj; a missing file means no such dataset
  --keep DIR  work in DIR, which must be empty or absent, and leave it there
  --help      show this

Ends with 0 only if no overlap is missed and false hits are within the filters' own bound.
TEXT
}

# --- what is said, and what happens when something fails ------------------------------------

say() { printf '%4d s  %s\n' "$SECONDS" "$*"; }

declare -A pid=()
children=()

# Shows the last lines of a log, if there are any.
show_log() {
    [[ -s $1 ]] || return 0
    printf -- '--- %s, last lines:\n' "$1" >&2
    tail -n "${2:-15}" "$1" >&2
}

# fail TEXT [WHO…]: gives up, with the logs of the processes and of their commands.
fail() {
    printf 'quickstart: %s\n' "$1" >&2
    local who
    for who in $(printf '%s\n' "${@:2}" | sort -u); do
        show_log "$work/$who/commands.log"
        show_log "$work/$who/process.log"
    done
    exit 1
}

alive() { [[ -n ${pid[$1]:-} ]] && kill -0 "${pid[$1]}" 2>/dev/null; }

stop_all() {
    local child who tries
    for child in "${children[@]}" "${pid[@]}"; do kill "$child" 2>/dev/null || true; done
    for who in "${!pid[@]}"; do
        for ((tries = 0; tries < 150; tries++)); do
            alive "$who" || break
            sleep 0.1
        done
        ! alive "$who" || kill -9 "${pid[$who]}" 2>/dev/null || true
        wait "${pid[$who]}" 2>/dev/null || true
    done
}

work=''
keep=''
stay=''
on_exit() {
    local status=$?
    trap - EXIT
    [[ $stay ]] && exit "$status"
    stop_all
    if [[ $status -ne 0 && -n $work ]]; then
        printf 'quickstart: everything is stopped; logs and files are in %s\n' "$work" >&2
    elif [[ -n $work && -z $keep ]]; then
        rm -rf "$work"
    fi
    exit "$status"
}
trap on_exit EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# --- arguments -------------------------------------------------------------------------------

once=''
data=$ROOT/deploy/sample
while (($#)); do
    case $1 in
        --once) once=1 ;;
        --data | --keep)
            [[ $# -ge 2 && -n $2 ]] || fail "$1 needs a folder"
            if [[ $1 == --data ]]; then data=$2; else keep=$2; fi
            shift
            ;;
        --help | -h) usage && exit 0 ;;
        *)
            usage >&2
            fail "unknown argument: $1"
            ;;
    esac
    shift
done

[[ -d $data ]] || fail "there is no folder $data"
data=$(cd "$data" && pwd)
if [[ -n $keep ]]; then
    mkdir -p "$keep"
    [[ -z $(ls -A "$keep") ]] || fail "$keep is not empty"
    work=$(cd "$keep" && pwd)
else
    work=$(mktemp -d "${TMPDIR:-/tmp}/sotto-quickstart.XXXXXX")
fi
mkdir "$work/lists"

# Settings of another installation shall not reach these processes; SOTTO_LOG may.
for variable in $(compgen -e); do
    case $variable in SOTTO_BROKER* | SOTTO_NODE*) unset "$variable" ;; esac
done

# --- programs --------------------------------------------------------------------------------

say 'building the release binaries (the first time takes some minutes)'
(cd "$ROOT" && cargo build --release --locked --quiet -p sotto-broker -p sotto-node) ||
    fail 'the build failed'
target=${CARGO_TARGET_DIR:-target}
[[ $target == /* ]] || target=$ROOT/$target
readonly BROKER_PROGRAM=$target/release/sotto-broker NODE_PROGRAM=$target/release/sotto-node
for program in "$BROKER_PROGRAM" "$NODE_PROGRAM"; do
    [[ -x $program ]] || fail "the build left no $program"
done
say "work folder: $work"

# command_of WHO COMMAND…: runs a command, keeps what it says, fails with it.
command_of() {
    local who=$1 logs=("$1")
    shift
    printf '\n$ %s\n' "$*" >>"$work/$who/commands.log"
    # When nodes work at the same time, the broker's log is shown once, at the end.
    ((BASH_SUBSHELL)) || logs+=(broker)
    "$@" >>"$work/$who/commands.log" 2>&1 || fail "$who: failed: ${*##*/}" "${logs[@]}"
}

pki() { command_of broker "$BROKER_PROGRAM" lab-pki "$@"; }
operator() { SOTTO_BROKER_CLIENT=$work/operator.toml command_of broker "$BROKER_PROGRAM" "$@"; }

# at NODE ROLE ARGUMENTS…: a command of a person at a node.
at() {
    local node=$1 role=$2
    shift 2
    SOTTO_NODE_CLIENT=$work/$node/$role.toml command_of "$node" "$NODE_PROGRAM" "$@"
}

# each_node FUNCTION: runs it for every party, all at the same time.
each_node() {
    local party child failed=''
    children=()
    for party in "${PARTIES[@]}"; do
        # The children must not stop the processes when they end.
        (trap - EXIT && "$1" "$party") &
        children+=($!)
    done
    for child in "${children[@]}"; do wait "$child" || failed=1; done
    children=()
    [[ -z $failed ]] || fail 'a node has failed' broker
}

# --- lists: canonical values, sizes, true overlaps -------------------------------------------

# The canonical values of a list, one a line, sorted, written as the commands write TSV: with a
# backslash doubled, and what turns a terminal's direction of writing around as \u{…}. A value may
# begin with `!` itself (e-mail): only `!` and a rejection alone is a rejection.
canonical() {
    local type=$1 party=$2 region=()
    [[ $REGIONAL != *" $type "* ]] || region=(--region "${REGION[$party]}")
    "$NODE_PROGRAM" normalise --type "$type" "${region[@]}" --stop-list <"$data/$type/$party.txt" |
        awk '
            BEGIN {
                split("200e 200f 2028 2029 202a 202b 202c 202d 202e 61c 2066 2067 2068 2069", code, " ")
                split("\342\200\216 \342\200\217 \342\200\250 \342\200\251 \342\200\252 " \
                    "\342\200\253 \342\200\254 \342\200\255 \342\200\256 \330\234 " \
                    "\342\201\246 \342\201\247 \342\201\250 \342\201\251", bytes, " ")
            }
            /^!(empty|too_long|malformed|bad_checksum|needs_region|unsupported|too_common)$/ { next }
            {
                gsub(/\\/, "\\\\\\\\")
                if (/[\330\342]/) for (i in code) gsub(bytes[i], "\\u{" code[i] "}")
                print
            }' |
        sort -u
}

count() { wc -l <"$1" | tr -d ' '; }
values() { printf '%s/lists/%s.%s' "$work" "$1" "$2"; }
held() { [[ -s $(values "$1" "$2") ]]; }

rows=0
largest=1
for type in "${TYPES[@]}"; do
    for party in "${PARTIES[@]}"; do
        : >"$(values "$type" "$party")"
        [[ -f $data/$type/$party.txt ]] || continue
        canonical "$type" "$party" >"$(values "$type" "$party")" ||
            fail "cannot normalise $data/$type/$party.txt"
        size=$(count "$(values "$type" "$party")")
        rows=$((rows + size))
        if ((size > largest)); then largest=$size; fi
    done
done
((rows > 0)) || fail "$data holds no <type>/{a,b,c}.txt with a selector in it"
say "$rows distinct selectors in the lists of $data"

# The smallest capacity class that holds so many tags: n_c = ceil(1000 · 1.25^c) (protocol §5.2).
class_for() {
    awk -v tags="$1" 'BEGIN { n = 1000; while (n < tags && c < 60) { n *= 1.25; c++ } print c + 0 }'
}

# --- certificates ----------------------------------------------------------------------------
# One authority for broker, nodes and the operator; one at every unit for its own people, whom no
# other unit's node lets in.

say 'making throw-away authorities and certificates'
mkdir -p "$work/broker" "$work/pki"
pki create --dir "$work/pki" --trust-domain "$TRUST_DOMAIN"
pki issue --dir "$work/pki" --role broker --name quickstart --dns localhost --ip 127.0.0.1 \
    --out "$work/broker/broker"
pki issue --dir "$work/pki" --role operator --name quickstart --out "$work/operator"

# tls CERTIFICATE-PREFIX CA: the section of a configuration file.
tls() {
    cat <<TOML
[tls]
certificate = "$1.pem"
key = "$1.key"
ca = "$2"
trust_domain = "$TRUST_DOMAIN"
TOML
}

log_section() { printf '[log]\nformat = "human"\n'; }

# --- broker ----------------------------------------------------------------------------------

# start WHO PROGRAM: starts `serve`, and waits until it says where it listens.
start() {
    local who=$1 program=$2 tries
    nohup "$program" serve --config "$work/$who/config.toml" \
        </dev/null >"$work/$who/process.log" 2>&1 &
    pid[$who]=$!
    printf '%s\n' "${pid[$who]}" >"$work/$who/process.pid"
    for ((tries = 0; tries < 600; tries++)); do
        [[ ! -s $work/$who/address ]] || return 0
        alive "$who" || fail "$who ended at once" "$who"
        sleep 0.1
    done
    fail "$who does not listen after a minute" "$who"
}

port_of() { local address && address=$(<"$work/$1/address") && printf '%s' "${address##*:}"; }

cat >"$work/broker/config.toml" <<TOML
listen = "127.0.0.1:0"
address_file = "$work/broker/address"
data_dir = "$work/broker/data"

$(tls "$work/broker/broker" "$work/pki/ca.pem")

$(log_section)
TOML
start broker "$BROKER_PROGRAM"
broker_port=$(port_of broker)
say "broker listens on port $broker_port"

cat >"$work/operator.toml" <<TOML
endpoint = "https://127.0.0.1:$broker_port"

$(tls "$work/operator" "$work/pki/ca.pem")
TOML

# Twice the largest list: no true overlap is held back by the flood guard, a flood still is.
operator community create "$COMMUNITY" --custodian "${NODE[$CUSTODIAN]}" --k "$K" \
    --hit-cap $((2 * largest))
operator node enrol "$COMMUNITY" "${NODE[@]}"

# set_limits PARTY: twice what its lists need, so that they may grow, and refs to probe them ten times.
set_limits() {
    local type size
    for type in "${TYPES[@]}"; do
        held "$type" "$1" || continue
        size=$(count "$(values "$type" "$1")")
        operator limits set "$COMMUNITY" "${NODE[$1]}" --type "$type" \
            --daily-refs $((10 * size + 1000)) --max-class "$(class_for $((2 * size + 2)))"
    done
}
for party in "${PARTIES[@]}"; do set_limits "$party"; done
say "community $COMMUNITY: three nodes enrolled, limits set from the lists"

# --- nodes -----------------------------------------------------------------------------------

prepare_node() {
    local node=${NODE[$1]} role
    local home=$work/$node
    mkdir -p "$home/people"
    cat >"$home/config.toml" <<TOML
node_id = "$node"
community = "$COMMUNITY"
data_dir = "$home/data"
listen = "127.0.0.1:0"
address_file = "$home/address"
custodians = ["${NODE[$CUSTODIAN]}"]

[broker]
endpoint = "https://127.0.0.1:$broker_port"

$(tls "$home/node" "$home/ca.pem")

$(log_section)
TOML
    # The key is made by the node and stays there; the authority sees a request only.
    "$NODE_PROGRAM" init --config "$home/config.toml" --output tsv \
        >"$home/init.txt" 2>>"$home/commands.log" || fail 'cannot initialise a node' "$node"
    pki sign --dir "$work/pki" --csr "$home/node.csr" --role node --name "$node" \
        --dns localhost --ip 127.0.0.1 --out "$home/node.pem"
    pki create --dir "$home/people" --trust-domain "$TRUST_DOMAIN"
    cat "$work/pki/ca.pem" "$home/people/ca.pem" >"$home/ca.pem"
    for role in data-manager analyst; do
        pki issue --dir "$home/people" --role "$role" --name "$node-$role" --out "$home/$role"
    done
}

# The fingerprint that a node itself showed at `init`: this is the comparison out of band.
fingerprint_of() { awk -F '\t' '$1 == "fingerprint" { print $2; exit }' "$work/${NODE[$1]}/init.txt"; }

for party in "${PARTIES[@]}"; do
    node=${NODE[$party]}
    prepare_node "$party"
    start "$node" "$NODE_PROGRAM"
    for role in data-manager analyst; do
        cat >"$work/$node/$role.toml" <<TOML
endpoint = "https://127.0.0.1:$(port_of "$node")"

$(tls "$work/$node/$role" "$work/pki/ca.pem")
TOML
    done
    say "$node listens on port $(port_of "$node")"
done

# --- epoch -----------------------------------------------------------------------------------

for party in "${PARTIES[@]}"; do
    for other in "${PARTIES[@]}"; do
        [[ $party == "$other" ]] ||
            at "${NODE[$party]}" data-manager member pin "${NODE[$other]}" "$(fingerprint_of "$other")"
    done
done
say 'fingerprints compared and pinned'
at "${NODE[$CUSTODIAN]}" data-manager epoch open
for party in "${PARTIES[@]}"; do
    at "${NODE[$party]}" data-manager epoch fetch
done
say "epoch opened by ${NODE[$CUSTODIAN]}, its key confirmed by all"

# --- the main job ----------------------------------------------------------------------------

import_lists() {
    local type region
    for type in "${TYPES[@]}"; do
        held "$type" "$1" || continue
        region=()
        [[ $REGIONAL != *" $type "* ]] || region=(--region "${REGION[$1]}")
        at "${NODE[$1]}" data-manager dataset import "$type" --type "$type" "${region[@]}" \
            "$data/$type/$1.txt"
    done
    say "${NODE[$1]}: lists imported"
}

publish_filters() {
    local type
    for type in "${TYPES[@]}"; do
        if held "$type" "$1"; then
            at "${NODE[$1]}" data-manager publish
            say "${NODE[$1]}: filters published"
            return
        fi
    done
}

probe_lists() {
    local type
    for type in "${TYPES[@]}"; do
        held "$type" "$1" || continue
        at "${NODE[$1]}" analyst probe "$type" --purpose INVESTIGATION \
            --legal-basis EU_2023_977 --case quickstart-1
    done
    say "${NODE[$1]}: probed"
}

each_node import_lists
each_node publish_filters
each_node probe_lists

# --- hits against truth ----------------------------------------------------------------------

# The hits of a party; the second column is the policy, the third the holder, the seventh the
# canonical value of the party's own record.
hits_of() {
    SOTTO_NODE_CLIENT=$work/${NODE[$1]}/analyst.toml "$NODE_PROGRAM" hits ls --all --output tsv \
        2>>"$work/${NODE[$1]}/commands.log"
}

# Compares found and true overlaps of every ordered pair into $work/results: type, prober, holder,
# hits found, expected, false, missed.
compare() {
    local type prober holder found expected
    : >"$work/results"
    for prober in "${PARTIES[@]}"; do
        hits_of "$prober" >"$work/hits" || fail 'cannot list hits' "${NODE[$prober]}"
        for type in "${TYPES[@]}"; do
            held "$type" "$prober" || continue
            for holder in "${PARTIES[@]}"; do
                if [[ $holder == "$prober" ]] || ! held "$type" "$holder"; then continue; fi
                found=$work/found
                expected=$work/expected
                awk -F '\t' -v policy="$type/1" -v holder="${NODE[$holder]}" \
                    '$2 == policy && $3 == holder { print $7 }' "$work/hits" |
                    sort -u >"$found"
                comm -12 "$(values "$type" "$prober")" "$(values "$type" "$holder")" >"$expected"
                printf '%s\t%s\t%s\t%d\t%d\t%d\t%d\n' "$type" "${NODE[$prober]}" "${NODE[$holder]}" \
                    "$(count "$found")" "$(count "$expected")" \
                    "$(comm -23 "$found" "$expected" | wc -l)" \
                    "$(comm -13 "$found" "$expected" | wc -l)" >>"$work/results"
            done
        done
    done
}

sum() { awk -F '\t' -v column="$1" '{ s += $column } END { print s + 0 }' "$work/results"; }

# Hits reach the nodes on a stream: waits until all are there, or for 20 s nothing has come.
before=-1
quiet=0
while compare && [[ $(sum 7) -gt 0 && $quiet -lt 20 ]]; do
    found=$(sum 4)
    if [[ $found == "$before" ]]; then quiet=$((quiet + 1)); else quiet=0; fi
    before=$found
    sleep 1
done

found=$(sum 4)
expected=$(sum 5)
false_hits=$(sum 6)
missed=$(sum 7)

# Every filter that was accepted has f <= 2^(-0.8 k) (protocol §5.3), so that refs × holders × that
# bounds how many false hits are expected; rounded up.
bound=$(for type in "${TYPES[@]}"; do
    for prober in "${PARTIES[@]}"; do
        for holder in "${PARTIES[@]}"; do
            if [[ $holder == "$prober" ]] || ! held "$type" "$holder"; then continue; fi
            count "$(values "$type" "$prober")"
        done
    done
done | awk -v k="$K" '{ refs += $1 } END { b = refs * 2 ^ (-0.8 * k); print (b > int(b)) ? int(b) + 1 : int(b) }')

printf '\n%-15s %-7s %-7s %8s %9s %7s %7s\n' policy prober holder found expected false missed
awk -F '\t' '{ printf "%-15s %-7s %-7s %8d %9d %7d %7d\n", $1 "/1", $2, $3, $4, $5, $6, $7 }' \
    <(sort "$work/results")
printf '\n'

here=$(printf '%q' "$work")
if [[ -z $once && $missed -eq 0 && $false_hits -le $bound ]]; then
    cat <<TEXT
The processes stay up. Next, for example:

  export PATH=$(printf '%q' "$target/release"):\$PATH
  export SOTTO_NODE_CLIENT=$here/${NODE[a]}/analyst.toml
  sotto-node hits ls
  sotto-node hits watch
  sotto-node check --type phone '+44 20 7946 0123' --purpose INVESTIGATION --legal-basis EU_2023_977 --case demo-2
  SOTTO_NODE_CLIENT=$here/${NODE[b]}/data-manager.toml sotto-node dataset ls
  SOTTO_BROKER_CLIENT=$here/operator.toml sotto-broker epoch ls $COMMUNITY

To stop them:

  kill \$(cat $here/*/process.pid); rm -rf $here

TEXT
    stay=1
fi

printf 'quickstart: %d hits, %d expected, %d missed, %d false\n' "$found" "$expected" "$missed" "$false_hits"
if [[ $missed -gt 0 ]]; then
    fail 'overlaps were missed' "${NODE[@]}" broker
elif [[ $false_hits -gt $bound ]]; then
    fail "more false hits than the filters' bound of $bound" "${NODE[@]}" broker
fi
