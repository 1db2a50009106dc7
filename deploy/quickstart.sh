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
Usage: deploy/quickstart.sh [--once] [--postgres] [--release] [--data DIR] [--keep DIR]

Starts one broker and three nodes (nl-fiu, de-bka, fr-pj) on loopback, imports a list of each
selector type at each node, publishes, probes, and compares the hits with the true overlap.

  --once      stop everything at the end and remove the work folder (it stays after a failure)
  --postgres  two brokers on one throw-away PostgreSQL and one object folder instead: fr-pj talks to
              the second broker, the others to the first. Needs the programs of PostgreSQL (Debian:
              postgresql); the server listens on a socket in a private folder, on no port
  --release   with programs as an installation has them: they take several times as long to build
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

# The throw-away PostgreSQL: its folder, and how to call its programs.
postgres=''
as_server=()
postgres_bin=''

# After the brokers, so that they can leave the ledger in good order.
stop_postgres() {
    [[ -n $postgres ]] || return 0
    if [[ -f $postgres/data/postmaster.pid ]]; then
        "${as_server[@]}" "$postgres_bin/pg_ctl" stop --mode fast -D "$postgres/data" >/dev/null ||
            printf 'quickstart: PostgreSQL does not stop; its folder is %s\n' "$postgres" >&2
    fi
    [[ ! -f $postgres/log ]] || cp "$postgres/log" "$work/postgres.log"
    [[ -f $postgres/data/postmaster.pid ]] || rm -rf "$postgres"
}

work=''
keep=''
stay=''
on_exit() {
    local status=$?
    trap - EXIT
    [[ $stay ]] && exit "$status"
    stop_all
    stop_postgres
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
with_postgres='' profile=dev
data=$ROOT/deploy/sample
while (($#)); do
    case $1 in
        --once) once=1 ;;
        --postgres) with_postgres=1 ;;
        --release) profile=release ;;
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

# The folder of initdb and its siblings: in the path, or where Debian puts them, the newest.
find_postgres() {
    local initdb
    if ! initdb=$(command -v initdb); then
        initdb=$(compgen -G '/usr/lib/postgresql/*/bin/initdb' | sort -V | tail -n 1) || return 1
    fi
    # A link in the path may stand alone; its siblings lie where it leads.
    initdb=$(readlink -f "$initdb") && postgres_bin=${initdb%/*}
}

BROKERS=(broker)
if [[ $with_postgres ]]; then
    find_postgres || fail 'PostgreSQL is not installed: no initdb in the path or in
/usr/lib/postgresql/*/bin. On Debian: apt-get install postgresql'
    BROKERS+=(broker2)
fi
readonly BROKERS

# broker_of PARTY: the broker that its node talks to; the first and the last one differ.
broker_of() {
    if [[ $1 == "${PARTIES[-1]}" ]]; then printf '%s' "${BROKERS[-1]}"; else printf '%s' "${BROKERS[0]}"; fi
}

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
    case $variable in SOTTO_BROKER* | SOTTO_NODE* | PG[A-Z]*) unset "$variable" ;; esac
done

# --- programs --------------------------------------------------------------------------------

say 'building the programs (the first time takes some minutes)'
# With the workspace, as the tests do: what both need is built once.
(cd "$ROOT" && cargo build --profile "$profile" --locked --quiet --workspace) ||
    fail 'the build failed'
target=${CARGO_TARGET_DIR:-target}
[[ $target == /* ]] || target=$ROOT/$target
# Cargo's name of the folder of profile dev.
readonly programs=$target/${profile/#dev/debug}
readonly BROKER_PROGRAM=$programs/sotto-broker NODE_PROGRAM=$programs/sotto-node
for program in "$BROKER_PROGRAM" "$NODE_PROGRAM"; do
    [[ -x $program ]] || fail "the build left no $program"
done
say "work folder: $work"

# command_of WHO COMMAND…: runs a command, keeps what it says, fails with it.
command_of() {
    local who=$1 logs=("$1")
    shift
    printf '\n$ %s\n' "$*" >>"$work/$who/commands.log"
    # When nodes work at the same time, the brokers' logs are shown once, at the end.
    ((BASH_SUBSHELL)) || logs+=("${BROKERS[@]}")
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
    [[ -z $failed ]] || fail 'a node has failed' "${BROKERS[@]}"
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
mkdir -p "$work/pki" "${BROKERS[@]/#/$work/}"
pki create --dir "$work/pki" --trust-domain "$TRUST_DOMAIN"
# All brokers are one to the nodes: each has a key of its own, in the same name.
for broker in "${BROKERS[@]}"; do
    pki issue --dir "$work/pki" --role broker --name quickstart --dns localhost --ip 127.0.0.1 \
        --out "$work/$broker/broker"
done
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

# --- PostgreSQL ------------------------------------------------------------------------------
# In a folder of its own, of mode 0700, which alone decides who gets at the socket in it. It refuses
# to run as root: then it runs as the user postgres or nobody, who cannot enter the work folder.

# server_command PROGRAM ARGUMENTS…: runs a program of PostgreSQL. The server that pg_ctl leaves
# behind shall hold neither a pipe nor the terminal open.
server_command() {
    local program=$1
    shift
    "${as_server[@]}" "$postgres_bin/$program" "$@" </dev/null >>"$work/broker/commands.log" 2>&1 ||
        fail "PostgreSQL: failed: $program $*" broker
}

start_postgres() {
    local user=''
    postgres=$(mktemp -d "${TMPDIR:-/tmp}/sotto-pg.XXXXXX")
    if ((EUID == 0)); then
        for user in postgres nobody ''; do ! id "$user" &>/dev/null || break; done
        [[ $user ]] || fail 'PostgreSQL does not run as root, and there is no user postgres or nobody'
        chown "$user:" "$postgres"
        as_server=(setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups
            env "--chdir=$postgres")
    fi
    server_command initdb --pgdata "$postgres/data" --username sotto --auth trust \
        --encoding UTF8 --locale C --no-sync
    server_command pg_ctl start --wait -D "$postgres/data" --log "$postgres/log" \
        -o "-k '$postgres' -c listen_addresses= -c max_connections=100"
    server_command createdb --host "$postgres" --username sotto sotto
}

# --- brokers ---------------------------------------------------------------------------------

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

# Where the brokers keep what they share; one alone keeps all in its own folder.
shared_settings() {
    [[ $with_postgres ]] || return 0
    cat <<TOML
ledger = "postgres:///sotto?host=$postgres&user=sotto"
objects = "file://$work/objects"
log_key_file = "$work/log.key"
TOML
}

if [[ $with_postgres ]]; then
    start_postgres
    mkdir -m 700 "$work/objects"
    (umask 077 && "$BROKER_PROGRAM" ledger new-log-key >"$work/log.key")
    say "PostgreSQL runs in $postgres"
fi
for broker in "${BROKERS[@]}"; do
    cat >"$work/$broker/config.toml" <<TOML
listen = "127.0.0.1:0"
address_file = "$work/$broker/address"
data_dir = "$work/$broker/data"
$(shared_settings)

$(tls "$work/$broker/broker" "$work/pki/ca.pem")

$(log_section)
TOML
    start "$broker" "$BROKER_PROGRAM"
    say "$broker listens on port $(port_of "$broker")"
done

cat >"$work/operator.toml" <<TOML
endpoint = "https://127.0.0.1:$(port_of broker)"

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

# The key of the audit log, as the operator hands it to the units out of band (protocol §11).
log_key=$("$BROKER_PROGRAM" log-key --config "$work/broker/config.toml" --community "$COMMUNITY" \
    2>>"$work/broker/commands.log") || fail 'the broker does not tell the key of its log' broker

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
endpoint = "https://127.0.0.1:$(port_of "$(broker_of "$1")")"

[audit_log]
verifier_key = "$log_key"

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
    for role in data-manager analyst approver; do
        pki issue --dir "$home/people" --role "$role" --name "$node-$role" --out "$home/$role"
    done
}

# The fingerprint that a node itself showed at `init`: this is the comparison out of band.
fingerprint_of() { awk -F '\t' '$1 == "fingerprint" { print $2; exit }' "$work/${NODE[$1]}/init.txt"; }

for party in "${PARTIES[@]}"; do
    node=${NODE[$party]}
    prepare_node "$party"
    start "$node" "$NODE_PROGRAM"
    for role in data-manager analyst approver; do
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

# ask NODE ROLE ARGUMENTS…: as `at`, and prints what the command says, for scripts.
ask() {
    local node=$1 role=$2
    shift 2
    SOTTO_NODE_CLIENT=$work/$node/$role.toml "$NODE_PROGRAM" "$@" --output tsv \
        2>>"$work/$node/commands.log"
}

# until_so TEXT COMMAND…: waits until the command ends well, for a minute at most.
until_so() {
    local text=$1 tries
    shift
    for ((tries = 0; tries < 300; tries++)); do
        ! "$@" || return 0
        sleep 0.2
    done
    fail "$text" "${NODE[@]}" "${BROKERS[@]}"
}

# An epoch is sealed to the members whose key statement the broker has: each node hands in its own
# when it starts. In the list: node, fingerprint, pin.
all_are_pinned() {
    ask "${NODE[$CUSTODIAN]}" data-manager member ls |
        awk -F '\t' -v nodes="${#NODE[@]}" \
            '$2 != "" && ($3 == "PINNED" || $3 == "SELF") { n++ } END { exit n != nodes }'
}

# In the list: epoch, state.
epoch_is_active() {
    ask "$1" data-manager epoch ls | awk -F '\t' '$2 == "ACTIVE" { n++ } END { exit !n }'
}

until_so 'not every node has handed in its key statement' all_are_pinned
at "${NODE[$CUSTODIAN]}" data-manager epoch open
for party in "${PARTIES[@]}"; do
    [[ $party == "$CUSTODIAN" ]] || at "${NODE[$party]}" data-manager epoch fetch
done
until_so 'the epoch does not become active' epoch_is_active "${NODE[$CUSTODIAN]}"
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

# Compares found and true overlaps of every ordered pair into $work/results: type, prober, holder,
# hits found, expected, false, missed.
compare() {
    local type prober holder found expected
    : >"$work/results"
    for prober in "${PARTIES[@]}"; do
        # In the list: hit, policy, holder, state, dataset, record, canonical value, and more.
        ask "${NODE[$prober]}" analyst hits ls --all >"$work/hits" ||
            fail 'cannot list hits' "${NODE[$prober]}" "${BROKERS[@]}"
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

# --- hits in the audit log -------------------------------------------------------------------
# Every node is a witness of the log. A hit is verified once its entry is proved to be in it, under a
# checkpoint that enough nodes have cosigned.

# In the list: "verified" is the nineteenth column.
count_verified() {
    local party
    for party in "${PARTIES[@]}"; do
        ask "${NODE[$party]}" analyst hits ls --all
    done | awk -F '\t' '{ hits++; verified += ($19 == "true") } END { print verified + 0, hits + 0 }'
}

all_verified() {
    local verified hits
    read -r verified hits < <(count_verified)
    [[ $verified -eq $hits ]]
}

until_so 'not every hit becomes verified in the audit log' all_verified
read -r verified hits < <(count_verified)
say "$verified of $hits hits are verified in the audit log"

# --- from a hit to an answer -----------------------------------------------------------------
# Two people at each side draft and approve; the request names the selector by its tag alone until
# the holder's node has proved that it has it.

# In the list: follow-up, side, other node, state, and more; the hit is the ninth.
follow_up_is() {
    ask "$1" analyst followup ls |
        awk -F '\t' -v id="$2" -v state="$3" '$1 == id && $4 == state { n++ } END { exit !n }'
}

# approve NODE ID: the approver's turn, on the proposal that was shown.
approve() {
    local proposal
    proposal=$(SOTTO_NODE_CLIENT=$work/$1/approver.toml "$NODE_PROGRAM" followup show "$2" \
        --output json 2>>"$work/$1/commands.log" | tr -d ' \n' |
        sed -n 's/.*"proposal":"\([0-9a-f-]*\)".*/\1/p')
    at "$1" approver followup approve "$2" --proposal "$proposal" --yes
}

# exported NODE ID: writes the bundle, until the log proves all of it: a checkpoint with enough
# cosignatures comes some seconds after the last step.
exported() {
    local bundle=$work/$1/bundle
    rm -rf "$bundle"
    at "$1" analyst followup export "$2" "$bundle" --why 'case file' --with-attachments
    ! grep -q '^Missing: ' "$bundle/inclusion-proofs.txt"
}

follow_up() {
    local asks=${NODE[a]} holds=${NODE[b]} hit id forms=$ROOT/deploy/config/follow-ups file=$ROOT/README.md
    hit=$(ask "$asks" analyst hits ls --all |
        awk -F '\t' -v holder="$holds" '$3 == holder && $4 == "NEW" && !n++ { print $1 }')
    if [[ -z $hit ]]; then
        say "$asks has no hit on $holds to follow up"
        return
    fi
    at "$asks" analyst hits review "$hit" --begin
    at "$asks" analyst hits review "$hit" --confirm --reason 'stands in the case file'
    at "$asks" analyst followup new "$hit" --form "$forms/request.toml"
    id=$(ask "$asks" analyst followup ls | awk -F '\t' -v hit="$hit" '$9 == hit { print $1 }')
    approve "$asks" "$id"
    until_so 'the request does not reach its holder' follow_up_is "$holds" "$id" RECEIVED
    say "$holds has proved that it holds the selector, and has the particulars"
    at "$holds" analyst followup accept "$id"
    approve "$holds" "$id"
    until_so 'the request is not accepted' follow_up_is "$holds" "$id" ACCEPTED
    at "$holds" analyst followup answer "$id" --form "$forms/answer.toml" --attach "$file"
    approve "$holds" "$id"
    until_so 'the answer does not arrive' follow_up_is "$asks" "$id" ANSWERED
    at "$asks" analyst followup read "$id" --save "$work/$asks/answer"
    cmp -s "$file" "$work/$asks/answer/${file##*/}" || fail 'the file is not the one that was sent' "$asks"
    at "$asks" approver followup close "$id"
    until_so 'the audit log does not prove the follow-up' exported "$asks" "$id"
    at "$asks" analyst followup verify "$work/$asks/bundle" --log-key "$log_key"
    say "one hit followed up: answer and file with $asks, bundle and dossier in ${asks}/bundle"
}

if [[ $missed -eq 0 ]]; then follow_up; fi

here=$(printf '%q' "$work")

how_to_stop() {
    local kill="  kill \$(cat $here/*/process.pid)"
    if [[ $with_postgres ]]; then
        # "smart" waits until the brokers have left the ledger.
        printf '%s\n ' "$kill"
        printf ' %q' "${as_server[@]}" "$postgres_bin/pg_ctl" stop --mode smart -D "$postgres/data"
        printf '\n  rm -rf %q %s' "$postgres" "$here"
    else
        printf '%s; rm -rf %s' "$kill" "$here"
    fi
}

if [[ -z $once && $missed -eq 0 && $false_hits -le $bound ]]; then
    cat <<TEXT
The processes stay up. Next, for example:

  export PATH=$(printf '%q' "$programs"):\$PATH
  export SOTTO_NODE_CLIENT=$here/${NODE[a]}/analyst.toml
  sotto-node hits ls
  sotto-node hits watch
  sotto-node followup ls
  sotto-node check --type phone '+44 20 7946 0123' --purpose INVESTIGATION --legal-basis EU_2023_977 --case demo-2
  SOTTO_NODE_CLIENT=$here/${NODE[b]}/data-manager.toml sotto-node dataset ls
  SOTTO_BROKER_CLIENT=$here/operator.toml sotto-broker epoch ls $COMMUNITY

To stop them:

$(how_to_stop)

TEXT
    stay=1
fi

printf 'quickstart: %d hits, %d expected, %d missed, %d false\n' "$found" "$expected" "$missed" "$false_hits"
if [[ $missed -gt 0 ]]; then
    fail 'overlaps were missed' "${NODE[@]}" "${BROKERS[@]}"
elif [[ $false_hits -gt $bound ]]; then
    fail "more false hits than the filters' bound of $bound" "${NODE[@]}" "${BROKERS[@]}"
fi
